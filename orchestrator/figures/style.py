"""Colours and axis ranges of all figures.

The colours are Okabe and Ito's, which colour-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from orchestrator.curve import Floats
from orchestrator.figures.figure import Axis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
SOFT = "#777777"
PROGRESS = Axis("progress of the run", range=(0, 1.03))


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour per name, in their order."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def loss_axis(losses: Iterable[Floats], label: str = "held-out loss") -> Axis:
    """Return a loss axis for runs that train; a diverged run goes beyond its top."""
    parts = [finite for loss in losses if len(finite := loss[np.isfinite(loss)])]
    if not parts:
        return Axis(label)
    low = min(float(loss.min()) for loss in parts)
    high = max(float(loss.max()) for loss in parts)
    start = max(float(loss[0]) for loss in parts)
    high = min(high, max(1.25 * start, low + 1e-9))
    if low > 0 and high > 3 * low:  # final losses are compared: keep their differences visible
        return Axis(label, True, (low / 1.1, high * 1.1))
    room = 0.05 * max(high - low, 1e-9 + abs(low) * 1e-3)
    return Axis(label, range=(low - room, high + room))


def both_axis(held_out: Sequence[Floats], train: Iterable[Floats]) -> Axis:
    """Return an axis for both losses, chosen for the held-out loss.

    A train loss near zero would flatten all else, so it may go below the axis.
    """
    finite = [loss[np.isfinite(loss)] for loss in held_out]
    least = min((float(loss.min()) for loss in finite if len(loss)), default=0.0)
    floored = (np.maximum(loss, 0.3 * least) for loss in train)
    return loss_axis([*held_out, *floored], "loss")


def log_axis(label: str, values: Iterable[Floats]) -> Axis:
    """Return a logarithmic axis with the range of all values above 0."""
    flat = np.concatenate([*values, np.empty(0)])
    flat = flat[np.isfinite(flat) & (flat > 0)]
    if not len(flat):
        return Axis(label, log=True)
    return Axis(label, True, (float(flat.min()) / 1.15, float(flat.max()) * 1.15))
