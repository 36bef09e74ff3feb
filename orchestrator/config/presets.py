"""Presets of plan, stages and budget, by `effort`. What is set by the user goes first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

Effort = Literal["quick", "standard", "thorough"]
PLAN = ("lr_range", "momentum", "weight_decay", "batch_size", "lr_check", "final")
WITH_FIRST_RUN = ("lr_range", "first_run", *PLAN[1:])
SHORT_RAMPS = {"share": 0.08, "min_steps": 30}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "plan": ("lr_range", "first_run", "weight_decay", "final"),
        "stages": {"lr_range": SHORT_RAMPS, "final": {"seeds": 1, "baselines": False}},
        "budget": {"final_runs": 2.8},
    },
    "standard": {
        "plan": WITH_FIRST_RUN,
        "stages": {"lr_range": SHORT_RAMPS, "final": {"seeds": 1}},
        "budget": {"final_runs": 6.0},
    },
    "thorough": {"plan": PLAN},
}
# Options of stages that compare by significance: with another effort they would change nothing.
BY_SIGNIFICANCE = frozenset({
    "seeds", "max_seeds", "horizons", "margin", "tie", "refine", "mode", "ramps", "ramp_share",
    "min_steps", "lr_factor", "share", "target", "tolerance", "max_sizes", "ramp_top",
    "ramp_max_momentum", "ramp_min_momentum", "reach",
})  # fmt: skip
# By kind of stage: what only `thorough` does, and the options of it.
BY_COMPARISON = "compares candidates by significance", BY_SIGNIFICANCE
THOROUGH: Mapping[str, tuple[str, frozenset[str]]] = {
    "lr_range": ("makes linear ramps", frozenset({"ramps"})),
    "momentum": BY_COMPARISON,
    "weight_decay": BY_COMPARISON,
    "dropout": BY_COMPARISON,
    "batch_size": BY_COMPARISON,
    "lr_check": BY_COMPARISON,
}


def with_presets(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mapping` with what its effort presets beneath it; it stays as it is where wrong."""
    effort = mapping.get("effort", "standard")
    preset = PRESETS.get(effort, {}) if isinstance(effort, str) else {}
    made = dict(mapping)
    if made.get("plan") is None and "plan" in preset:
        made["plan"] = list(preset["plan"])
    for section in ("stages", "budget"):
        given = made.get(section)
        if isinstance(given, Mapping | None):
            made[section] = _merged(preset.get(section, {}), given or {})
    return made


def _merged(beneath: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    made = {**beneath, **given}
    for key in beneath.keys() & given.keys():
        if isinstance(beneath[key], Mapping) and isinstance(given[key], Mapping):
            made[key] = {**beneath[key], **given[key]}
        elif given[key] is None and isinstance(beneath[key], Mapping):
            made[key] = beneath[key]
    return made


def lines(mapping: Mapping[str, Any]) -> list[str]:
    """Return a problem for each option that this effort would ignore."""
    from orchestrator.stages import STAGES

    effort, stages = mapping.get("effort", "standard"), mapping.get("stages")
    if effort not in get_args(Effort) or effort == "thorough" or not isinstance(stages, Mapping):
        return []
    return [
        f"stages.{name}.{key}: only effort=thorough {does}, effort is {effort}: leave it out, or"
        " set effort=thorough"
        for name, entry in stages.items()
        if isinstance(entry, Mapping) and (kind := entry.get("kind", name)) in THOROUGH
        for does, ignored in [THOROUGH[kind]]
        for key, value in entry.items()
        if key in ignored and not _is_default(STAGES[kind], key, value)
    ]


def _is_default(stage: type, key: str, value: Any) -> bool:
    """Whether an option is at its default, as in a config that is read back."""
    default = next((f.default for f in dataclasses.fields(stage) if f.name == key), None)
    return bool((tuple(value) if isinstance(value, list) else value) == default)
