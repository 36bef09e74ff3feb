"""The weight-decay stage: a grid of 1e-3, 1e-4, 1e-5, 0. Source: Smith 2018, section 4.4."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.recipe import Recipe
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.stage import option


@dataclass(frozen=True, kw_only=True)
class WeightDecay(CandidateStage):
    """Chooses weight_decay, constant over the run: cycling it does not help."""

    kind: ClassVar[str] = "weight_decay"
    gives: ClassVar[tuple[str, ...]] = ("weight_decay",)
    field: ClassVar[str] = "weight_decay"

    candidates: tuple[float, ...] = option(
        (1e-3, 1e-4, 1e-5, 0.0), "values of weight_decay to try", min_length=1, item_ge=0, item_lt=1
    )

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe at another weight_decay."""
        return replace(recipe, weight_decay=value)
