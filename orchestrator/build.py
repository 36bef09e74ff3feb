"""Builds the parts of a study from a checked config: recipe, stages, objective, pruner, tracker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator import tracking
from orchestrator.config import checks, choices, user_code
from orchestrator.config.schema import Config
from orchestrator.config.sections import (
    ExecutorConfig,
    OwnObjectiveConfig,
    ProcessesConfig,
    RayConfig,
    TrainingConfig,
)
from orchestrator.errors import ConfigError
from orchestrator.objectives import Description, describe
from orchestrator.recipe import Facts, Recipe, usual_weight_decay

if TYPE_CHECKING:
    from orchestrator.executors.inline import InlineExecutor, Watcher
    from orchestrator.executors.parallel import Ahead, Pool
    from orchestrator.objectives import Objective
    from orchestrator.pruners import CluePruner
    from orchestrator.stages.stage import Stage
    from orchestrator.storage.ledger import Ledger
    from orchestrator.storage.states import States


def recipe(config: Config, facts: Facts) -> Recipe:
    """Return the recipe that the first stage starts from; `facts` may name another optimiser."""
    own = facts if facts.optimizer else None
    optimizer = own.optimizer if own else config.optimizer.name
    given = dict(config.recipe)
    if given["weight_decay"] is None:
        given["weight_decay"] = usual_weight_decay(optimizer, facts)
    return Recipe(
        **given,
        schedule=config.schedule.name,
        optimizer=optimizer,
        nesterov=own.nesterov if own else config.optimizer.nesterov,
        optimizer_options=config.optimizer.options,
    )


def stages(config: Config, facts: Facts) -> list[Stage]:
    """Return the stages in the order of `plan`.

    Raises ConfigError for a batch larger than the data, and for dropout without such a module.
    """
    from orchestrator.stages.expected import by_expected_loss

    lines = checks.size_lines(config.recipe, config.stages, facts.train_examples)
    lines += checks.dropout_lines(config.recipe, facts)
    made = []
    for name in config.plan:
        try:
            stage = choices.build(config.stages[name], name=name, facts=facts)
            if config.effort != "thorough":
                sets_decay = config.recipe.weight_decay is None
                stage = by_expected_loss(stage, recipe(config, facts), config.rate, sets_decay)
            made.append(stage)
        except ValueError as error:  # a stage that these facts leave nothing to do
            lines.append(f"stages.{name}: {error}")
    if lines:
        raise ConfigError(lines)
    return made


def objective(config: Config, cache: Path | None = None) -> Objective:
    """Return the objective; `cache`: folder for decoded data (None: inside the folder `runs`)."""
    cache = cache or Path(config.runs) / ".cache"
    if isinstance(config.objective, TrainingConfig):
        return _training(config, cache)
    offered: dict[str, Any] = {"seed": config.seed, "final_epochs": config.final_epochs}
    if isinstance(config.objective, OwnObjectiveConfig):
        if config.objective.is_function:
            return _function(config, config.objective)
        return _own(config.objective, **offered, config=config, cache=cache)
    from orchestrator.objectives.quadratic import QuadraticObjective

    return QuadraticObjective(choices.build(config.objective), **offered)


def _training(config: Config, cache: Path) -> Objective:
    from orchestrator.training.objective import TrainingObjective, TrainingSettings

    own: dict[str, Any] = {
        "final_epochs": config.final_epochs,
        "batch_size": config.recipe.batch_size,
    }
    same = [f.name for f in fields(TrainingSettings) if f.name not in own]
    return TrainingObjective(
        TrainingSettings(**{name: getattr(config, name) for name in same}, **own), cache
    )


def _function(config: Config, own: OwnObjectiveConfig) -> Objective:
    """Return the user's training function as an objective."""
    from orchestrator.training.function.objective import FunctionObjective, FunctionSettings

    kinds = {getattr(checks.class_of(config.stages[name]), "kind", None) for name in config.plan}
    settings = FunctionSettings(
        own.call,
        own.steps or 0,
        config.recipe.batch_size,
        config.seed,
        own.train_examples,
        own.larger_is_better,
        config.threads,
        opens_test="final" in kinds,
        compares_sizes="batch_size" in kinds,
    )
    return FunctionObjective(user_code.resolve(own.target), settings)


def _own(own: OwnObjectiveConfig, **offered: Any) -> Objective:
    """Return the user's own objective. Raises ConfigError where it cannot be one."""
    made: Objective = user_code.build(own.call, **offered)
    if not (callable(made) and hasattr(made, "facts") and hasattr(made, "context")):
        raise ConfigError(
            f"objective._target_: {own.target} is not an objective: it needs facts, context(run)"
            " and a call with (run, session)"
        )
    if not isinstance(said := describe(made), Description):
        raise ConfigError(
            f"objective._target_: {own.target}: describe() must return an"
            f" orchestrator.objectives.Description, got {type(said).__name__}"
        )
    if not 0 < made.facts.chance_loss < math.inf:
        raise ConfigError(
            f"objective._target_: {own.target} has a chance_loss of {made.facts.chance_loss}: it"
            " must be above 0, since losses are compared by factors"
        )
    return made


def pruner(config: Config, start_loss: float) -> CluePruner | None:
    """Return the pruner, None if no run is pruned."""
    if not config.prunes:
        return None
    from orchestrator.pruners import CluePruner

    also = getattr(config.pruner, "also", None)
    beside = choices.optunas_pruner(also) if also else None
    return CluePruner(choices.build(config.pruner), beside, start_loss=start_loss)


def executor(
    config: Config,
    ledger: Ledger,
    objective: Objective,
    pruner: CluePruner | None,
    states: States,
    watcher: Watcher,
    ahead: Ahead | None = None,
) -> InlineExecutor:
    """Return the executor."""
    from orchestrator.executors.idle import IdleWait, use_of_gpu

    parts = (ledger, objective, pruner, states, watcher)
    idle = IdleWait(max_seconds=config.executor.wait_seconds, gpu=use_of_gpu(config.device))
    if isinstance(config.executor, ExecutorConfig):
        from orchestrator.executors.inline import InlineExecutor

        return InlineExecutor(*parts, idle=idle)
    from orchestrator.executors.parallel import ParallelExecutor

    return ParallelExecutor(*parts, idle=idle, pool=_pool(config), ahead=ahead)


def _pool(config: Config) -> Pool:
    """Return the workers of an executor that has some."""
    if isinstance(config.executor, RayConfig):
        from orchestrator.executors.cluster import RayPool

        shared = config.storage.checkpoints is not None
        return RayPool(objective_of, config.as_mapping(), config.executor, shares_disk=shared)
    from orchestrator.executors.pool import WorkerPool
    from orchestrator.system.host import cores

    assert isinstance(config.executor, ProcessesConfig)
    workers = config.executor.workers or max(1, cores() // (config.threads or 1))
    return WorkerPool(config.as_mapping(), workers)


def objective_of(values: Mapping[str, Any]) -> Objective:
    """Return the objective of a config's plain values, as a worker makes it."""
    return objective(Config.from_mapping(values))


def work() -> NoReturn:
    """Run as a worker process of an executor (see `executors.worker`)."""
    from orchestrator.executors import worker

    worker.main(objective_of)


def tracker(config: Config, metric: str | None) -> tracking.Tracker:
    """Return the tracker; `metric`: the name of the objective's metric."""
    if config.tracking.name == "none":
        return tracking.Tracker()
    from orchestrator.tracking.mlflow import MlflowTracker

    return MlflowTracker(
        config.study_name, Path.cwd(), Path(config.runs), uri=config.tracking.uri, metric=metric
    )
