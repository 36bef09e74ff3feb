"""A training function without a study around it."""

from __future__ import annotations

from orchestrator.recipe import Recipe, Run
from orchestrator.stages.stage import schedule_of
from orchestrator.training.function.measure import NoSession
from orchestrator.training.function.trial import Trial
from orchestrator.training.randomness import seed_all

POINTS = 20


def trial_of(recipe: Recipe, *, steps: int, seed: int = 0, test: bool = False) -> Trial:
    """Return a trial by `recipe`, to train with what a study found: `train(trial_of(...))`.

    Its reports are in `trial.points` afterwards. The global random states are seeded.

    Args:
        recipe: The recipe of a study.
        steps: Number of updates.
        seed: Seed of the run.
        test: Whether the function's `test` is called; its loss is in the result.

    >>> trial = trial_of(Recipe(max_lr=0.1), steps=100)
    >>> trial.steps, trial.batch_size
    (100, 64)
    """
    schedule = schedule_of(recipe)
    decay, size = recipe.weight_decay, recipe.batch_size
    run = Run("train", schedule, decay, size, steps, 0, points=POINTS, opens_test=test)
    seed_all(seed)
    return Trial(run, NoSession(), "the training function", seed)
