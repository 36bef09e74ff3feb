"""The dropout stage: searched like weight decay, for models that have it.

Dropout regularises, so it belongs to the balance of Smith 2018, section 3. Not in the default plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.recipe import Recipe, Run
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.stage import Seen, option


@dataclass(frozen=True, kw_only=True)
class Dropout(CandidateStage):
    """Chooses the probability of all dropout modules. ValueError for a model without one."""

    kind: ClassVar[str] = "dropout"
    gives: ClassVar[tuple[str, ...]] = ("dropout",)
    field: ClassVar[str] = "dropout"

    candidates: tuple[float, ...] = option(
        (0.0, 0.1, 0.3, 0.5), "probabilities to try", min_length=1, item_ge=0, item_lt=1
    )

    def __post_init__(self) -> None:
        if self.facts.dropout is None:
            raise ValueError(
                "the model has no dropout module: take the stage out of the plan, or give the"
                " model an nn.Dropout"
            )

    def incumbent(self, recipe: Recipe) -> float:
        """Return the recipe's dropout, or the model's own."""
        return self._or_own(recipe.dropout)

    def variant(self, seen: Seen, value: float) -> Recipe:
        """Return the recipe at another dropout; the incumbent stays as it is."""
        return (
            seen.recipe
            if value == self.incumbent(seen.recipe)
            else replace(seen.recipe, dropout=value)
        )

    def value_of(self, run: Run) -> float:
        """Return the dropout of a run."""
        return self._or_own(run.dropout)

    def _or_own(self, dropout: float | None) -> float:
        assert self.facts.dropout is not None
        return self.facts.dropout if dropout is None else dropout
