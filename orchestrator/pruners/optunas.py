"""Optuna's own pruners by name, for use together with the clue rules."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import optuna
from optuna import pruners

OPTUNAS: dict[str, type[pruners.BasePruner]] = {
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "hyperband": pruners.HyperbandPruner,
    "successive_halving": pruners.SuccessiveHalvingPruner,
    "wilcoxon": pruners.WilcoxonPruner,
    "patient": pruners.PatientPruner,
    "threshold": pruners.ThresholdPruner,
}
# The pruners that `patient` may wrap: those that judge a curve while it grows.
WRAPPED = {name: cls for name, cls in OPTUNAS.items() if name not in ("patient", "wilcoxon")}
# Arguments that count steps, which here are per cents of a cycle.
LEAST_PERCENT = {"min_resource": 1, "max_resource": 1, "n_warmup_steps": 0}


def build(cls: type[pruners.BasePruner], arguments: dict[str, Any]) -> pruners.BasePruner:
    """Return the pruner after a test run. Raises ValueError, one line, if it cannot work.

    The test run is needed: Hyperband fails on wrong arguments only at its first decision.
    """
    for name, least in LEAST_PERCENT.items():
        value = arguments.get(name)
        if isinstance(value, int) and not least <= value <= 100:
            raise ValueError(
                f"{name}={value}: a step is a per cent of the cycle here, so choose {least} to 100"
            )
    lowest, highest = arguments.get("min_resource"), arguments.get("max_resource")
    if isinstance(lowest, int) and isinstance(highest, int) and lowest > highest:
        raise ValueError(f"min_resource={lowest} is above max_resource={highest}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ExperimentalWarning
            made = cls(**arguments)
            _try(copy.deepcopy(made))  # a copy: Optuna's pruners keep state of the first trials
    except Exception as error:
        given = ", ".join(
            f"{k}={name_of(v) if isinstance(v, pruners.BasePruner) else repr(v)}"
            for k, v in arguments.items()
        )
        problem = " ".join(str(error).split())
        raise ValueError(
            f"Optuna's {cls.__name__}({given}) does not work: {type(error).__name__}: {problem}"
        ) from error
    return made


def _try(pruner: pruners.BasePruner) -> None:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(pruner=pruner)
        for number in range(3):
            trial = study.ask()
            for percent in (1, 5, 25, 50, 100):
                trial.report((1 + number) / percent, percent)  # without ties: slow for Wilcoxon
                trial.should_prune()
            study.tell(trial, 1.0 + number)
    finally:
        optuna.logging.set_verbosity(level)


def name_of(pruner: pruners.BasePruner) -> str:
    """Return the name of the pruner's class, with that of the pruner it wraps."""
    inner = getattr(pruner, "_wrapped_pruner", None)
    name = type(pruner).__name__
    return f"{name}({name_of(inner)})" if inner is not None else name


def halves(pruner: pruners.BasePruner) -> bool:
    """Whether the pruner is a successive halving, which stores attributes with the trials."""
    inner = getattr(pruner, "_wrapped_pruner", pruner)
    return isinstance(inner, pruners.SuccessiveHalvingPruner | pruners.HyperbandPruner)


def settings_of(pruner: pruners.BasePruner) -> str:
    """Return class and settings as text, equal for equal pruners in all processes."""
    parts = []
    for name, value in sorted(vars(pruner).items()):
        shown = settings_of(value) if isinstance(value, pruners.BasePruner) else repr(value)
        parts.append(f"{name.lstrip('_')}={shown}")
    return f"{type(pruner).__name__}({', '.join(parts)})"
