"""The choices of the four settings, and of dropout: how each is varied and at what prices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Recipe, Run
from orchestrator.schedules import CYCLED
from orchestrator.stages.expected import decay
from orchestrator.stages.expected.choice import Choice
from orchestrator.stages.measure import measure, measured
from orchestrator.stages.ramps import round_to
from orchestrator.stages.stage import cycle

DECAY_STEP = 4.0  # from one weight decay to the next beyond the candidates
LR_STEP = 4.0  # from one lower learning rate to the next where the full run overfits
MOST_DECAY = 0.5
PER_DOUBLING = 0.1  # of the length: fall of the log loss where it was not measured
NEAR = 2.0  # a weight decay within this factor of the recipe's is no other one


@dataclass(frozen=True, kw_only=True)
class MomentumChoice(Choice):
    """Chooses max_momentum. Source: Smith 2018, section 4.3."""

    kind: ClassVar[str] = "momentum"
    gives: ClassVar[tuple[str, ...]] = ("max_momentum", "min_momentum", "max_lr", "min_lr")
    field: ClassVar[str] = "max_momentum"

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe at another momentum; a constant one goes with lr / (1 - momentum)."""
        changed = replace(recipe, max_momentum=value, min_momentum=min(recipe.min_momentum, value))
        if recipe.schedule in CYCLED or recipe.adaptive or recipe.max_lr is None:
            return changed
        scale = (1 - value) / (1 - recipe.max_momentum)
        return changed.at_lr(round_to(recipe.max_lr * scale))


@dataclass(frozen=True, kw_only=True)
class WeightDecayChoice(Choice):
    """Chooses weight_decay: the candidates, and beyond the largest in factors of 4.

    Source: Smith 2018, section 4.4.
    """

    kind: ClassVar[str] = "weight_decay"
    gives: ClassVar[tuple[str, ...]] = ("weight_decay",)
    field: ClassVar[str] = "weight_decay"

    def sides(self, recipe: Recipe, more: bool) -> tuple[tuple[float, ...], ...]:
        """Return the candidates on either side that differ by more than a factor `NEAR`."""
        own = self.own(recipe)
        below = sorted((v for v in self.candidates if v <= own / NEAR and v < own), reverse=True)
        above = sorted(v for v in self.candidates if v >= own * NEAR and v > own)
        if more and own > 0:  # larger steps: a full run each
            above = []
        last = above[-1] if above else own
        most = decay.most(recipe) if recipe.adaptive else MOST_DECAY
        while last and len(above) < self.reach and last * DECAY_STEP <= most:
            last = round_to(last * DECAY_STEP, 1)
            above.append(last)
        return (() if more else tuple(below), tuple(above))


@dataclass(frozen=True, kw_only=True)
class DropoutChoice(Choice):
    """Chooses the dropout of all of the model's dropout modules."""

    kind: ClassVar[str] = "dropout"
    gives: ClassVar[tuple[str, ...]] = ("dropout",)
    field: ClassVar[str] = "dropout"

    def own(self, recipe: Recipe) -> float:
        """Return the recipe's dropout, the model's own where it has none."""
        own = self.facts.dropout if recipe.dropout is None else recipe.dropout
        return float(own or 0.0)


@dataclass(frozen=True, kw_only=True)
class LRChoice(Choice):
    """Checks max_lr: `candidates` are multiples of the recipe's, and go on in the same factors."""

    kind: ClassVar[str] = "lr_check"
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")
    field: ClassVar[str] = "max_lr"

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe at another max_lr."""
        return recipe.at_lr(value)

    def sides(self, recipe: Recipe, more: bool) -> tuple[tuple[float, ...], ...]:
        """Return the multiples on either side, nearest first, each side in its own factor.

        `more`: lower rates in factors of `LR_STEP`, as each is a full run.
        """
        own = self.own(recipe)
        if more:
            return tuple(round_to(own / LR_STEP**n) for n in range(1, self.reach + 1)), ()
        below = max((f for f in self.candidates if f < 1), default=None)
        above = min((f for f in self.candidates if f > 1), default=None)
        return tuple(
            tuple(round_to(own * factor**n) for n in range(1, self.reach + 1)) if factor else ()
            for factor in (below, above)
        )


@dataclass(frozen=True, kw_only=True)
class BatchSizeChoice(Choice):
    """Chooses batch_size by trials of equal wall-clock time, with max_lr by the square-root rule.

    Source: Smith 2018, section 4.2 (equal time). The final run has the same epochs with any size:
    what a faster size sees more of in its trial is taken off again, by what length was worth to the
    recipe; what a slower size costs in time counts by the exchange rate.
    """

    kind: ClassVar[str] = "batch_size"
    gives: ClassVar[tuple[str, ...]] = ("batch_size", "max_lr", "min_lr")
    field: ClassVar[str] = "batch_size"

    reach: int = 2  # the seconds of a step are measured for each

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe at another batch size, its lr by the square root of the ratio.

        Adam's too (Malladi et al. 2022, arXiv 2205.10287).
        """
        lr = (recipe.max_lr or 0.0) * math.sqrt(value / recipe.batch_size)
        return replace(recipe, batch_size=int(value)).at_lr(round_to(lr))

    def prepare(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Measure the seconds of a step of each size that may be tried."""
        sizes = [int(v) for side in self.sides(recipe, False) for v in side[: self.reach]]
        run = measure("calibrate", recipe, [recipe.batch_size, *sizes])
        return [] if any(o.run == run for o in outcomes) else [run]

    def trial(self, recipe: Recipe, value: float, share: float, outcomes: Sequence[Outcome]) -> Run:
        """Return a trial that takes as long as the recipe's own, by the calibration."""
        tried = recipe if value == recipe.batch_size else self.variant(recipe, value)
        own = self.facts.steps(share, recipe.batch_size)
        steps = max(10, round(own * self._ratio(recipe, value, outcomes)))
        return cycle(tried, steps, 0, f"batch size {int(value)}")

    def adjusted(self, recipe: Recipe, value: float, outcomes: Sequence[Outcome]) -> float:
        """Return the change from equal time to equal epochs, and the price of a slower size."""
        seen = self._ratio(recipe, value, outcomes) * value / recipe.batch_size
        return self._per_doubling(recipe, outcomes) * math.log2(seen) + self.rate * (1 / seen - 1)

    def _ratio(self, recipe: Recipe, value: float, outcomes: Sequence[Outcome]) -> float:
        """Return the steps of another size that take as long as one of the recipe's."""
        seconds = measured(outcomes, "calibrate", "seconds_per_step")
        own, other = seconds.get(recipe.batch_size), seconds.get(int(value))
        return own / other if own and other else recipe.batch_size / value

    def _per_doubling(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> float:
        """Return by how much the log loss falls where a cycle of the recipe is twice as long."""
        own = [o for o in outcomes if o.run.batch_size == recipe.batch_size and len(o.curve)]
        ends = {o.run.steps: self.end_loss(o) for o in own}
        if len(ends) < 2 or not all(map(math.isfinite, ends.values())):
            return PER_DOUBLING
        short, long = min(ends), max(ends)
        return max(0.0, math.log(ends[short] / ends[long]) / math.log2(long / short))
