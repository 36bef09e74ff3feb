"""Reads a plain Optuna study for the clue pruner: a trial's reports, the best complete trial."""

from __future__ import annotations

import math
import warnings

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.curve import Point


def best_complete(study: optuna.Study, step: int, total_steps: int | None) -> float:
    """Return the lowest loss up to `step` of the best complete trial, NaN without one.

    `total_steps`: see `CluePruner`. Warns if all complete trials end at another step.
    """
    complete, length = _complete(study), _length(study, total_steps)
    ended = [t for t in complete if _is_whole(t, length)]
    if complete and not ended and total_steps is not None:
        warnings.warn(
            f"complete trials end at step {complete[-1].last_step}, and total_steps is"
            f" {total_steps}: no trial is compared with them; give the step of the last report",
            stacklevel=2,
        )
    best = min(ended, key=lambda t: t.intermediate_values[t.last_step or 0], default=None)
    losses = best.intermediate_values if best else {}
    return min((loss for at, loss in losses.items() if at <= step), default=math.nan)


def reported(study: optuna.Study, trial: FrozenTrial, total_steps: int | None) -> list[Point]:
    """Return what was reported by `trial.report`. Raises ValueError for a study that maximizes."""
    if study.direction == StudyDirection.MAXIMIZE:
        raise ValueError(
            "CluePruner reads held-out losses, and this study maximizes: report the loss in a"
            " study that minimizes, or call `observe` with the loss before `trial.report`"
        )
    total = _length(study, total_steps)
    return [
        Point(
            step=step,
            progress=min(1.0, step / total) if total else 0.0,
            lr=math.nan,
            momentum=math.nan,
            train_loss=math.nan,
            held_out_loss=loss,
        )
        for step, loss in sorted(trial.intermediate_values.items())
    ]


def _length(study: optuna.Study, total_steps: int | None) -> int | None:
    """Return the last step of a whole run, None if it is not known."""
    if total_steps is not None:
        return total_steps
    lasts = {t.last_step for t in _complete(study)}
    return lasts.pop() if len(lasts) == 1 else None


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in trials if t.intermediate_values]


def _is_whole(trial: FrozenTrial, length: int | None) -> bool:
    """Whether a trial ended at its last step, `length`, or one before where steps count from 0."""
    if length is None:
        return False
    return trial.last_step == length - (0 in trial.intermediate_values) or trial.last_step == length
