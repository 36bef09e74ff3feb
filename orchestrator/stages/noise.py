"""Differences under noise: which candidates beat the incumbent, and which are tied.

Losses are compared as logarithms, so a difference is a share. Candidates share replicates (same
initial weights, same data order), so differences are paired. The noise is what is left of the log
losses after each candidate's and each replicate's mean is taken out, pooled over the candidates:
with two to four seeds, a spread per candidate would be worth little. A candidate that is much
noisier than the others is judged by its own differences instead, once it has four seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEAST_SEEDS = 3  # to be called better
OWN_SEEDS = 4  # to be judged by its own spread alone
NEAR = 1.25  # a factor: whose distance to the middle moves by less between seeds is steady
AS_NOISY = 3  # so is who is at most so many times as noisy as the others
Losses = Mapping[int, float]  # replicate -> held-out loss at the end


@dataclass(frozen=True)
class Difference:
    """A candidate against the incumbent: mean log ratio of losses, below 0 where it is better.

    `bound` is the half width of its interval: beyond it lies noise only once in 1 / `level` tries,
    over all candidates together. inf where there is nothing to measure the noise with.
    """

    mean: float
    bound: float
    n: int

    def better_by(self, margin: float) -> bool:
        """Whether the candidate's loss is lower by more than `margin` (a share), beyond noise.

        Two seeds are never enough: an erratic candidate looks steady on two too often.
        """
        return self.n >= LEAST_SEEDS and self.mean < self.needed(margin)

    def needed(self, margin: float) -> float:
        """Return the log ratio below which the candidate wins: the margin and the noise."""
        return math.log1p(-margin) - self.bound

    def worse_by(self, margin: float) -> bool:
        """Whether the candidate's loss is higher by more than `margin` (a share), beyond noise."""
        return self.mean - self.bound > -math.log1p(-margin)


def differences(
    losses: Mapping[float, Losses],
    incumbent: float,
    level: float = 0.05,
    also: Sequence[Mapping[float, Losses]] = (),
    comparisons: int = 0,
) -> dict[float, Difference]:
    """Compare each candidate with the incumbent over the replicates that both have.

    A candidate that lost a replicate (loss not finite) is worse by inf: it is not safe. The noise
    of the others says nothing about one that is erratic, or is compared with an erratic incumbent:
    its bound is Student's t over its own differences, inf below `OWN_SEEDS` of them. `also`: other
    comparisons of the same stage (at another horizon), which help to measure the noise. `level` is
    divided over the candidates (Bonferroni), or over `comparisons` if those are more. Returns {} if
    the incumbent has no losses or lost a replicate.
    """
    base = losses.get(incumbent, {})
    if not _whole(base):
        return {}
    steady = _steady(losses)
    sd, df = _noise([steady, *map(_steady, also)])
    others = [v for v in losses if v != incumbent]
    p = 1 - level / max(len(others), comparisons, 1)
    result = {}
    for value in others:
        own = losses[value]
        shared = sorted(set(base) & set(own))
        if not shared or not _whole(own):
            result[value] = Difference(math.inf, 0.0, len(shared))
            continue
        ratios, n = np.array([math.log(own[r] / base[r]) for r in shared]), len(shared)
        bound = math.inf
        if df and value in steady and incumbent in steady:
            bound = t_quantile(p, df) * sd * math.sqrt(2 / n)
        elif n >= OWN_SEEDS:
            bound = t_quantile(p, n - 1) * float(np.std(ratios, ddof=1)) / math.sqrt(n)
        result[value] = Difference(float(np.mean(ratios)), bound, n)
    return result


def _whole(by_replicate: Losses) -> bool:
    return bool(by_replicate) and all(math.isfinite(x) and x > 0 for x in by_replicate.values())


def _steady(losses: Mapping[float, Losses]) -> dict[float, Losses]:
    """Return the candidates that keep their distance to the median candidate over the replicates.

    Within a factor `NEAR`, or nearly as well as the others do: a run that nearly diverged would
    drown what they say about noise, but where all are noisy, that is the noise.
    """
    whole = {v: by for v, by in losses.items() if _whole(by)}
    level = _fit(whole).level  # candidates may have different seeds, so their levels come first
    rest = {v: {r: math.log(x) - level[v] for r, x in by.items()} for v, by in whole.items()}
    replicates = {r for by in rest.values() for r in by}
    middle = {r: np.median([by[r] for by in rest.values() if r in by]) for r in replicates}
    away = {v: [x - middle[r] for r, x in by.items()] for v, by in rest.items()}
    spread = {v: float(np.std(d)) for v, d in away.items()}

    def steady(value: float) -> bool:
        others = [s for v, s in spread.items() if v != value] or [0.0]
        return bool(
            np.ptp(away[value]) <= math.log(NEAR)
            or spread[value] <= AS_NOISY * float(np.median(others))
        )

    return {v: by for v, by in whole.items() if steady(v)}


def _noise(tables: Sequence[Mapping[float, Losses]]) -> tuple[float, int]:
    """Return the pooled standard deviation of paired log losses and its degrees of freedom."""
    fits = [_fit(table) for table in tables]
    df = sum(fit.df for fit in fits)
    return (math.sqrt(sum(fit.squares for fit in fits) / df), df) if df else (math.inf, 0)


class _Fit(NamedTuple):
    """log loss = candidate's level + replicate's: what the levels leave, and degrees of freedom."""

    level: Mapping[float, float]
    squares: float
    df: int


def _fit(losses: Mapping[float, Losses]) -> _Fit:
    """Return the least-squares fit; candidates may have different seeds."""
    rows = [(v, r, math.log(x)) for v, by in losses.items() for r, x in by.items()]
    if not rows:
        return _Fit({}, 0.0, 0)
    values, replicates = (list(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    design = np.array(
        [[v == x for x in values] + [r == x for x in replicates] for v, r, _ in rows], float
    )
    logs = np.array([log for _, _, log in rows])
    fit, _, rank, _ = np.linalg.lstsq(design, logs)
    squares = float(np.sum((logs - design @ fit) ** 2))
    return _Fit(dict(zip(values, fit, strict=False)), squares, len(rows) - int(rank))


def t_quantile(p: float, df: int) -> float:
    """Return the quantile of Student's t at `p` in (.5, 1). Source: Hill 1970, algorithm 396."""
    tail = 2 * (1 - p)
    if df == 1:
        return 1 / math.tan(tail * math.pi / 2)
    if df == 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    a = 1 / (df - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * df
    y = (d * tail) ** (2 / df)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if df < 5:
            c += 0.3 * (df - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (1 / (((df + 6) / (df * y) - 0.089 * d - 0.822) * (df + 2) * 3) + 0.5 / (df + 4)) * y
            - 1
        ) * (df + 1) / (df + 2) + 1 / y
    return math.sqrt(df * y)
