"""The LR check: is max_lr still right after weight decay and batch size were chosen?

All of them regularise, so a later choice can move an earlier one (Smith 2018, section 3). Complete
short cycles at half and twice max_lr say whether it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.recipe import Recipe
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.comparison import Comparison
from orchestrator.stages.ramps import round_to
from orchestrator.stages.stage import Seen, option


@dataclass(frozen=True, kw_only=True)
class LRCheck(CandidateStage):
    """Chooses max_lr anew, and min_lr with it; `candidates` are multiples of the incumbent."""

    kind: ClassVar[str] = "lr_check"
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")
    field: ClassVar[str] = "max_lr"

    candidates: tuple[float, ...] = option(
        (0.5, 2.0), "multiples of max_lr to try, beside 1", min_length=1, item_gt=0
    )
    max_seeds: int = option(6, "seeds a close value may get: near the cliff they differ", ge=1)
    reach: int = option(2, "further steps beyond the edge while it is clearly the best", ge=0)

    def variant(self, seen: Seen, value: float) -> Recipe:
        """Return the recipe at another max_lr; the incumbent keeps its min_lr."""
        return seen.recipe if value == seen.recipe.max_lr else seen.recipe.at_lr(value)

    def grid(self, recipe: Recipe) -> list[float]:
        """Return the multiples of the incumbent."""
        incumbent = self.incumbent(recipe)
        return [incumbent if f == 1 else round_to(f * incumbent) for f in self.candidates]

    def values(self, seen: Seen) -> list[float]:
        """Return the multiples and those beyond the edge that were tried."""
        tried = [self.value_of(o.run) for o in seen.outcomes]
        return list(dict.fromkeys((*super().values(seen), *tried)))

    def further(self, recipe: Recipe, found: Comparison, steps: int) -> list[float]:
        """Return the next step beyond the edge, [] where the best is no edge or not surely best.

        Surely: better than the incumbent by more than the margin, beyond noise.
        """
        diffs = found.at(steps)
        grid = {self.incumbent(recipe), *self.grid(recipe)}
        if not diffs or len(diffs) + 1 - len(grid) >= self.reach:
            return []
        best, known = min(diffs, key=lambda v: diffs[v].mean), sorted((*diffs, found.incumbent))
        if best not in (known[0], known[-1]) or not diffs[best].better_by(self.margin):
            return []
        neighbour = known[1] if best == known[0] else known[-2]
        return [round_to(best * best / neighbour)]

    def remark(self, seen: Seen, value: float) -> str:
        """Say whether the later choices moved max_lr."""
        incumbent = self.incumbent(seen.recipe)
        if value == incumbent:
            return "the balance of regularisation did not move max_lr"
        return f"the balance of regularisation moved max_lr from {incumbent:g} to {value:g}"
