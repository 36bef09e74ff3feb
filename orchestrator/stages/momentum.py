"""The momentum stage: short runs at .99, .97, .95, .9. Source: Smith 2018, section 4.3."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.recipe import Recipe
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.stage import option


@dataclass(frozen=True, kw_only=True)
class Momentum(CandidateStage):
    """Chooses max_momentum; the cycle's minimum stays below it, its place hardly matters."""

    kind: ClassVar[str] = "momentum"
    gives: ClassVar[tuple[str, ...]] = ("max_momentum", "min_momentum")
    field: ClassVar[str] = "max_momentum"

    candidates: tuple[float, ...] = option(
        (0.99, 0.97, 0.95, 0.9), "values of max_momentum to try", min_length=1, item_ge=0, item_lt=1
    )

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe at another max_momentum."""
        return replace(recipe, max_momentum=value, min_momentum=min(recipe.min_momentum, value))
