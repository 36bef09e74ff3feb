"""Differences under noise: which candidates beat the incumbent, and which are tied.

Losses are compared as logarithms, so a difference is a share. Candidates share replicates (same
initial weights, same data order), so differences are paired. The noise is what is left of the log
losses after each candidate's and each replicate's mean is taken out, pooled over the candidates:
with two to four seeds, a spread per candidate would be worth little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

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
        """Whether the candidate's loss is lower by more than `margin` (a share), beyond noise."""
        return self.mean + self.bound < math.log1p(-margin)

    def worse_by(self, margin: float) -> bool:
        """Whether the candidate's loss is higher by more than `margin` (a share), beyond noise."""
        return self.mean - self.bound > -math.log1p(-margin)


def differences(
    losses: Mapping[float, Losses],
    incumbent: float,
    level: float = 0.05,
    also: Sequence[Mapping[float, Losses]] = (),
) -> dict[float, Difference]:
    """Compare each candidate with the incumbent over the replicates that both have finished.

    A candidate without a finite loss is worse by inf. `also`: other comparisons of the same stage
    (at another horizon), which help to measure the noise. Returns {} if the incumbent has no loss.
    """
    base = _finite(losses.get(incumbent, {}))
    if not base:
        return {}
    sd, df = _noise([losses, *also])
    others = [v for v in losses if v != incumbent]
    result = {}
    for value in others:
        finite = _finite(losses[value])
        shared = sorted(set(base) & set(finite))
        if not shared or len(finite) < len(losses[value]):  # one seed lost: it is not safe
            result[value] = Difference(math.inf, 0.0, len(shared))
            continue
        mean = float(np.mean([math.log(finite[r] / base[r]) for r in shared]))
        bound = math.inf
        if df > 0:
            t = t_quantile(1 - level / len(others), df)
            bound = t * sd * math.sqrt(2 / len(shared))
        result[value] = Difference(mean, bound, len(shared))
    return result


def _finite(by_replicate: Losses) -> dict[int, float]:
    return {r: x for r, x in by_replicate.items() if math.isfinite(x) and x > 0}


def _noise(tables: Sequence[Mapping[float, Losses]]) -> tuple[float, int]:
    """Return the pooled standard deviation of paired log losses and its degrees of freedom."""
    squares, freedom = zip(*map(_residuals, tables), strict=True)
    df = sum(freedom)
    return (math.sqrt(sum(squares) / df), df) if df else (math.inf, 0)


def _residuals(losses: Mapping[float, Losses], near: float = 2.0) -> tuple[float, int]:
    """Return the sum of squares that candidates and replicates leave, and its degrees of freedom.

    Only steady candidates count, those that stay within a factor `near` of their own distance to
    the median candidate: one run that nearly diverged would drown what the others say about noise.
    """
    some = [by for by in map(_finite, losses.values()) if by]
    replicates = sorted(set.intersection(*(set(by) for by in some))) if some else []
    if len(replicates) < 2:
        return 0.0, 0
    table = np.log([[by[r] for r in replicates] for by in some])  # (candidates, replicates)
    table = table[np.ptp(table - np.median(table, axis=0), axis=1) <= math.log(near)]
    k, n = table.shape
    if k < 2:
        return 0.0, 0
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    return float(np.sum(rest**2)), (k - 1) * (n - 1)


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
