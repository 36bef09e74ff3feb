"""What runs cost in final runs: the unit H, training and evaluation of one final run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from orchestrator.curve import Outcome
from orchestrator.plan.prices import FORWARD, progress
from orchestrator.recipe import Facts, Run
from orchestrator.stages.measure import measured
from orchestrator.stages.stage import CYCLE, held_out_share


@dataclass(frozen=True)
class FinalRuns:
    """The prices of runs, in final runs of batch size `batch_size`.

    Examples count, those of evaluations a third each; of runs with another batch size, examples
    count by the seconds that they took in `outcomes`. `test_examples`: size of the sealed test.
    `continues`: whether the objective starts a sealed run from the kept end of the same run.
    """

    facts: Facts
    batch_size: int
    test_examples: int
    outcomes: Sequence[Outcome]
    continues: bool = True

    def of(self, run: Run, share: float = 1.0) -> float:
        """Return the price of a run of which `share` is done."""
        if run.kind not in ("train", "ramp"):
            return self._measuring(run)
        # A sealed run goes on from the end of its full run.
        if self.continues and run.goes_on_from and self._is_there(run):
            return FORWARD * self.test_examples / self._unit
        evaluated = self._evaluated(run)
        trained = run.examples * self._slowness(run.batch_size)
        tested = self.test_examples if run.opens_test else 0
        return (share * (trained + FORWARD * evaluated) + FORWARD * tested) / self._unit

    def spent(self, outcomes: Iterable[Outcome]) -> float:
        """Return the price of runs that have ended, each counted once."""
        once = {o.key: o for o in outcomes}.values()
        return sum(self.of(o.run, progress(o)) for o in once)

    @cached_property
    def _unit(self) -> float:
        """Examples of a final run, its evaluations counted in."""
        points, shown = held_out_share(round(self.facts.final_examples), *CYCLE)
        evaluated = points * min(shown, self.facts.held_out_examples)
        return self.facts.final_examples + FORWARD * evaluated

    def _evaluated(self, run: Run) -> int:
        all_ = self.facts.held_out_examples
        return min(run.points, run.steps) * min(run.held_out_examples or all_, all_)

    def _is_there(self, run: Run) -> bool:
        """Whether the same run without the sealed test has ended."""
        return any(
            o.run.kept and o.run.params() == run.params() and o.state == "finished"
            for o in self.outcomes
            if not o.run.opens_test
        )

    @cached_property
    def _seconds(self) -> dict[int, float]:
        """Seconds of an example by batch size, as trained so far."""
        found = defaultdict(list)
        for o in self.outcomes:
            for size, seconds in o.result.measured.get("seconds_per_step", {}).items():
                found[int(size)].append(seconds / int(size))
            if o.result.examples and o.result.seconds > 0:
                found[o.run.batch_size].append(o.result.seconds / o.result.examples)
        return {size: median(each) for size, each in found.items()}

    @cached_property
    def _calibrations(self) -> list[dict[int, float]]:
        """Seconds of a step by batch size, of each calibration, the latest first."""
        found = (measured([o], "calibrate", "seconds_per_step") for o in reversed(self.outcomes))
        return [seconds for seconds in found if seconds]

    def _slowness(self, batch_size: int) -> float:
        """Return the seconds of an example with a batch size, over those with the unit's.

        By the latest calibration of both sizes: it takes them in turn, while other programs slow
        down one run more than another. Without one by the runs of each.
        """
        if batch_size == self.batch_size:
            return 1.0
        for seconds in self._calibrations:
            if {batch_size, self.batch_size} <= seconds.keys():
                per_step = seconds[batch_size] / seconds[self.batch_size]
                return per_step * self.batch_size / batch_size
        own, other = self._seconds.get(self.batch_size), self._seconds.get(batch_size)
        return other / own if own and other else 1.0

    def _measuring(self, run: Run) -> float:
        """Return the price of a probe or calibration, by the seconds that it took."""
        own = self._seconds.get(self.batch_size)
        took = next((o.result.seconds for o in self.outcomes if o.run == run), 0.0)
        return took / own / self._unit if own else 0.0
