"""The batch-size stage: candidates at equal wall-clock time, each with its own lr.

Source: Smith 2018 (arXiv 1803.09820), section 4.2: compare at constant execution time, neither at
equal epochs nor at equal iterations. Ours: time is turned into steps by a calibration, so that a
timed run is exact to repeat; the measured time is then checked against the plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median
from typing import ClassVar, Literal

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.lr_range import LR_FACTOR
from orchestrator.stages.measure import measure, measured
from orchestrator.stages.noise import differences
from orchestrator.stages.ramps import ramp, read, round_to
from orchestrator.stages.stage import Stage, cycle, option, schedule_of
from orchestrator.stages.timed import TimedTrials


@dataclass(frozen=True, kw_only=True)
class BatchSize(Stage):
    """Chooses batch_size together with the max_lr that goes with it."""

    kind: ClassVar[str] = "batch_size"
    gives: ClassVar[tuple[str, ...]] = ("batch_size", "max_lr", "min_lr")

    candidates: tuple[int, ...] = option(
        (), "batch sizes to try; none: powers of two from 16 to `max_size`", item_ge=1
    )
    max_size: int = option(2048, "largest default size; nor above a 20th of the data", ge=1)
    max_sizes: int = option(
        6, "of the default sizes so many are tried, by examples per second", ge=1
    )
    share: float = option(0.5, "time of a trial as a share of the final run's", gt=0, le=1)
    seeds: int = option(2, "seeds a size starts with", ge=1)
    max_seeds: int = option(3, "seeds a close size may get", ge=1)
    ramps: int = option(2, "short range tests per size", ge=1)
    lr_factor: float = option(LR_FACTOR, "max_lr as a share of the last good lr", gt=0, le=1)
    ramp_share: float = option(
        0.1, "length of a range test as a share of the final run", gt=0, le=1
    )
    min_steps: int = option(40, "a range test has at least so many steps", ge=10)
    target: float | None = option(
        None, "metric whose time is told; null: what the worst size reaches in the end"
    )
    tolerance: float = option(
        0.03, "a trial's time may differ from the plan by this share (short ones by their spread)",
        gt=0,
    )  # fmt: skip
    margin: float = option(0.05, "a size this much worse is no tie, however noisy", ge=0, lt=1)
    tie: Literal["incumbent", "paper"] = option("paper", "who wins a tie; paper: the largest")

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Memory probe, calibration, a range test per size, timed trials, repeats where needed."""
        known = {o.run for o in outcomes}
        probe = measure("probe", recipe, self.sizes(recipe))
        if probe not in known:
            return [probe]
        timed, sizes = self._read(outcomes), self._fitting(recipe, outcomes)
        if not timed.seconds.keys() >= set(sizes):
            calibrate = measure("calibrate", recipe, sizes)
            return [] if calibrate in known else [calibrate]  # [] where it has failed
        sizes = self._screened(recipe, timed)
        ramps = [
            self._ramp(recipe, size, replicate)
            for size in sizes
            if size != recipe.batch_size
            for replicate in range(self.ramps)
        ]
        if missing := [run for run in ramps if run not in known]:
            return missing
        return self._more_trials(recipe, sizes, timed)

    def _more_trials(self, recipe: Recipe, sizes: Sequence[int], timed: TimedTrials) -> list[Run]:
        """Return trials that are missing, late ones once more, then a seed more of close sizes."""
        known = {o.run for o in timed.outcomes}
        lrs = self._lrs(recipe, timed)
        steps = self._steps(recipe, timed)
        runs = [
            self._trial(recipe, size, lrs[size], steps[size], replicate)
            for replicate in range(self.seeds)
            for size in sizes
            if size in lrs
        ]
        if missing := [run for run in runs if run not in known]:
            return missing
        late = [
            replace(o.run, attempt=1, label=f"{o.run.label} again")
            for o in timed.attempts
            if o.run.attempt == 0 and not timed.on_time(o)
        ]
        if again := [run for run in late if run not in known]:
            return again
        done = max((len(by) for by in timed.losses.values()), default=0)
        if timed.best is None or done >= self.max_seeds:
            return []
        diffs = differences(timed.losses, timed.best)
        close = [s for s in lrs if s == timed.best or (s in diffs and not diffs[s].worse_by(0))]
        if len(close) < 2:
            return []
        return [self._trial(recipe, size, lrs[size], steps[size], done) for size in close]

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the best size at equal time; among ties the one that `tie` prefers."""
        timed = self._read(outcomes)
        lrs = self._lrs(recipe, timed)
        evidence = {"rows": timed.rows(lrs, self.target)}
        if timed.best is None:
            reason = f"batch_size {recipe.batch_size} stays: no timed trial finished"
            reason += _limit(timed)
            return Decision(
                self.name, self.kind, reason, {"batch_size": recipe.batch_size},
                incumbent_kept=True, evidence=evidence,
            )  # fmt: skip
        near = -math.log1p(-self.margin)
        diffs = differences(timed.losses, timed.best)
        tied = [int(s) for s, d in diffs.items() if d.mean <= near and not d.worse_by(0)]
        pool = sorted({timed.best, *tied})
        chosen = timed.best
        if self.tie == "paper":
            chosen = pool[-1]
        elif recipe.batch_size in pool:
            chosen = recipe.batch_size
        lr = lrs[chosen]
        others = [s for s in pool if s != chosen]
        return Decision(
            stage=self.name,
            kind=self.kind,
            values={"batch_size": chosen, "max_lr": lr, "min_lr": round_to(lr / 10)},
            incumbent_kept=chosen == recipe.batch_size,
            interval=(float(pool[0]), float(pool[-1])) if others else None,
            tied_with=tuple(map(float, others)),
            reason=self._reason(chosen, lr, others, timed),
            evidence=evidence,
        )

    def _read(self, outcomes: Sequence[Outcome]) -> TimedTrials:
        return TimedTrials(outcomes, self.facts, self.tolerance, self.end_loss)

    def _reason(self, chosen: int, lr: float, others: Sequence[int], timed: TimedTrials) -> str:
        loss = mean(timed.losses[chosen].values())
        head = f"batch_size {chosen} (max_lr {lr:.3g}): held-out loss {loss:.3g}"
        if others:
            rule = "the largest is taken" if self.tie == "paper" else "the incumbent goes first"
            text = f"{head} at equal time, a tie with {', '.join(map(str, others))}; {rule}"
        else:
            text = f"{head}, the lowest of {len(timed.losses)} sizes at equal time"
        return text + self._disagreement(timed) + self._disturbance(timed) + _limit(timed)

    def _disturbance(self, timed: TimedTrials) -> str:
        """Say so where the clock could not be trusted."""
        late = sum(not timed.on_time(o) for o in timed.trials)
        if not late:
            return ""
        return (
            f"; but {late} of {len(timed.trials)} trials missed the planned time: something else"
            " ran"
        )

    def _disagreement(self, timed: TimedTrials) -> str:
        """Say so where loss and metric prefer different sizes, as the paper found."""
        metrics: dict[int, list[float]] = {}
        for o in timed.trials:
            if math.isfinite(o.metric) and math.isfinite(o.held_out_loss):
                metrics.setdefault(o.run.batch_size, []).append(o.metric)
        if not metrics or timed.best is None:
            return ""
        sign = 1 if self.facts.larger_is_better else -1
        by_metric = max(metrics, key=lambda s: sign * mean(metrics[s]))
        if by_metric == timed.best:
            return ""
        return f" (by loss {timed.best:g} leads, by {self.facts.metric} {by_metric})"

    def sizes(self, recipe: Recipe) -> list[int]:
        """Return the sizes to try: the candidates and the incumbent, at most the training data."""
        n = self.facts.train_examples
        sizes = [s for s in self.candidates if s <= n]
        if not self.candidates:
            end = max(16, min(self.max_size, n // 20))
            sizes = [2**k for k in range(4, 31) if 2**k <= min(end, n)]
        return sorted({recipe.batch_size, *sizes})

    def _fitting(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[int]:
        fits = measured(outcomes, "probe", "fits")
        end = self._read(outcomes).too_large
        own = recipe.batch_size  # it has trained before, whatever an estimate says
        known = bool(fits)  # else the probe failed: then the runs will tell
        return [s for s in self.sizes(recipe) if s == own or (fits.get(s, not known) and s < end)]

    def _screened(self, recipe: Recipe, timed: TimedTrials) -> list[int]:
        """Return the sizes that are trained: of the default ones the `max_sizes` that gain speed.

        Left out one by one is the size that sees the fewest examples per second more than the next
        smaller one; the smallest and the incumbent stay.
        """
        sizes, seconds = self._fitting(recipe, timed.outcomes), timed.seconds
        while not self.candidates and seconds and len(sizes) > self.max_sizes:
            gains = {
                size: size / seconds[size] * seconds[smaller] / smaller
                for smaller, size in pairwise(sizes)
                if size != recipe.batch_size
            }
            if not gains:
                break
            sizes.remove(min(gains, key=gains.__getitem__))
        return sizes

    def _ramp(self, recipe: Recipe, size: int, replicate: int) -> Run:
        """Return a linear ramp for `size`, up to four times the square-root rule's lr."""
        guess = schedule_of(recipe).max_lr * math.sqrt(size / recipe.batch_size)
        steps = max(self.min_steps, self.facts.steps(self.ramp_share, size))
        at_size = replace(recipe, batch_size=size)
        run = ramp(
            at_size, self.facts, "range_test", guess / 25, round_to(4 * guess), steps, replicate
        )
        return replace(run, label=f"batch size {size} {run.label}")

    def _lrs(self, recipe: Recipe, timed: TimedTrials) -> dict[int, float]:
        """Return max_lr of each size that there is memory for.

        What its ramps say, with the same margin as in the range test.
        """
        lrs = {recipe.batch_size: schedule_of(recipe).max_lr}
        for size in self._screened(recipe, timed):
            ramps = [o for o in timed.outcomes if o.run.kind == "ramp" and o.run.batch_size == size]
            readings = [r for o in ramps if (r := read(o, self.facts.start_loss)) is not None]
            if size not in lrs and readings:
                lrs[size] = round_to(self.lr_factor * median(r.max_lr for r in readings))
        return {size: lr for size, lr in lrs.items() if size < timed.too_large}

    def _steps(self, recipe: Recipe, timed: TimedTrials) -> dict[int, int]:
        """Return the steps per size that take as long as `share` of the incumbent's final run."""
        own = self.facts.steps(self.share, recipe.batch_size)
        budget = own * timed.seconds[recipe.batch_size]
        return {size: max(10, round(budget / s)) for size, s in timed.seconds.items()}

    def _trial(self, recipe: Recipe, size: int, lr: float, steps: int, replicate: int) -> Run:
        at_size = replace(recipe, batch_size=size).at_lr(lr)
        label = f"batch size {size} seed {replicate}"
        return cycle(at_size, steps, replicate, label, timed=True)


def _limit(timed: TimedTrials) -> str:
    """Say so where memory was the limit."""
    end = timed.too_large
    return f"; {end} and larger ran out of memory" if math.isfinite(end) else ""
