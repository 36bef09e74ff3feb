"""What the outcomes of a batch-size stage say: times, losses, and the table for the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean, median
from typing import Any

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.recipe import Facts, Run
from orchestrator.stages.measure import measured
from orchestrator.stages.ramps import round_to

LONG = 5.0  # seconds: a shorter trial's time is not known to `tolerance`


@dataclass(frozen=True)
class TimedTrials:
    """Trials of equal planned time, read from all of the stage's outcomes so far.

    `tolerance`: share by which a trial's time may differ from the plan. `end_loss` gives the loss
    that a trial is judged by, inf if it was lost.
    """

    outcomes: Sequence[Outcome]
    facts: Facts
    tolerance: float
    end_loss: Callable[[Outcome], float]

    @cached_property
    def seconds(self) -> dict[int, float]:
        """Seconds per step by batch size, {} before the calibration."""
        return measured(self.outcomes, "calibrate", "seconds_per_step")

    @cached_property
    def too_large(self) -> float:
        """The smallest size that ran out of memory, inf if none did.

        A calibration, which holds all its sizes at once, counts as its largest.
        """
        return min((o.run.batch_size for o in self.outcomes if o.out_of_memory), default=math.inf)

    @cached_property
    def attempts(self) -> list[Outcome]:
        """The trials of sizes that there is memory for on every seed, every attempt at each."""
        trials = [o for o in self.outcomes if o.run.kind == "train"]
        return [o for o in trials if o.run.batch_size < self.too_large]

    @cached_property
    def trials(self) -> list[Outcome]:
        """The trials, of repeated ones the last attempt that finished, if one did."""
        last: dict[Run, Outcome] = {}
        for o in self.attempts:
            first = replace(o.run, attempt=0)
            if o.state == "finished" or first not in last:
                last[first] = o
        return list(last.values())

    @cached_property
    def losses(self) -> dict[float, dict[int, float]]:
        """End losses by batch size and replicate, inf where a trial was lost."""
        losses: dict[float, dict[int, float]] = {}
        for o in self.trials:
            losses.setdefault(o.run.batch_size, {})[o.run.replicate] = self.end_loss(o)
        return losses

    @cached_property
    def best(self) -> int | None:
        """The size with the lowest mean over the replicates that all sound sizes have."""
        sound = {s: by for s, by in self.losses.items() if all(map(math.isfinite, by.values()))}
        if not sound:
            return None
        shared = set.intersection(*(set(by) for by in sound.values()))
        return int(min(sound, key=lambda s: mean(sound[s][r] for r in shared)))

    def on_time(self, o: Outcome) -> bool:
        """Whether a finished trial took the planned time.

        Within `tolerance`; a short one also within three times the spread of the calibration's
        rounds (half an interquartile range: three of them hold 95 % of what is normal).

        As the calibration measured in turn with the other sizes, or else as slow as the median of
        all trials: a machine that has become slower for all of them leaves the comparison fair.
        """
        if o.state != "finished":
            return True
        allowed = self.tolerance
        if o.result.seconds < LONG:
            spread = measured(self.outcomes, "calibrate", "spread")
            allowed = max(allowed, 3 * spread.get(o.run.batch_size, 0.0))
        slowness = self._slowness(o)
        return min(abs(slowness - 1), abs(slowness / self._usual - 1)) <= allowed

    def _slowness(self, o: Outcome) -> float:
        """Return time over planned time."""
        return o.result.seconds / (o.run.steps * self.seconds[o.run.batch_size])

    @cached_property
    def _usual(self) -> float:
        """The median slowness of all trials that finished."""
        return median(self._slowness(o) for o in self.trials if o.state == "finished")

    # --- the table

    def rows(self, lrs: dict[int, float], target: float | None) -> list[dict[str, Any]]:
        """Return a row for each size; `target` is the metric whose time is told.

        None: what the worst size that trained reaches in the end.
        """
        memory, peak = measured(self.outcomes, "probe", "bytes"), "peak memory in MiB"
        if any(o.result.measured.get("estimated") for o in self.outcomes if o.run.kind == "probe"):
            peak += " (estimated)"
        target = self._worst_end if target is None else target
        rows = []
        for size, by in sorted(self.losses.items()):
            trials = [o for o in self.trials if o.run.batch_size == size]
            finished = [o for o in trials if math.isfinite(o.held_out_loss)]
            row: dict[str, Any] = {
                "batch_size": int(size),
                "max_lr": lrs.get(int(size)),
                "steps": trials[0].run.steps,
                "examples per second": round(size / self.seconds[int(size)]),
                "seconds": mean(o.result.seconds for o in trials),
                "on time": f"{sum(map(self.on_time, trials))} of {len(trials)}",
                "seeds": len(by),
                "held_out_loss": mean(o.held_out_loss for o in finished) if finished else None,
            }
            if self.facts.metric:
                metrics = [o.metric for o in finished if math.isfinite(o.metric)]
                row[self.facts.metric] = mean(metrics) if metrics else None
            if target is not None:
                times = [t for o in finished if (t := self._reached(o, target)) is not None]
                name = f"seconds to {self.facts.metric or 'loss'} {target:.3g}"
                row[name] = mean(times) if times and len(times) == len(finished) else None
            if need := memory.get(int(size)):
                row[peak] = round_to(need / 2**20)
            rows.append(row)
        return rows

    def _course(self, o: Outcome) -> Floats:
        """Return the measure by which time to target is told, larger is better: (points,)."""
        if not self.facts.metric:
            return -o.curve.held_out_loss
        return o.curve.metric if self.facts.larger_is_better else -o.curve.metric

    @property
    def _worst_end(self) -> float | None:
        """The mean end of the worst size that trained, None if none did."""
        ends: dict[int, list[float]] = {}
        for o in self.trials:
            if math.isfinite(self.end_loss(o)) and math.isfinite(end := self._course(o)[-1]):
                ends.setdefault(o.run.batch_size, []).append(float(end))
        if not ends:
            return None
        worst = min(map(mean, ends.values()))
        return worst if self.facts.metric and self.facts.larger_is_better else -worst

    def _reached(self, o: Outcome, target: float) -> float | None:
        """Return the training seconds after which the target was first reached, None if never."""
        sign = 1 if self.facts.metric and self.facts.larger_is_better else -1
        there = np.flatnonzero(self._course(o) >= sign * target)
        return float(o.curve.seconds[there[0]]) if there.size else None
