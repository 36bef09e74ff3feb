"""The LR range test over a training function: no study, no config."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from orchestrator.config.options import OwnConfig
from orchestrator.recipe import Recipe
from orchestrator.stages.stage import walk
from orchestrator.testing import execute
from orchestrator.training.function.objective import FunctionObjective, FunctionSettings
from orchestrator.training.function.trial import Trial
from orchestrator.training.standalone.range_result import LRRangeResult
from orchestrator.training.standalone.range_test import RangeTestAlone

log = logging.getLogger(__name__)


def range_test(
    train: Callable[[Trial], object],
    name: str,
    *,
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> LRRangeResult:
    """Find max_lr for a training function, as `orchestrator.lr_range_test` does for a model.

    `name`: where the function is from, for errors. `steps`: of a ramp. `options`: `start_lr`,
    `end_lr`, `ramps` and `lr_factor`, as there. What the function notes is logged. Raises
    ConfigError, one line, for whatever is wrong with it.
    """
    settings = FunctionSettings(OwnConfig(target=name), steps, batch_size, seed)
    objective = FunctionObjective(train, settings)
    for note in objective.found.notes:
        log.warning("%s", note)
    stage = RangeTestAlone(
        name="lr_range_test", facts=objective.facts, min_steps=steps, max_steps=steps, **options
    )
    recipe = Recipe(
        max_momentum=objective.found.momentum,
        weight_decay=objective.found.weight_decay,
        batch_size=batch_size,
        schedule="constant",
        optimizer=objective.facts.optimizer,
    )
    decision, outcomes = walk(stage, recipe, lambda runs: [execute(objective, run) for run in runs])
    return LRRangeResult.of(decision, outcomes, objective.facts.start_loss)
