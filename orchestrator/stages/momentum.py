"""The momentum stage: short runs at .99, .97, .95, .9. Source: Smith 2018, section 4.3.

Under a schedule that holds momentum constant, momentum and lr are one choice: each candidate gets
the max_lr that its own short ramps find, since scaling by lr / (1 - momentum) is not enough (on the
digits the best lr / (1 - m) fell from 1.1 at .9 to .2 at .99). Under a schedule that cycles it, all
candidates run at the same momentum where lr is highest: the range test's max_lr holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar

from orchestrator.recipe import Recipe, Run
from orchestrator.schedules import CYCLED
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.lr_range import LR_FACTOR
from orchestrator.stages.ramps import Reading, ramp, read, round_to
from orchestrator.stages.stage import Seen, option, schedule_of


@dataclass(frozen=True, kw_only=True)
class Momentum(CandidateStage):
    """Chooses max_momentum; the cycle's minimum stays below it, its place hardly matters."""

    kind: ClassVar[str] = "momentum"
    gives: ClassVar[tuple[str, ...]] = ("max_momentum", "min_momentum", "max_lr", "min_lr")
    field: ClassVar[str] = "max_momentum"

    candidates: tuple[float, ...] = option(
        (0.99, 0.97, 0.95, 0.9), "values of max_momentum to try", min_length=1, item_ge=0, item_lt=1
    )
    ramps: int = option(
        2, "range tests per candidate if momentum is constant, after a first that aims", ge=1
    )
    ramp_share: float = option(
        0.15, "length of such a range test as a share of the final run", gt=0, le=1
    )
    min_steps: int = option(80, "and at least so many steps", ge=10)
    lr_factor: float = option(LR_FACTOR, "max_lr as a share of the last good lr", gt=0, le=1)

    def variant(self, seen: Seen, value: float) -> Recipe:
        """Return the recipe at another max_momentum, with the max_lr that goes with it."""
        lr = self._lr(seen, value)
        at_lr = seen.recipe if lr is None or lr == seen.recipe.max_lr else seen.recipe.at_lr(lr)
        return replace(at_lr, max_momentum=value, min_momentum=min(seen.recipe.min_momentum, value))

    def values(self, seen: Seen) -> list[float]:
        """Return the momenta to compare: those for which there is a max_lr."""
        values = super().values(seen)
        return [v for v in values if self._lr(seen, v) is not None]

    def prepare(self, seen: Seen) -> list[Run]:
        """Constant momentum: a ramp per candidate that aims, then those that measure."""
        known, others = seen.known, self._retested(seen.recipe)
        aims = [self._aim(seen.recipe, v) for v in others]
        if missing := [run for run in aims if run not in known]:
            return missing
        measures = [run for v in others for run in self._measures(seen, v)]
        return [run for run in measures if run not in known]

    def remark(self, seen: Seen, value: float) -> str:
        """Say which momenta were tried at which max_lr."""
        lrs = {v: self._lr(seen, v) for v in self._retested(seen.recipe)}
        if not lrs:
            return ""
        told = [f"{v:g} at {lr:.3g}" if lr else f"{v:g} found none" for v, lr in lrs.items()]
        return f"each momentum at its own max_lr ({', '.join(told)})"

    def _retested(self, recipe: Recipe) -> list[float]:
        """Return the candidates that need a max_lr of their own."""
        if recipe.schedule in CYCLED:
            return []
        return [v for v in self.first_values(recipe) if v != recipe.max_momentum]

    def _aim(self, recipe: Recipe, value: float) -> Run:
        """Return a ramp to where the incumbent's would end, at equal lr / (1 - momentum)."""
        end = round_to(3 * self._scaled(recipe, value) / self.lr_factor)
        return self._ramp(recipe, value, end, 0)

    def _scaled(self, recipe: Recipe, value: float) -> float:
        """Return the incumbent's max_lr at equal lr / (1 - momentum); Adam's steps do not grow."""
        lr = schedule_of(recipe).max_lr
        return lr if recipe.adaptive else lr * (1 - value) / (1 - recipe.max_momentum)

    def _measures(self, seen: Seen, value: float) -> list[Run]:
        """Return the ramps that end at three times the mark of the first, as the range test's do.

        A first ramp that says nothing broke too soon: a tenth of its end is tried.
        """
        aim = self._aim(seen.recipe, value)
        reading = self._reading(seen, aim)
        end = round_to(3 * reading.max_lr if reading else aim.schedule.max_lr / 10)
        return [self._ramp(seen.recipe, value, end, replicate) for replicate in range(self.ramps)]

    def _ramp(self, recipe: Recipe, value: float, end: float, replicate: int) -> Run:
        steps = max(self.min_steps, self.facts.steps(self.ramp_share, recipe.batch_size))
        own = replace(recipe, max_momentum=value)
        run = ramp(own, self.facts, "range_test", end / 100, end, steps, replicate)
        return replace(run, label=f"momentum {value:g} {run.label}")

    def _reading(self, seen: Seen, run: Run) -> Reading | None:
        found = seen.by_run.get(run)
        return read(found, self.facts.start_loss) if found else None

    def _lr(self, seen: Seen, value: float) -> float | None:
        """Return the max_lr of a candidate, None if its ramps found none.

        A larger momentum gets no more than the scaled rate: its velocity builds up over
        1 / (1 - momentum) steps, so that a short ramp breaks too late and reads too high.
        """
        if value not in self._retested(seen.recipe):
            return seen.recipe.max_lr
        runs = self._measures(seen, value)
        marks = [r.max_lr for run in runs if (r := self._reading(seen, run))]
        if not marks:
            return None
        lr = self.lr_factor * median(marks)
        larger = value > seen.recipe.max_momentum
        return round_to(min(lr, self._scaled(seen.recipe, value)) if larger else lr)
