"""From the best rate of short cycles to that of a longer run, for Adam and its kin.

The steps of such an optimiser are bounded by the learning rate whatever the gradient. So a few
steps at a rate that is too high do little harm, above all to a pretrained network, which a longer
run at that rate overwrites: the best rate of a short cycle is too high for a longer run.

Not so with batch norm. There only the direction of weights counts, they grow with each step, and so
steps turn them less and less by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

EXPONENT = 1 / 3


def for_longer(steps: int, longer: int) -> float:
    """Return the best rate of a run of `longer` steps as a share of that of a cycle of `steps`.

    The cube root of the ratio: .58 for a cycle of a fifth of the run. Source: Bjorck et al. 2024
    (arXiv 2409.19913), an exponent of .32 for language models. Measured in benchmarks/finetune.py
    from a fifth: .4 (a pretrained transformer) and .6 (a vision transformer from scratch).
    """
    return float(min(1.0, (steps / longer) ** EXPONENT))


def lowest(losses: Mapping[float, float]) -> float:
    """Return the rate with the lowest loss, by a parabola through it and its neighbours.

    `losses`: by rate, above 0, inf for lost runs; the rates are a constant factor apart. The
    parabola is over the logarithms of both. At an edge it is the best of the rates.
    """
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    best = losses[rates[at]]
    if at in (0, len(rates) - 1) or not math.isfinite(best):
        return rates[at]
    below, above = (math.log(losses[rates[i]] / best) for i in (at - 1, at + 1))
    if math.isinf(below) or math.isinf(above):  # half-way to the other neighbour
        shift = 0.5 * (math.isinf(below) - math.isinf(above))
    else:
        shift = 0.5 * (below - above) / (below + above) if below + above > 0 else 0.0
    return float(rates[at] * (rates[at + 1] / rates[at]) ** shift)
