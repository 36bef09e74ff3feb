"""Clues: what the shape of a loss curve shows about its run. Pure functions of the curve.

Source: Smith 2018 (arXiv 1803.09820), sections 3 and 4. The goal is the horizontal part of the
test loss, between underfitting and overfitting. A sudden jump, or train and test loss rising
together, is instability and not overfitting. Ours: the thresholds, and that a rise counts as
overfitting only where the learning rate has fallen, since a high rate raises the loss by itself.

Curves may hold NaN or inf, and may have one point or none. Values that are not known are NaN
throughout: a curve of plain Optuna has neither lr nor train loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from orchestrator.curve import Curve, Floats

Label = Literal[
    "diverged", "stuck", "overfitting", "unstable", "underfitting", "horizontal", "short"
]


# The most serious first.
GRAVITY: tuple[Label, ...] = get_args(Label)


@dataclass(frozen=True)
class Clue:
    """What a curve shows, from which step to which, and why, in one sentence with numbers."""

    label: Label
    first_step: int
    last_step: int
    reason: str


@np.errstate(all="ignore")
def diverged(curve: Curve, start_loss: float, above: float = 1.3) -> Clue | None:
    """Loss not finite, or held-out loss above `above` x the untrained one, rising over two points.

    `start_loss`: held-out loss of an untrained model, in the curve's unit (nats). A train loss
    below half of it shows that the network learns: it may overfit, but has not diverged.
    """
    loss = curve.held_out_loss
    broken = ~np.isfinite(loss)
    if _known(curve.train_loss):
        broken |= ~np.isfinite(curve.train_loss)
    if broken.any():
        at = int(np.argmax(broken))
        which = "held-out" if not np.isfinite(loss[at]) else "train"
        return _clue(curve, "diverged", at, at, f"{which} loss is not finite")
    bad = (loss[1:] > above * start_loss) & (loss[1:] > loss[:-1])
    bad &= ~_learns(curve, start_loss)[1:]
    if bad.any():
        at = int(np.argmax(bad)) + 1
        limit = f"{above:g} x the untrained loss ({start_loss:.3g})"
        reason = f"held-out loss {loss[at]:.3g} is above {limit} and rising"
        return _clue(curve, "diverged", at - 1, at, reason)
    return None


@np.errstate(all="ignore")
def stuck(
    curve: Curve, start_loss: float, after: float = 0.25, points: int = 3, near: float = 0.98
) -> Clue | None:
    """The last `points` points or more are at the untrained loss, after the fraction `after`.

    "At" means at least `near` x `start_loss`, with a train loss above half of it (as in
    `diverged`). A run that has left it since then is slow, not stuck.
    """
    at_chance = (curve.held_out_loss >= near * start_loss) & (curve.progress >= after)
    at_chance &= ~_learns(curve, start_loss)
    count = len(curve) if at_chance.all() else int(np.argmin(at_chance[::-1]))
    if count < points:
        return None
    low = curve.held_out_loss[-count:].min()
    reason = (
        f"{count} points in a row at the untrained loss (held-out loss {low:.3g} of"
        f" {start_loss:.3g})"
    )
    return _clue(curve, "stuck", len(curve) - count, len(curve) - 1, reason)


@np.errstate(all="ignore")
def unstable(curve: Curve, jump: float = 1.3, alone: float = 2.0) -> Clue | None:
    """A jump by `jump` x from one point to the next, or held-out and train loss rising together.

    In a jump the train loss must rise too, unless it is not known or the jump is by `alone` x or
    more (the train loss is a mean over many steps and may hide it). Rising together means over
    three points in a row, by 10 % in sum for both. The largest jump is reported. A jump at a high
    lr counts too: the peak lr is then too high.
    """
    loss, train = curve.held_out_loss, curve.train_loss
    if len(curve) < 2:
        return None
    ratio, both = loss[1:] / loss[:-1], train[1:] > train[:-1]
    jumps = ratio > jump if not _known(train) else ((ratio > jump) & both) | (ratio >= alone)
    if jumps.any():
        at = int(np.argmax(np.where(jumps, ratio, 0)))
        rise = f"from {loss[at]:.3g} to {loss[at + 1]:.3g}"
        reason = f"held-out loss jumped {rise} in one point{', train loss too' * bool(both[at])}"
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


@np.errstate(all="ignore")
def overfitting(curve: Curve, rise: float = 1.1, fall: float = 0.9, points: int = 3) -> Clue | None:
    """Held-out loss ends `rise` x above its minimum, train loss below `fall` x what it was there.

    The held-out loss is smoothed by a running median of three points, since the minimum of noisy
    points is low by chance. The last `points` must all be that high. Only the part where lr is
    below half of its maximum counts, since a high rate raises the loss by itself; with a constant
    lr all but the first quarter, with an unknown lr the last quarter. docs/design.md has the runs
    that the thresholds were chosen on.
    """
    loss, train = curve.held_out_loss, curve.train_loss
    if len(curve) < points + 1 or not np.isfinite([loss, train]).all():
        return None
    if not _settled(curve)[-points:].all():
        return None
    loss = _median_of_three(loss)
    best = int(np.argmin(loss))
    if (loss[-points:] > rise * loss[best]).all() and train[-1] < fall * train[best]:
        reason = (
            f"held-out loss rose from {loss[best]:.3g} to {loss[-1]:.3g}"
            f" while train loss fell from {train[best]:.3g} to {train[-1]:.3g}"
        )
        return _clue(curve, "overfitting", best, len(curve) - 1, reason)
    return None


@np.errstate(all="ignore")
def underfitting(curve: Curve, fall: float = 0.05) -> Clue | None:
    """Held-out loss still falling at the end: by `fall` or more per tenth of the run.

    Measured by a line through log loss over the last fifth of the points (at least four). If the
    progress is not known (0 throughout), the curve is assumed to be the whole run.
    """
    start = _last_fifth(curve)
    if start < 1:
        return None
    done = curve.progress if curve.progress[-1] > 0 else curve.step / curve.step[-1]
    drop = 1 - np.exp(0.1 * _slope(done[start:], curve.held_out_loss[start:]))
    if not drop >= fall:  # written so that NaN gives no clue
        return None
    end, share = curve.held_out_loss[-1], 100 * drop
    reason = f"held-out loss {end:.3g} still falls by {share:.0f} % per tenth of the run"
    return _clue(curve, "underfitting", start, len(curve) - 1, reason)


def segments(curve: Curve, start_loss: float) -> tuple[Clue, ...]:
    """Return every clue that holds, at most one of each label, in the order of their first steps.

    The end of the curve is "horizontal" (with fewer than five points "short") unless another clue
    covers it or its loss is not finite: a run may be unstable at its peak and horizontal at its
    end. Never empty.
    """
    if len(curve) == 0:
        return (Clue("short", 0, 0, "no points"),)
    held = (
        diverged(curve, start_loss),
        stuck(curve, start_loss),
        overfitting(curve),
        unstable(curve),
        underfitting(curve),
    )
    found, end = [clue for clue in held if clue is not None], _end(curve)
    level = np.isfinite(curve.held_out_loss[-1])  # otherwise "diverged" is among the clues
    if level and all(clue.last_step < end.first_step for clue in found):
        found.append(end)
    return tuple(sorted(found, key=lambda clue: clue.first_step))


def read(curve: Curve, start_loss: float) -> Clue:
    """Return the most serious of the curve's `segments`."""
    return min(segments(curve, start_loss), key=lambda clue: GRAVITY.index(clue.label))


def _end(curve: Curve) -> Clue:
    """Return the clue of an end of the curve that has no other clue."""
    if len(curve) < 5:
        return _clue(curve, "short", 0, len(curve) - 1, f"only {_points(len(curve))}")
    reason = f"held-out loss stays near {curve.held_out_loss[-1]:.3g} at the end"
    return _clue(curve, "horizontal", _last_fifth(curve), len(curve) - 1, reason)


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _known(values: Floats) -> bool:
    """Whether the values are known: unknown ones are NaN throughout."""
    return not bool(np.isnan(values).all())


def _learns(curve: Curve, start_loss: float) -> NDArray[np.bool_]:
    """Where the train loss is far below chance; nowhere if the train loss is not known."""
    return np.asarray(curve.train_loss < 0.5 * start_loss)


def _settled(curve: Curve) -> NDArray[np.bool_]:
    """Where lr is low, after its peak: there a high rate does not explain a rising loss."""
    lr = curve.lr
    if not np.isfinite(lr).all():
        return np.asarray(curve.progress >= 0.75)
    if np.ptp(lr) <= 1e-9 * lr.max():
        return np.asarray(curve.progress >= 0.25)
    return np.asarray((lr <= 0.5 * lr.max()) & (np.arange(len(lr)) > int(np.argmax(lr))))


def _median_of_three(values: Floats) -> Floats:
    """Running median; the end points do not change."""
    padded = np.pad(values, 1, mode="edge")
    return np.asarray(np.sort([padded[:-2], padded[1:-1], padded[2:]], axis=0)[1])


def _last_fifth(curve: Curve) -> int:
    """Index where the last fifth of the points begins, at least four."""
    return len(curve) - max(4, len(curve) // 5)


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
