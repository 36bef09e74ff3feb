"""What a change of one setting is expected to do to the final loss, and how sure that is.

A change is measured in steps: a factor of 2 of the learning rate, of the batch size or of
1 - momentum, a factor of 4 of weight decay, .25 of dropout. Its effect on the log of the final
held-out loss has a normal prior; the difference of two short cycles with the same seed updates it.
The update knows that short cycles favour large learning rates and small batches, and that a loss
on few held-out examples says little. The priors were measured on the tuning workloads of
benchmarks/frontier (docs/design.md): most changes of a recipe that a range test has found do harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orchestrator.curve import Outcome
from orchestrator.recipe import Facts

UNIT = NormalDist()
SEEDS = math.sqrt(2) * 0.03  # noise of a log ratio by the seeds of the two runs
PAIRED = 0.5  # of one network's error: two with the same examples are off together, mostly
# Relative error of a loss, times the square root of the number of examples that make it up.
HELD_OUT_NOISE = 0.9
LOST = 1.0  # log loss: a run that ended no better than chance counts as this much worse


@dataclass(frozen=True)
class Estimate:
    """A normal distribution of the change of a log loss: below 0 is better."""

    mean: float
    sd: float

    def updated(self, seen: float, noise: float) -> Estimate:
        """Return the posterior after a change of `seen` was measured with a noise of sd `noise`."""
        if self.sd == 0:
            return self
        weight = self.sd**2 / (self.sd**2 + noise**2)
        mean = self.mean + weight * (seen - self.mean)
        return Estimate(mean, self.sd * math.sqrt(1 - weight))

    def known_after(self, noise: float) -> Estimate:
        """Return the distribution of the posterior mean before the measurement is made."""
        return Estimate(self.mean, self.sd**2 / math.hypot(self.sd, noise) if self.sd else 0.0)

    @property
    def improvement(self) -> float:
        """Expected improvement if a change for the worse is not adopted: E[max(0, -x)]."""
        if self.sd == 0:
            return max(0.0, -self.mean)
        z = -self.mean / self.sd
        return -self.mean * UNIT.cdf(z) + self.sd * UNIT.pdf(z)

    def interval(self, level: float = 0.8) -> tuple[float, float]:
        """Return the credible interval."""
        half = UNIT.inv_cdf(0.5 + level / 2) * self.sd
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Parabola:
    """An effect that is `linear` x steps + `square` x steps ** 2, with normal coefficients.

    `linear`, `square`: mean and standard deviation of each. `correlation` of the two.
    """

    linear: tuple[float, float]
    square: tuple[float, float]
    correlation: float = 0.0

    def at(self, steps: float, origin: float = 0.0) -> Estimate:
        """Return the effect of so many steps, against the one of `origin` steps."""
        (a, sa), (b, sb) = self.linear, self.square
        x, y = steps - origin, steps * steps - origin * origin
        variance = (sa * x) ** 2 + (sb * y) ** 2 + 2 * self.correlation * sa * sb * x * y
        return Estimate(a * x + b * y, math.sqrt(max(0.0, variance)))

    def updated(self, steps: float, seen: float, noise: float) -> Parabola:
        """Return the posterior after the effect of `steps` was measured with this noise (sd)."""
        (a, sa), (b, sb) = self.linear, self.square
        x, y, both = steps, steps * steps, self.correlation * sa * sb
        toward_a, toward_b = sa * sa * x + both * y, both * x + sb * sb * y
        variance = x * toward_a + y * toward_b + noise * noise
        if variance == 0:
            return self
        missed = (seen - a * x - b * y) / variance
        va = max(0.0, sa * sa - toward_a * toward_a / variance)
        vb = max(0.0, sb * sb - toward_b * toward_b / variance)
        both -= toward_a * toward_b / variance
        correlation = both / math.sqrt(va * vb) if va * vb > 0 else 0.0
        return Parabola(
            (a + toward_a * missed, math.sqrt(va)), (b + toward_b * missed, math.sqrt(vb)),
            max(-1.0, min(1.0, correlation)),
        )  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """Of one field: the effect on a final run, and what a cycle of half its length adds to it."""

    final: Parabola
    halved: Parabola

    def bias(self, steps: float, halvings: float) -> Estimate:
        """Return what a cycle adds that is so many halvings shorter than the final run."""
        added = self.halved.at(steps)
        return Estimate(halvings * added.mean, halvings * added.sd)


EFFECTS: Mapping[str, Effect] = {
    "max_lr": Effect(
        Parabola((-0.02, 0.09), (0.04, 0.05)),
        Parabola((-0.01, 0.03), (0.0, 0.015)),
    ),
    "batch_size": Effect(
        Parabola((0.08, 0.12), (0.03, 0.05)),
        Parabola((0.02, 0.04), (0.0, 0.015)),
    ),
    "weight_decay": Effect(
        Parabola((0.03, 0.12), (0.08, 0.08)),
        Parabola((-0.01, 0.05), (-0.01, 0.02)),
    ),
    "max_momentum": Effect(
        Parabola((0.02, 0.05), (0.005, 0.012)),
        Parabola((-0.01, 0.02), (0.0, 0.01)),
    ),
    "dropout": Effect(
        Parabola((0.02, 0.1), (0.05, 0.06)),
        Parabola((0.03, 0.04), (0.0, 0.02)),
    ),
}
# Of a step of weight decay or dropout where the full run overfits: measured at full length.
MORE_REGULARISATION = Parabola((-0.12, 0.12), (0.05, 0.05))
# The same of max_lr of Adam and its kin, where lower values overfit less.
LOWER_LR = Parabola((0.12, 0.1), (0.02, 0.03))


def steps_between(field: str, start: float, end: float) -> float:
    """Return how many steps `end` is from `start`, above 0 towards larger values."""
    if field == "dropout":
        return (end - start) / 0.25
    if field == "max_momentum":
        return math.log2((1 - start) / (1 - end))
    if field == "weight_decay":
        small = max(start, end, 1e-12) / 64  # so that 0 is three steps below
        return 0.5 * math.log2((end + small) / (start + small))
    return math.log2(end / start)


def noise(facts: Facts, reference: Outcome, other: Outcome | None = None) -> float:
    """Return the noise, a standard deviation, of the log ratio of two runs' held-out losses.

    `other`: the second run, None before it is trained. By the losses of blocks of examples where
    both runs measured them. Where a loss comes from few failures its blocks say too little, so the
    noise is at least what the number of examples says that would make up the loss at chance.
    """
    losses = [o.held_out_loss for o in (reference, other or reference)]
    share = min(1.0, max(0.0, min(losses) / facts.chance_loss))
    few = PAIRED * HELD_OUT_NOISE / math.sqrt(max(1.0, share * facts.held_out_examples))
    least = math.hypot(SEEDS, few)
    found = block_noise(reference, other)
    return max(found, least) if math.isfinite(found) else least


def block_noise(one: Outcome, other: Outcome | None, which: str = "held_out_blocks") -> float:
    """Return the noise of the log ratio of two runs' losses by those of blocks, NaN without them.

    Two networks that fail on the same examples differ surely; before the second one is trained
    half of the first one's error counts.
    """
    a, b = (_blocks(outcome, which) for outcome in (one, other or one))
    if not a.size == b.size > 1:
        return math.nan
    values = PAIRED * a if other is None else a - b
    return math.hypot(SEEDS, float(values.std(ddof=1)) / math.sqrt(values.size))


def _blocks(outcome: Outcome, which: str) -> NDArray[np.float64]:
    """Return the losses of a run's blocks of examples over their mean, empty if not measured."""
    blocks = np.asarray(outcome.result.measured.get(which, ()), float)
    return blocks / blocks.mean() if blocks.size and blocks.mean() > 0 else blocks[:0]
