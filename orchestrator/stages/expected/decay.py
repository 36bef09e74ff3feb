"""The weight decay of AdamW, by the learning rate and the length of the training.

A step takes lr x weight_decay of a weight. So the weights are a running mean of the updates over
about 1 / (lr x weight_decay) steps, and it is this time that should suit the training (Wang and
Aitchison 2024, arXiv 2405.13698). The size is ours, measured in benchmarks/frontier
(docs/design.md).
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from orchestrator.recipe import DECOUPLED, Facts, Recipe
from orchestrator.stages.stage import schedule_of

# Sum of lr x weight_decay over a run, or over so many epochs if it is shorter: a weight without
# updates falls to 1/e.
DECAYED, EPOCHS = 1.0, 20.0
WEAK = 0.03  # sum of lr x weight_decay: less hardly acts
MOST_OF_A_STEP, MOST = 0.05, 50.0  # limits of lr x weight_decay and of weight_decay
POINTS = 200  # of the schedule, for its mean


def is_set_by_length(recipe: Recipe, facts: Facts) -> bool:
    """Return whether the weight decay of such a recipe goes by its rate and its length.

    Not for a network that may have been trained before: its weights are not to be forgotten.
    """
    return recipe.optimizer == "adamw" and facts.from_scratch


def decayed(recipe: Recipe, facts: Facts) -> float:
    """Return the sum of lr x weight_decay over a final run of the recipe."""
    schedule = schedule_of(recipe)
    mean_lr = fmean(schedule.at((i + 0.5) / POINTS).lr for i in range(POINTS))
    return recipe.weight_decay * mean_lr * facts.steps(1, recipe.batch_size)


def is_weak(recipe: Recipe, facts: Facts) -> bool:
    """Return whether an adaptive optimiser's weight decay hardly acts within the final run.

    A larger one does neither then, or is no decay but a part of the gradient.
    """
    decoupled = recipe.optimizer in DECOUPLED
    return recipe.adaptive and not (decoupled and decayed(recipe, facts) >= WEAK)


def most(recipe: Recipe) -> float:
    """Return the largest weight decay of a decoupled optimiser that is tried."""
    return min(MOST, MOST_OF_A_STEP / (recipe.max_lr or 1.0))


def by_length(recipe: Recipe, facts: Facts) -> float:
    """Return the weight decay of AdamW for a final run of the recipe, to two digits."""
    wanted = DECAYED * min(1.0, facts.final_epochs / EPOCHS)
    found = wanted / decayed(replace(recipe, weight_decay=1.0), facts)
    return float(f"{min(found, most(recipe)):.2g}")
