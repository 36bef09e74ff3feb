"""Ramps of the LR range test, and what one of them says.

Source: Smith 2018 (arXiv 1803.09820), section 4, and 2015 (arXiv 1506.01186), section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.schedules import CYCLED, Schedule
from orchestrator.stages import suggest
from orchestrator.stages.stage import run_of

POINTS = 40
COST = 0.4  # of all evaluations of a ramp, as a share of its training: half is too much
STOP = 1.3  # x the loss at the start: above this a ramp has nothing more to say
FLAT = 0.02  # a ramp that falls by less than this share of the untrained loss has not moved
# Why a ramp says too little about where the edge is: it broke before it had three points; it
# neither fell nor broke; it fell too little; it did not break.
Problem = Literal["at once", "flat", "too little", "open"]


@dataclass(frozen=True)
class Reading:
    """What one ramp says: its usable points (smoothed), its mark and how far it fell.

    `drop` is a share of the untrained loss; `broke`: it ended above that or not finite; `at_end`:
    the mark is the last point, so the ramp ended too soon.
    """

    lr: Floats
    loss: Floats
    max_lr: float
    drop: float
    broke: bool
    at_end: bool


def ramp(
    recipe: Recipe, facts: Facts, name: str, start: float, end: float, steps: int, replicate: int
) -> Run:
    """Return a ramp of lr from `start` to `end`, at the momentum of the schedule's peak."""
    momentum = recipe.max_momentum
    if recipe.schedule in CYCLED:
        momentum = min(recipe.min_momentum, recipe.max_momentum)
    return run_of(
        recipe,
        Schedule(name, start, end, momentum, momentum),
        steps,
        replicate,
        f"{'ramp' if name == 'range_test' else 'bracket'} to {end:.2g} seed {replicate}",
        points=POINTS,
        cost=COST,
        kind="ramp",
        stop_loss=STOP * facts.start_loss,
        prunable=False,
    )


def read(outcome: Outcome, start_loss: float) -> Reading | None:
    """Return what a ramp says, None if it has no three finite points or never fell.

    `start_loss`: that of the untrained network, `Facts.start_loss`, in the loss's unit.
    """
    lr, loss = usable(outcome)
    if len(lr) < 3 or loss.min() >= start_loss:
        return None
    broke = stopped(outcome) or bool(loss[-1] > start_loss)
    max_lr = suggest.within_drop(lr, loss, start_loss) or float(lr[0])
    return Reading(
        lr=lr,
        loss=loss,
        max_lr=max_lr,
        drop=1 - float(loss.min()) / start_loss,
        broke=broke,
        at_end=max_lr >= lr[-1] and not broke,
    )


def problem(outcome: Outcome, start_loss: float, min_drop: float) -> Problem | None:
    """Return why a ramp says too little about where the edge is, None if it says enough."""
    reading = read(outcome, start_loss)
    if len(usable(outcome)[0]) < 3:
        return "at once"
    if not stopped(outcome) and (reading is None or reading.drop < FLAT):
        return "flat"
    if reading is not None and reading.at_end:
        return "open"
    return "too little" if reading is None or reading.drop < min_drop else None


def fall(outcome: Outcome, start_loss: float) -> float:
    """Return by how much the loss fell below `start_loss`, in logarithms; 0 if it did not."""
    reading = read(outcome, start_loss)
    return 0.0 if reading is None else -math.log1p(-reading.drop)


def usable(outcome: Outcome) -> tuple[Floats, Floats]:
    """Return lr and smoothed held-out loss of the points before the first that is not finite."""
    curve = outcome.curve
    fine = np.isfinite(curve.held_out_loss) & (curve.held_out_loss > 0)
    count = len(curve) if fine.all() else int(np.argmin(fine))
    return curve.lr[:count], suggest.smooth(curve.held_out_loss[:count])


def stopped(outcome: Outcome) -> bool:
    """Whether a ramp ended before its time: by its stop rule, or because the loss was lost."""
    return outcome.reason != "" or len(usable(outcome)[0]) < len(outcome.curve)


def most(said: Iterable[bool]) -> bool:
    """Whether more than half say yes."""
    answers = list(said)
    return 2 * sum(answers) > len(answers)


def round_to(value: float, digits: int = 3) -> float:
    """Return `value` with so many significant digits: more are noise."""
    return float(f"{value:.{digits}g}")
