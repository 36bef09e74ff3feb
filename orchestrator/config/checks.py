"""Checks of the config that involve more than one section; each returns a line per problem.

A section that is None is wrong by itself and already reported: it is not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.config import user_code
from orchestrator.config.options import Options, OwnConfig
from orchestrator.config.problems import one_of, shown
from orchestrator.config.sections import LossConfig, OwnObjectiveConfig
from orchestrator.errors import ConfigError
from orchestrator.recipe import Facts

# Training and held-out examples, to refuse sizes that are too large before the data is opened.
EXAMPLES = {"digits": 1438, "cifar10": 50_000}


NO_RANGE = (
    "a momentum range test shows no minimum (Smith 2018, 4.3): momentum is chosen by short runs, as"
    " the momentum stage does"
)
NO_CYCLE = (
    "weight decay stays constant: cycling it does not help (Smith 2018, 4.4); set"
    " recipe.weight_decay, or plan a weight_decay stage"
)
RANGE_KINDS = ("momentum_range", "momentum_range_test")
DATABASES = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
STAGE_NAME = "must be 1 to 40 letters, digits, '_' or '-', not starting with a digit"
CYCLED_DECAY = ("min_weight_decay", "max_weight_decay", "final_weight_decay")


def refuse(mapping: Mapping[str, Any], lines: list[str]) -> dict[str, Any]:
    """Return `mapping` without settings that the paper found useless, each with a line on why.

    These are a momentum range test, and weight decay that changes during a run.
    """
    kept = dict(mapping)
    if isinstance(given := mapping.get("stages"), Mapping):
        wrong_names = [name for name in given if not _is_stage_name(name)]
        lines += [f"stages: {shown(n)} is not allowed as a name: {STAGE_NAME}" for n in wrong_names]
        given = {name: entry for name, entry in given.items() if name not in wrong_names}
        kept["stages"] = {name: _momentum(name, entry, lines) for name, entry in given.items()}
    if isinstance(plan := mapping.get("plan"), list | tuple):
        for i, name in enumerate(plan):
            if name in RANGE_KINDS and name not in (kept.get("stages") or {}):
                lines.append(f"plan.{i}: {name} is refused: {NO_RANGE}")
                kept["stages"] = {**(kept.get("stages") or {}), name: {"kind": "momentum"}}
    for section, more in (("recipe", ()), ("schedule", ("weight_decay",))):
        if isinstance(given := mapping.get(section), Mapping):
            wrong = [k for k in given if k in (*CYCLED_DECAY, *more)]
            lines += [f"{section}.{k}: {shown(given[k])} is refused: {NO_CYCLE}" for k in wrong]
            kept[section] = {k: v for k, v in given.items() if k not in wrong}
    return kept


def _is_stage_name(name: object) -> bool:
    """Whether a stage may have this name, which becomes part of file names and Optuna studies."""
    return (
        isinstance(name, str)
        and name.isascii()
        and name.replace("-", "_").isidentifier()
        and len(name) <= 40
    )


def _momentum(name: object, entry: Any, lines: list[str]) -> Any:
    """Return a stage's entry, with a momentum range test replaced by a plain momentum stage."""
    if not isinstance(entry, Mapping | None) or "_target_" in (entry or {}):
        return entry
    kind, options = (entry or {}).get("kind", name), dict(entry or {})
    if kind in RANGE_KINDS:
        where = f"stages.{name}.kind: {kind}" if "kind" in options else f"stages.{name}"
        lines.append(f"{where} is refused: {NO_RANGE}")
        return {"kind": "momentum"}
    if kind == "momentum" and "range" in str(options.get("mode", "")):
        lines.append(f"stages.{name}.mode: {options.pop('mode')} is refused: {NO_RANGE}")
        return options
    return entry


def class_of(entry: BaseModel) -> Any:
    """Return the class that a stage entry builds."""
    return entry.builds if isinstance(entry, Options) else user_code.resolve(_target(entry))


def _target(entry: BaseModel) -> str:
    assert isinstance(entry, OwnConfig)
    return entry.target


def plan_lines(
    plan: Sequence[object], stages: Mapping[str, BaseModel | None], recipe: BaseModel | None
) -> list[str]:
    """Check that planned stages exist, are planned once, and that their needs are met."""
    lines = []
    for i, name in enumerate(plan):
        if not isinstance(name, str):
            continue  # reported by the schema
        if name not in stages:
            lines.append(f"plan.{i}: {shown(name)} is not allowed: {one_of(stages, name)}")
        elif name in plan[:i]:
            lines.append(
                f"plan.{i}: {shown(name)} is not allowed: it is planned already; to repeat it, add"
                f" an entry such as stages.{name}_again: {{kind: {name}}}"
            )
    entries = {name: stages[name] for name in plan if isinstance(name, str) and name in stages}
    classes = {name: class_of(entry) for name, entry in entries.items() if entry is not None}
    for name, cls in classes.items():
        if getattr(cls, "kind", None) == "final" and name != plan[-1]:
            lines.append(
                f"plan: {shown(list(plan))} is not allowed: {name} opens the sealed test data,"
                " so it must be the last stage"
            )
    if recipe is not None and not lines and len(classes) == len(entries):
        lines += _needs_lines(classes, recipe)
    return lines


def _needs_lines(classes: Mapping[str, Any], recipe: BaseModel) -> list[str]:
    lines = []
    known = {name for name, value in recipe if value is not None}
    for name, cls in classes.items():
        lines += [
            f"plan: stage {name} needs {need}, which nothing sets: set recipe.{need}, or plan a"
            f" stage before it that sets {need} ({_givers(need)})"
            for need in getattr(cls, "needs", ())
            if need not in known
        ]
        known.update(getattr(cls, "gives", ()))
    return lines


def _givers(need: str) -> str:
    from orchestrator.stages import STAGES

    givers = [k for k, cls in STAGES.items() if need in cls.gives and need not in cls.needs]
    return ", ".join(givers) or "none of ours"


def recipe_lines(recipe: Any) -> list[str]:
    """Check that lower bounds are not above upper bounds."""
    if recipe is None:
        return []
    lines = []
    for low, high in (("min_lr", "max_lr"), ("min_momentum", "max_momentum")):
        least, most = getattr(recipe, low), getattr(recipe, high)
        if least is not None and most is not None and least > most:
            lines.append(
                f"recipe.{low}: {least} is not allowed: must be at most recipe.{high}, {most}"
            )
    return lines


def processor_lines(device: Any) -> list[str]:
    """Return a problem if several runs are to train in parallel on a device other than a CPU."""
    if device in (None, "auto", "cpu"):
        return []
    return [
        f"device: {shown(device)} trains one run at a time: several runs at once on one GPU have"
        " not been measured; choose executor=inline, or device=cpu for executor=processes"
    ]


def ray_lines(executor: Any, device: Any) -> list[str]:
    """Check that Ray is installed, and that GPUs are asked for where they are to train."""
    lines = []
    if find_spec("ray") is None:
        lines.append(
            "executor.name: 'ray' is not installed: pip install 'orchestrator[ray]', on every"
            " machine of the cluster"
        )
    if isinstance(device, str) and device.startswith("cuda") and not executor.gpus_per_trial:
        lines.append(
            f"executor.gpus_per_trial: must be above 0 for device {shown(device)}, such as 1, or .5"
            " for two workers on each GPU"
        )
    if device not in (None, "auto", "cpu", "cuda"):
        lines.append(f"device: {shown(device)} is not allowed with executor=ray: auto, cpu or cuda")
    if executor.gpus_per_trial and device == "cpu":
        lines.append("executor.gpus_per_trial: must be 0 for device=cpu")
    if executor.gpus_per_trial > 1 and executor.gpus_per_trial % 1:
        lines.append("executor.gpus_per_trial: above 1 only whole GPUs can be given to a worker")
    return lines


def storage_lines(storage: Any) -> list[str]:
    """Check that a database has an address, and that nothing else has one."""
    if storage is None:
        return []
    if storage.url is None:
        missing = "storage.url: must be given for storage.name=url, such as sqlite:///trials.db"
        return [missing] if storage.name == "url" else []
    if storage.name != "url":
        return [
            f"storage.url: {shown(storage.url)} is not allowed: only storage.name=url takes one,"
            f" storage.name is {storage.name}"
        ]
    dialect, slashes, rest = storage.url.partition("://")
    if not slashes or not rest or dialect.partition("+")[0] not in DATABASES:
        return [
            f"storage.url: {shown(storage.url)} is not allowed: must be the address of a database"
            f" ({', '.join(DATABASES)}), such as postgresql://user@host/name"
        ]
    if dialect == "sqlite" and not (folder := Path(rest.removeprefix("/")).parent).is_dir():
        return [f"storage.url: {shown(storage.url)} is not allowed: there is no folder {folder}"]
    return []


def examples(data: Any, objective: Any) -> int | None:
    """Return the number of training examples, None if it is only known from the data."""
    if (fake := getattr(objective, "train_examples", None)) is not None:
        return int(fake)
    if getattr(objective, "name", "") != "training":
        return None
    if (wanted := getattr(data, "train_examples", None)) is not None:
        return int(wanted)
    total = EXAMPLES.get(getattr(data, "name", ""))
    left = total - (data.held_out_examples or round(total / 6)) if total else 0
    return left if left > 0 else None  # not above 0: reported by `data_lines`


def data_lines(data: Any) -> list[str]:
    """Check that the parts of a well-known data set are not larger than the whole."""
    total = EXAMPLES.get(getattr(data, "name", ""))
    if total is None:
        return []
    train, held_out = data.train_examples or 1, data.held_out_examples or 1
    if train + held_out <= total:
        return []
    key = "train_examples" if train > held_out else "held_out_examples"
    return [
        f"data.{key}: {max(train, held_out)} is not allowed: must be at most"
        f" {total - min(train, held_out)}, since there are {total} to train on and to hold out"
    ]


def loss_lines(loss: Any, metric: Any, optimizer: Any) -> list[str]:
    """Check that accuracy, label smoothing and delta are set only for losses that have them."""
    if loss is None:
        return []
    kind = "own" if isinstance(loss, OwnConfig) else loss.name
    lines = []
    if kind not in ("huber", "own") and loss.delta != LossConfig().delta:
        lines.append(f"loss.delta: {loss.delta} is not allowed: loss {kind} has none")
    if kind not in ("cross_entropy", "own") and loss.ignore_index is not None:
        lines.append(
            f"loss.ignore_index: {loss.ignore_index} is not allowed: only loss cross_entropy has"
            " classes to leave out"
        )
    if getattr(optimizer, "label_smoothing", 0) and kind != "cross_entropy":
        lines.append(
            f"optimizer.label_smoothing: {optimizer.label_smoothing} is not allowed: only"
            " loss cross_entropy has classes to smooth"
        )
    accuracy = getattr(metric, "name", "") == "accuracy" and not isinstance(metric, OwnConfig)
    if accuracy and kind not in ("cross_entropy", "bce_with_logits"):
        lines.append(
            "metric.name: 'accuracy' is not allowed: only losses cross_entropy and bce_with_logits"
            f" have one, this loss is {kind}; choose none, or a metric of your own"
        )
    return lines


def size_lines(recipe: Any, stages: Mapping[str, BaseModel | None], most: int | None) -> list[str]:
    """Check that no batch is larger than `most`, the number of training examples."""
    sizes = {"recipe.batch_size": getattr(recipe, "batch_size", 0)}
    for name, entry in stages.items():
        if isinstance(entry, Options) and "batch_size" in getattr(entry.builds, "gives", ()):
            for i, size in enumerate(getattr(entry, "candidates", ())):
                sizes[f"stages.{name}.candidates.{i}"] = size
    return [
        f"{path}: {size} is not allowed: must be at most {most}, the number of training examples"
        for path, size in sizes.items()
        if most is not None and size > most
    ]


def dropout_lines(recipe: Any, facts: Facts) -> list[str]:
    """Check that a recipe with dropout has a model with dropout modules."""
    if recipe.dropout is None or facts.dropout is not None:
        return []
    return [
        f"recipe.dropout: {recipe.dropout} is not allowed: the model has no dropout module whose"
        " probability could be set; leave it null"
    ]


def _function_lines(objective: OwnObjectiveConfig) -> list[str]:
    """Check that a training function has a number of steps."""
    if not objective.is_function or objective.steps is not None:
        return []
    return [
        f"objective.steps: must be given with {objective.target}: the updates that a final run of"
        " the training function makes"
    ]


def own_lines(sections: Mapping[str, BaseModel]) -> list[str]:
    """Check that the user's own callables exist and take the arguments that the config gives."""
    lines = []
    for key, section in sections.items():
        if isinstance(section, OwnConfig):
            try:
                if isinstance(section, OwnObjectiveConfig):
                    lines += _function_lines(section)
                    section = section.call
                user_code.check(section, key)
            except ConfigError as error:
                lines += [f"{key}._target_: {line}" for line in error.lines]
    return lines
