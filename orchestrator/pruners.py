"""Optuna pruners that act on clues; usable from plain Optuna too."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import optuna

from orchestrator import clues
from orchestrator.curve import Curve, Point
from orchestrator.stages.stage import option


@dataclass(frozen=True, kw_only=True)
class ClueRules:
    """When a run's own curve says that it is lost. All rules are safe while the lr is high."""

    above_chance: float = option(1.3, "stop when rising above this x chance loss", gt=1)
    stuck_after: float = option(0.25, "share of the run after which chance is lost", ge=0, le=1)
    stuck_points: int = option(3, "points in a row at chance that stop a run", ge=1)


class CluePruner(optuna.pruners.BasePruner):
    """Prunes a trial by its own curve: not finite, above chance and rising, or stuck at chance.

    It needs no other trials, so it works in a stage of four candidates, where Optuna's median
    pruner can never act (it waits for five finished trials).

    In plain Optuna it sees what `trial.report(held_out_loss, step)` gave. `chance_loss` is the
    loss of a model that knows nothing (ln C for C classes); None: the first reported value stands
    in for it. `total_steps` is the step of the last report; None: stuck is not looked for. A caller
    with more to say (train loss, lr, progress) hands it over by `observe` before reporting.
    """

    def __init__(
        self,
        rules: ClueRules | None = None,
        *,
        chance_loss: float | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.rules = rules or ClueRules()
        self.chance_loss = chance_loss
        self.total_steps = total_steps
        self._points: dict[int, list[Point]] = defaultdict(list)
        self._reasons: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"CluePruner({self.rules})"

    def observe(self, trial_number: int, point: Point) -> None:
        """Take one measurement of a trial, more than Optuna's own report can carry."""
        self._points[trial_number].append(point)

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether the trial is lost; `reason` then says why."""
        points = self._points.get(trial.number) or self._reported(trial)
        if not points:
            return False
        curve = Curve.of(points)
        chance = self.chance_loss
        if chance is None or not math.isfinite(chance):
            chance = points[0].held_out_loss
        clue = clues.diverged(curve, chance, self.rules.above_chance) or clues.stuck(
            curve, chance, self.rules.stuck_after, self.rules.stuck_points
        )
        if clue is None:
            return False
        self._reasons[trial.number] = f"{clue.label}: {clue.reason}"
        return True

    def reason(self, trial_number: int) -> str:
        """Return why the trial was pruned, "" if it was not."""
        return self._reasons.get(trial_number, "")

    def forget(self, trial_number: int) -> None:
        """Drop what is kept of a trial that has ended."""
        self._points.pop(trial_number, None)
        self._reasons.pop(trial_number, None)

    def _reported(self, trial: optuna.trial.FrozenTrial) -> list[Point]:
        total = self.total_steps
        return [
            Point(
                step=step,
                progress=min(1.0, step / total) if total else 0.0,
                lr=math.nan,
                momentum=math.nan,
                train_loss=loss,  # not known; the held-out loss stands in, so that NaN is seen
                held_out_loss=loss,
            )
            for step, loss in sorted(trial.intermediate_values.items())
        ]
