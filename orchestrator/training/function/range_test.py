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
from orchestrator.training.standalone.range_test import check_final, stage_alone

log = logging.getLogger(__name__)


def range_test(
    train: Callable[[Trial], object],
    name: str,
    *,
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    final_steps: int | None = None,
    **options: Any,
) -> LRRangeResult:
    """Find max_lr for a training function, as `orchestrator.lr_range_test` does for a model.

    `name`: where the function is from, for errors. `steps`: of a ramp. `final_steps` and `options`
    (`start_lr`, `end_lr`, `ramps`, `lr_factor`) as there. What the function notes is logged. Raises
    ConfigError, one line, for whatever is wrong with it.
    """
    check_final(final_steps)
    settings = FunctionSettings(OwnConfig(target=name), final_steps or steps, batch_size, seed)
    objective = FunctionObjective(train, settings)
    for note in objective.found.notes:
        log.warning("%s", note)
    stage = stage_alone(objective.facts, steps, final_steps is not None, **options)
    recipe = Recipe(
        max_momentum=objective.found.momentum,
        weight_decay=objective.found.weight_decay,
        batch_size=batch_size,
        schedule="linear",
        optimizer=objective.facts.optimizer,
    )
    decision, outcomes = walk(stage, recipe, lambda runs: [execute(objective, run) for run in runs])
    return LRRangeResult.of(decision, outcomes, objective.facts.start_loss)
