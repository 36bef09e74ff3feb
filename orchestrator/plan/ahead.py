"""What later stages are expected to ask for, to be trained while workers are idle.

The study is played on in made-up worlds (see `estimate`). What most of them ask for is likely to be
asked for. The worlds know nothing of results that are not there, so this decides nothing: a run is
either asked for later, and then it is there, or it was trained in vain. What is trained in vain is
limited to a share of the budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.curve import Outcome
from orchestrator.plan.estimate import Play
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.pace import Pace
from orchestrator.recipe import Run

log = logging.getLogger(__name__)
LIKELY = 0.5  # share of the worlds that ask for a run
SHORTEST = 2.0  # seconds: while shorter runs are trained, playing would take longer than they do
MEASURING = ("probe", "calibrate")
Shape = tuple[str, str, int, int]


@dataclass
class RunAhead:
    """Finds runs to train ahead, and counts what was trained in vain.

    `price`: of runs, by what has been trained. `final_runs`: the budget, None: what the study has
    cost so far and one more. `share` of it may be trained in vain. `prunes`: whether runs are
    pruned, by comparison with those of earlier rounds; then only runs without such are trained
    ahead, since their outcomes are the same whatever comes before.
    """

    pace: Pace
    price: Callable[[Sequence[Outcome]], FinalRuns]
    final_runs: float | None
    share: float
    prunes: bool
    vain: dict[Run, float] = field(default_factory=dict)  # prices of runs not asked for so far
    needed: int = 0  # runs that were asked for later

    def pays(self, now: Sequence[Run]) -> bool:
        """Whether `now` are trained for long enough: looking ahead takes about a second."""
        prices = self.pace.prices() if self.share else None
        return prices is not None and max(map(prices.of, now), default=0.0) >= SHORTEST

    def runs(self) -> Sequence[tuple[str, int, Run]]:
        """Return what to train, with its stage and its place in the round.

        If none of it is asked for, no more than `share` is in vain.
        """
        prices = self.price(self.pace.outcomes)
        spent = prices.spent(self.pace.outcomes)
        left = self.share * (self.final_runs or spent + 1) - sum(self.vain.values())
        found = []
        for stage, place, run in self._likely(self.pace.coming()):
            price = prices.of(run)
            if price <= left and run not in self.vain:
                left -= price
                found.append((stage, place, run))
        return found

    def _likely(self, plays: Sequence[Play]) -> list[tuple[str, int, Run]]:
        """Return what at least the share `LIKELY` of the worlds ask for, shorter runs first."""
        asked: dict[Run, tuple[str, int]] = {}
        counts: dict[Run, int] = {}
        for play in plays:
            whole = {run for rounds in play.rounds.values() for runs in rounds for run in runs}
            mine = set[Run]()
            for stage, rounds in play.rounds.items():
                compared = set[Shape]()  # what runs of this stage would be compared with
                for runs in rounds:
                    if any(_measures(run) and self.pace.known(run) is None for run in runs):
                        break  # what comes then depends on the measurement
                    for place, run in enumerate(runs):
                        pruned = self.prunes and run.prunable and _shape(run) in compared
                        # What only tests a network that another run trains waits for it.
                        if run not in mine and not pruned and run.goes_on_from not in whole:
                            mine.add(run)
                            asked.setdefault(run, (stage, place))
                    compared |= set(map(_shape, runs))
            for run in mine:
                counts[run] = counts.get(run, 0) + 1
        likely = [run for run in asked if counts[run] >= LIKELY * len(plays)]
        return [(*asked[run], run) for run in sorted(likely, key=lambda run: run.examples)]

    def started(self, run: Run) -> None:
        """Note that a run is trained ahead."""
        self.vain[run] = self.price(self.pace.outcomes).of(run)

    def asked(self, run: Run) -> None:
        """Note that a stage asks for a run."""
        if self.vain.pop(run, None) is not None:
            self.needed += 1

    def told(self) -> list[str]:
        """Return a sentence on what was trained ahead, [] for nothing."""
        number, price = self.needed + len(self.vain), sum(self.vain.values())
        if not number:
            return []
        return [
            f"Idle workers began {number} runs ahead of their stages; {len(self.vain)} of them were"
            f" not asked for, the price of {price:.2g} final runs."
        ]


def _shape(run: Run) -> Shape:
    """Return what runs have in common that a pruner compares (see `pruners.peers`)."""
    return run.kind, run.schedule.name, run.steps, run.points


def _measures(run: Run) -> bool:
    return run.timed or run.kind in MEASURING
