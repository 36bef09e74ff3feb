"""Schedules: pure functions from progress in [0, 1] to (lr, momentum), all with one signature.

The one-cycle schedules of the frameworks differ from the paper's in shape, start, end and momentum.
So each published variant is here under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, pi
from typing import Any, NamedTuple


class Rates(NamedTuple):
    """Learning rate and momentum, both per step."""

    lr: float
    momentum: float


def paper(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return the 1cycle policy: two linear legs of equal length in 90 % of the run, then a tail.

    lr goes `min_lr` -> `max_lr` -> `min_lr`, momentum the other way. In the tail lr falls to
    `min_lr` / 1000 at the largest momentum. Source: Smith 2018 (arXiv 1803.09820), section 4. The
    paper's cycles fill 83-96 % of the run; 90 % and a linear tail are our choice.
    """
    legs, tail_end = 0.9, 1e-3
    if progress > legs:
        fallen = (progress - legs) / (1 - legs)
        return Rates(min_lr * (1 - fallen * (1 - tail_end)), max_momentum)
    height = 1 - abs(2 * progress / legs - 1)  # 0 -> 1 -> 0 over the two legs
    return Rates(
        lr=min_lr + height * (max_lr - min_lr),
        momentum=max_momentum - height * (max_momentum - min_momentum),
    )


def author(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return the 1cycle of the author's own Caffe runs: the falling leg continues towards zero.

    Two legs of equal length T in 90 % of the run. lr: `min_lr` -> `max_lr`, then
    max(`max_lr` (2 - t/T), `min_lr` / 1000), and this floor until the end. Momentum: the other way
    over the two legs, then the start of a second cycle of half the amplitude. Source: the solver
    logs in github.com/lnsmith54/hyperParam1 (lr policy "1cycle"; the legs fill 86 and 92 % there;
    the code was not published). 90 % is our choice, to compare with `paper`.
    """
    leg = 2 * progress / 0.9  # 0 -> 1 up, 1 -> 2 down, beyond 2 the tail
    lr = min_lr + leg * (max_lr - min_lr) if leg <= 1 else max(max_lr * (2 - leg), min_lr / 1000)
    fallen = 1 - abs(leg - 1) if leg <= 2 else (leg - 2) / 2
    return Rates(lr, max_momentum - fallen * (max_momentum - min_momentum))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + cos(pi * fraction)) / 2


def _one_cycle_cosine(
    progress: float, peak: float, rates: tuple[float, float, float], momenta: tuple[float, float]
) -> Rates:
    """Two cosine legs that meet at `peak`; `rates` are lr at start, top and end."""
    start, top, end = rates
    high, low = momenta
    if progress <= peak:
        fraction = progress / peak
        return Rates(_cosine(start, top, fraction), _cosine(high, low, fraction))
    fraction = (progress - peak) / (1 - peak)
    return Rates(_cosine(top, end, fraction), _cosine(low, high, fraction))


def fastai(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return fastai's `fit_one_cycle`: cosine legs, peak at 25 %, start max/25, end max/1e5.

    `min_lr` is not used. Source: fastai `callback/schedule.py`.
    """
    return _one_cycle_cosine(
        progress, 0.25, (max_lr / 25, max_lr, max_lr / 1e5), (max_momentum, min_momentum)
    )


def torch(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return `torch.optim.lr_scheduler.OneCycleLR` with its defaults: cosine, peak at 30 %.

    lr starts at max/25 and ends at 1e-4 of that; `min_lr` is not used.
    """
    return _one_cycle_cosine(
        progress, 0.3, (max_lr / 25, max_lr, max_lr / 25e4), (max_momentum, min_momentum)
    )


def linear(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return linear decay of lr to zero after a linear warm-up over 5 % of the run.

    Momentum stays at `max_momentum`; `min_lr` and `min_momentum` are not used. Source: the budgeted
    linear schedule of Li et al. 2020 (arXiv 1905.04753); the warm-up is ours.
    """
    warm_up = 0.05
    height = progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)
    return Rates(max_lr * max(height, 1e-3), max_momentum)  # 1e-3: a first step at lr 0 is wasted


def constant(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return `max_lr` and `max_momentum` throughout."""
    return Rates(max_lr, max_momentum)


def range_test(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return the linear ramp of the LR range test: lr rises min -> max, momentum falls max -> min.

    Source: Smith 2018, section 4 and figure 12 (lr .001 -> .01 with momentum .98 -> .8).
    """
    return Rates(
        min_lr + progress * (max_lr - min_lr),
        max_momentum - progress * (max_momentum - min_momentum),
    )


def exponential_ramp(
    progress: float, min_lr: float, max_lr: float, min_momentum: float, max_momentum: float
) -> Rates:
    """Return the exponential ramp that brackets the useful lr over many decades.

    Source: fastai's `lr_find`; the paper's own ramp is linear (`range_test`).
    """
    return Rates(
        min_lr * (max_lr / min_lr) ** progress,
        max_momentum - progress * (max_momentum - min_momentum),
    )


Variant = Callable[[float, float, float, float, float], Rates]
VARIANTS: dict[str, Variant] = {
    f.__name__: f
    for f in (paper, author, fastai, torch, linear, constant, range_test, exponential_ramp)
}
# Under these the momentum is lowest where lr is highest; the others hold it at max_momentum.
CYCLED = frozenset({"paper", "author", "fastai", "torch"})


@dataclass(frozen=True)
class Schedule:
    """A named schedule with its bounds: `at(progress)` returns lr and momentum.

    Args:
        name: "paper", "author", "fastai", "torch", "linear" or "constant"; for range tests
            "range_test" or "exponential_ramp".
        min_lr: Lowest learning rate of the cycle, per step.
        max_lr: Highest learning rate, per step.
        min_momentum: Momentum where lr is highest, if the schedule cycles it.
        max_momentum: Momentum where lr is lowest, or throughout.

    Raises:
        ValueError: An unknown name, NaN, or bounds out of order.

    >>> cycle = Schedule("paper", min_lr=0.01, max_lr=0.1, min_momentum=0.85, max_momentum=0.95)
    >>> lr, momentum = cycle.at(0.45)  # lr peaks where momentum is lowest
    >>> lr, round(momentum, 3)
    (0.1, 0.85)
    >>> Schedule("one", 0.01, 0.1, 0.85, 0.95)
    Traceback (most recent call last):
    ValueError: unknown schedule 'one', choose one of ...
    """

    name: str
    min_lr: float
    max_lr: float
    min_momentum: float
    max_momentum: float

    def __post_init__(self) -> None:
        if self.name not in VARIANTS:
            raise ValueError(f"unknown schedule {self.name!r}, choose one of {', '.join(VARIANTS)}")
        if not 0 < self.min_lr <= self.max_lr < inf:  # written so that NaN is refused too
            raise ValueError(f"need 0 < min_lr <= max_lr < inf, got {self.min_lr}, {self.max_lr}")
        if not 0 <= self.min_momentum <= self.max_momentum < 1:
            raise ValueError(
                "need 0 <= min_momentum <= max_momentum < 1,"
                f" got {self.min_momentum}, {self.max_momentum}"
            )

    def at(self, progress: float) -> Rates:
        """Return lr and momentum at `progress`.

        Args:
            progress: The fraction of the run done, in [0, 1].

        Returns:
            `Rates`, a named tuple (lr, momentum).

        Raises:
            ValueError: `progress` is outside [0, 1] or NaN.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be a fraction in [0, 1], got {progress=}")
        return VARIANTS[self.name](
            progress, self.min_lr, self.max_lr, self.min_momentum, self.max_momentum
        )

    def spec(self) -> dict[str, Any]:
        """Return name and bounds as a dict."""
        return dict(vars(self))
