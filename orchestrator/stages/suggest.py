"""Suggestion rules for the LR range test, all with one signature, to be shown side by side.

Each takes `lr` and `loss`, arrays of shape (points,), lr increasing, loss finite and smoothed, and
`start_loss`, that before training, in the loss's unit. Each returns a learning rate, or None
where its mark does not exist.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator.curve import Floats

Rule = Callable[[Floats, Floats, float], float | None]


def smooth(loss: Floats, half_width: int | None = None) -> Floats:
    """Return the geometric moving average over 2 `half_width` + 1 points; shape as `loss`.

    The window is symmetric and shrinks towards both ends, so that nothing is shifted along the lr
    axis, as the running averages of most range tests do. Default half width: a twentieth of the
    points. Non-finite values stay as they are and take no part in their neighbours' averages.
    """
    half = max(1, len(loss) // 20) if half_width is None else half_width
    out = loss.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(loss)
    for i in range(len(loss)):
        if not np.isfinite(logs[i]):
            continue
        reach = min(half, i, len(loss) - 1 - i)
        window = logs[i - reach : i + reach + 1]
        out[i] = np.exp(window[np.isfinite(window)].mean())
    return out


def within_drop(
    lr: Floats, loss: Floats, start_loss: float, drop: float = 0.2, level: float = 0.1
) -> float | None:
    """Return the last lr whose loss stays near the minimum: the default rule, before its margin.

    Near means within the smaller of `drop` x (start - minimum) and `level` x minimum, without a
    break from the minimum on.
    """
    low = int(np.argmin(loss))
    limit = loss[low] + min(drop * (start_loss - loss[low]), level * loss[low])
    last = low
    while last + 1 < len(loss) and loss[last + 1] <= limit:
        last += 1
    return float(lr[last])


def smoothed_minimum(lr: Floats, loss: Floats, start_loss: float) -> float | None:
    """Return the lr of the lowest loss."""
    return float(lr[np.argmin(loss)])


def minimum_tenth(lr: Floats, loss: Floats, start_loss: float) -> float | None:
    """Return a tenth of the lr of the lowest loss (fastai's `minimum`)."""
    return float(lr[np.argmin(loss)]) / 10


def steepest(lr: Floats, loss: Floats, start_loss: float) -> float | None:
    """Return the lr where loss falls fastest per unit of log lr (fastai's `steep`, Lightning)."""
    if len(lr) < 3:
        return None
    return float(lr[np.argmin(np.gradient(loss, np.log(lr)))])


def valley(lr: Floats, loss: Floats, start_loss: float) -> float | None:
    """Return the lr halfway down the longest valley: fastai's default rule.

    The valley is the longest falling subsequence of the losses; the mark lies at its middle, as in
    fastai `callback/schedule.py`.
    """
    n = len(loss)
    length, start = np.ones(n, int), np.arange(n)
    for i in range(1, n):
        for j in range(i):
            if loss[i] < loss[j] and length[i] < length[j] + 1:
                length[i], start[i] = length[j] + 1, start[j]
    end = int(np.argmax(length))
    if length[end] < 3:
        return None
    third = (end - start[end]) / 3
    return float(lr[start[end] + int(third) + int(third / 2)])


def longest_slide(lr: Floats, loss: Floats, start_loss: float) -> float | None:
    """Return the lr at the end of the longest unbroken fall of the loss."""
    best, begin = (0, 0), 0
    for i in range(1, len(loss) + 1):
        if i == len(loss) or loss[i] >= loss[i - 1]:
            best = max(best, (i - 1 - begin, i - 1))
            begin = i
    return float(lr[best[1]]) if best[0] >= 2 else None


RULES: dict[str, Rule] = {
    f.__name__: f
    for f in (within_drop, smoothed_minimum, minimum_tenth, steepest, valley, longest_slide)
}
