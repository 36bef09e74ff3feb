"""From a mapping to the sections and stages that it chooses by `name`, `kind` or `_target_`.

Every mistake becomes a line, and the section is then None. Nothing here imports torch, MLflow or
Optuna before it is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, SerializeAsAny, create_model

from orchestrator.config import sections, user_code
from orchestrator.config.optimizer import (
    AdamWConfig,
    MuonConfig,
    OptimizerConfig,
    OwnOptimizerConfig,
)
from orchestrator.config.options import Options, OwnConfig, Real, Section, options_of, signature_of
from orchestrator.config.problems import choose, read, shown
from orchestrator.config.sections import (
    LossConfig,
    MetricConfig,
    OwnDataConfig,
    OwnMetricConfig,
)
from orchestrator.errors import ConfigError

SECTIONS: dict[str, type[BaseModel]] = {
    "recipe": sections.RecipeConfig,
    "data": sections.DataConfig,
    "model": sections.ModelConfig,
    "loss": LossConfig,
    "metric": MetricConfig,
    "optimizer": OptimizerConfig,
    "schedule": sections.ScheduleConfig,
    "pruner": sections.NoPruner,
    "objective": sections.TrainingConfig,
    "executor": sections.ExecutorConfig,
    "storage": sections.StorageConfig,
    "tracking": sections.TrackingConfig,
    "budget": sections.BudgetConfig,
}
# Sections that may have a `_target_` of the user's own, and the model of each.
OWN_ALLOWED: dict[str, type[OwnConfig]] = {
    "data": OwnDataConfig,
    "model": OwnConfig,
    "objective": sections.OwnObjectiveConfig,
    "loss": OwnConfig,
    "metric": OwnMetricConfig,
    "optimizer": OwnOptimizerConfig,
}


def variants(key: str) -> dict[str, Callable[[], type[BaseModel]]]:
    """Return the models of a section whose keys depend on its `name`; the first is the default."""

    def quadratic() -> type[BaseModel]:
        from orchestrator.objectives.quadratic import Quadratic

        return options_of(Quadratic, "name")

    if key == "objective":
        return {"training": lambda: sections.TrainingConfig, "quadratic": quadratic}
    if key == "optimizer":
        return {
            "sgd": lambda: OptimizerConfig,
            "adamw": lambda: AdamWConfig,
            "muon": lambda: MuonConfig,
        }
    if key == "executor":
        return {
            "inline": lambda: sections.ExecutorConfig,
            "processes": lambda: sections.ProcessesConfig,
            "ray": lambda: sections.RayConfig,
        }
    return {"clue": _clue_options, "none": lambda: sections.NoPruner} if key == "pruner" else {}


ALSO = "a pruner of Optuna's in addition: `name`, and its own arguments; null: none"
AUDIT = "share of the pruned runs that are trained to their end, to check the pruner"


@cache
def _clue_options() -> type[Options]:
    """Return the model of the clue pruner: its rules, `also` and `audit`."""
    from orchestrator.pruners import ClueRules

    made: type[Options] = create_model(
        "ClueOptions",
        __base__=options_of(ClueRules, "name"),
        also=(SerializeAsAny[BaseModel] | None, Field(None, description=ALSO)),
        audit=(Annotated[Real, Field(ge=0, le=1)], Field(0.0, description=AUDIT)),
    )
    return made


def _also(given: Any, path: str, lines: list[str], inner: bool = False) -> BaseModel | None:
    """Check one of Optuna's pruners: its name, its own arguments, and that it works."""
    from orchestrator.pruners.optunas import OPTUNAS, WRAPPED

    if given is None or isinstance(given, BaseModel):
        return given
    if not isinstance(given, Mapping):
        return read(Section, given, path, lines)
    known = len(lines)
    cls = choose(WRAPPED if inner else OPTUNAS, {"name": None, **given}, "name", path, lines)
    if cls is None:
        return None
    nested = ("wrapped_pruner",) if cls is OPTUNAS["patient"] else ()
    inners = {n: _also(given.get(n), f"{path}.{n}", lines, inner=True) for n in nested}
    made = read(signature_of(cls, "name", nested), {**given, **inners}, path, lines)
    if made is not None and len(lines) == known:
        try:
            optunas_pruner(made)
        except ValueError as error:
            lines.append(f"{path}: {error}")
    return made


def optunas_pruner(entry: BaseModel) -> Any:
    """Make the pruner of Optuna's that an entry describes."""
    from orchestrator.pruners import optunas

    assert isinstance(entry, Options)
    arguments = entry.as_arguments()
    inner = arguments.get("wrapped_pruner")
    if inner is not None:
        arguments["wrapped_pruner"] = optunas_pruner(inner)
    return optunas.build(entry.builds, arguments)


def _without_our_name(key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the default's `name`, which Hydra merges into a section with a `_target_`."""
    ours = variants(key) or get_args(SECTIONS[key].model_fields["name"].annotation)
    return {k: v for k, v in given.items() if k != "name" or v not in ours}


def section(key: str, given: Any, lines: list[str]) -> BaseModel | None:
    """Return the section `key` of the config as `given`, None if it is wrong."""
    if key in OWN_ALLOWED and isinstance(given, Mapping) and "_target_" in given:
        return read(OWN_ALLOWED[key], _without_our_name(key, given), key, lines)
    choices = variants(key)
    if not choices or not isinstance(given, Mapping | None):
        return read(SECTIONS[key], given, key, lines)
    given = {"name": next(iter(choices)), **(given or {})}
    model = choose(choices, given, "name", key, lines)
    if "also" in given:
        given["also"] = _also(given["also"], f"{key}.also", lines)
    return read(model(), given, key, lines) if model else None


def stages(given: Any, lines: list[str]) -> dict[str, BaseModel | None]:
    """Return the entries by name, None for a wrong one; each kind has a default entry."""
    from orchestrator.stages import STAGES

    if not isinstance(given, Mapping | None):
        lines.append(
            f"stages: {shown(given)} is not allowed: must be a mapping of names to options"
        )
        given = {}
    entries = {**dict.fromkeys(STAGES), **(given or {})}
    return {name: _stage(str(name), entry, lines) for name, entry in entries.items()}


def _stage(name: str, given: Any, lines: list[str]) -> BaseModel | None:
    from orchestrator.stages import STAGES

    path = f"stages.{name}"
    if not isinstance(given, Mapping | None):
        return read(Section, given, path, lines)
    if given and "_target_" in given:
        return _own_stage(path, given, lines)
    given = {"kind": name, **(given or {})}
    cls = choose(STAGES, given, "kind", path, lines)
    return read(options_of(cls, "kind"), given, path, lines) if cls else None


def _own_stage(path: str, given: Mapping[str, Any], lines: list[str]) -> BaseModel | None:
    """Check the user's own stage; if it is a dataclass, its options as ours are."""
    entry = read(OwnConfig, given, path, lines)
    if entry is None:
        return None
    try:
        cls = user_code.resolve(entry.target)
        if not isinstance(cls, type) or not (hasattr(cls, "propose") and hasattr(cls, "decide")):
            raise ConfigError(f"{entry.target} is not a stage: it needs propose and decide")
        if dataclasses.is_dataclass(cls):
            return read(options_of(cls, "target"), given, path, lines)
        user_code.check(entry)
    except ConfigError as error:
        lines += [f"{path}._target_: {line}" for line in error.lines]
        return None
    return entry


def build(entry: BaseModel, **offered: Any) -> Any:
    """Make the object that an entry describes, ours or the user's own."""
    if isinstance(entry, OwnConfig):
        return user_code.build(entry, **offered)
    assert isinstance(entry, Options)
    return entry.builds(**offered, **entry.as_arguments())
