"""Clues: what the shape of a curve says about its run. Pure functions of the curve.

Source: Smith 2018 (arXiv 1803.09820), sections 3 and 4: the goal is the horizontal part of the
test loss, between underfitting and overfitting; a sudden jump, or train and test loss rising
together, is instability and not overfitting. Ours: the thresholds, and that a rise counts as
overfitting only where the learning rate has fallen, since a high rate raises the loss by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.curve import Curve, Floats

Label = Literal[
    "diverged", "stuck", "unstable", "overfitting", "underfitting", "horizontal", "short"
]


@dataclass(frozen=True)
class Clue:
    """What a curve shows, from which step to which, and why, in one sentence with numbers."""

    label: Label
    first_step: int
    last_step: int
    reason: str


def diverged(curve: Curve, chance_loss: float, above: float = 1.3) -> Clue | None:
    """Loss not finite, or held-out loss above `above` x chance and rising over two points.

    `chance_loss`: held-out loss of a model that knows nothing, in the curve's unit (nats).
    """
    loss = curve.held_out_loss
    broken = ~(np.isfinite(loss) & np.isfinite(curve.train_loss))
    if broken.any():
        at = int(np.argmax(broken))
        which = "held-out" if not np.isfinite(loss[at]) else "train"
        return _clue(curve, "diverged", at, at, f"{which} loss is not finite")
    bad = (loss[1:] > above * chance_loss) & (loss[1:] > loss[:-1])
    if bad.any():
        at = int(np.argmax(bad)) + 1
        limit = f"{above:g} x chance ({chance_loss:.3g})"
        reason = f"held-out loss {loss[at]:.3g} is above {limit} and rising"
        return _clue(curve, "diverged", at - 1, at, reason)
    return None


def stuck(
    curve: Curve, chance_loss: float, after: float = 0.25, points: int = 3, near: float = 0.98
) -> Clue | None:
    """`points` points in a row at chance or above once the share `after` of the run is done.

    At chance means at least `near` x `chance_loss`.
    """
    at_chance = (curve.held_out_loss >= near * chance_loss) & (curve.progress >= after)
    for end in range(points, len(curve) + 1):
        if at_chance[end - points : end].all():
            low = curve.held_out_loss[end - points : end].min()
            reason = (
                f"{points} points in a row at chance (held-out loss {low:.3g} of {chance_loss:.3g})"
            )
            return _clue(curve, "stuck", end - points, end - 1, reason)
    return None


def unstable(curve: Curve, jump: float = 1.3) -> Clue | None:
    """A jump by `jump` x from one point to the next, or held-out and train loss rising together.

    Rising together means over three points in a row, by 10 % in sum for both. The largest rise is
    the one that is named.
    """
    loss, train = curve.held_out_loss, curve.train_loss
    if len(curve) < 2:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = loss[1:] / loss[:-1]
        jumps = (ratio > jump) & (train[1:] > train[:-1])
    if jumps.any():
        at = int(np.argmax(np.where(jumps, ratio, 0)))
        rise = f"from {loss[at]:.3g} to {loss[at + 1]:.3g}"
        reason = f"held-out loss jumped {rise} in one point, train loss too"
        return _clue(curve, "unstable", at, at + 1, reason)
    for start in range(len(curve) - 3):
        span = slice(start, start + 4)
        rising = (np.diff(loss[span]) > 0).all() and (np.diff(train[span]) > 0).all()
        if rising and loss[start + 3] > 1.1 * loss[start] and train[start + 3] > 1.1 * train[start]:
            reason = (
                f"held-out loss rose from {loss[start]:.3g} to {loss[start + 3]:.3g}"
                f" and train loss with it"
            )
            return _clue(curve, "unstable", start, start + 3, reason)
    return None


def overfitting(curve: Curve, rise: float = 1.1, fall: float = 0.8, points: int = 3) -> Clue | None:
    """Held-out loss ends `rise` x above its minimum, train loss below `fall` x what it was there.

    Only where lr has fallen below half of its maximum (or is constant): a rise at a high rate is
    the rate's doing. The last `points` points must all be that high.
    """
    lr = curve.lr
    if len(curve) < points + 1:
        return None
    settled = (lr <= 0.5 * lr.max()) & (np.arange(len(curve)) > int(np.argmax(lr)))
    if np.ptp(lr) <= 1e-9 * lr.max():
        settled = curve.progress >= 0.25
    if not settled[-points:].all():
        return None
    loss, train = curve.held_out_loss, curve.train_loss
    best = int(np.argmin(loss))
    if (loss[-points:] > rise * loss[best]).all() and train[-1] < fall * train[best]:
        reason = (
            f"held-out loss rose from {loss[best]:.3g} to {loss[-1]:.3g}"
            f" while train loss fell from {train[best]:.3g} to {train[-1]:.3g}"
        )
        return _clue(curve, "overfitting", best, len(curve) - 1, reason)
    return None


def underfitting(curve: Curve, fall: float = 0.05) -> Clue | None:
    """Held-out loss still falling at the end: by `fall` or more per tenth of the run.

    Measured by a line through log loss over the last fifth of the points (at least four).
    """
    count = max(4, len(curve) // 5)
    if len(curve) < count + 1:
        return None
    drop = 1 - np.exp(0.1 * _slope(curve.progress[-count:], curve.held_out_loss[-count:]))
    if drop < fall:
        return None
    end, share = curve.held_out_loss[-1], 100 * drop
    reason = f"held-out loss {end:.3g} still falls by {share:.0f} % per tenth of the run"
    return _clue(curve, "underfitting", len(curve) - count, len(curve) - 1, reason)


def read(curve: Curve, chance_loss: float) -> Clue:
    """Return the one clue that says most about the run: the gravest that holds, else "horizontal".

    "short" where the curve has too few points to say.
    """
    if len(curve) == 0:
        return Clue("short", 0, 0, "no points")
    for clue in (
        diverged(curve, chance_loss),
        stuck(curve, chance_loss),
        overfitting(curve),
        unstable(curve),
        underfitting(curve),
    ):
        if clue is not None:
            return clue
    if len(curve) < 5:
        return _clue(curve, "short", 0, len(curve) - 1, f"only {len(curve)} points")
    start = len(curve) - max(4, len(curve) // 5)
    reason = f"held-out loss stays near {curve.held_out_loss[-1]:.3g} at the end"
    return _clue(curve, "horizontal", start, len(curve) - 1, reason)


def _slope(x: Floats, loss: Floats) -> float:
    """Least-squares slope of log loss over x."""
    x = x - x.mean()
    return float(np.sum(x * np.log(np.maximum(loss, 1e-12))) / np.sum(x * x))


def _clue(curve: Curve, label: Label, first: int, last: int, reason: str) -> Clue:
    steps = curve.step
    where = (
        f"step {steps[first]:.0f}"
        if first == last
        else f"steps {steps[first]:.0f}-{steps[last]:.0f}"
    )
    return Clue(label, int(steps[first]), int(steps[last]), f"{reason} ({where})")
