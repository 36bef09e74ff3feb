"""Runs that measure instead of train: memory and seconds per step of several batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from orchestrator.curve import Outcome
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.stages.stage import schedule_of


def measure(kind: Literal["probe", "calibrate"], recipe: Recipe, sizes: Sequence[int]) -> Run:
    """Return the run that measures memory ("probe") or seconds per step of all `sizes` at once."""
    ordered = tuple(sorted(set(sizes)))
    return Run(
        kind=kind,
        schedule=schedule_of(recipe),
        weight_decay=recipe.weight_decay,
        batch_size=ordered[-1],
        steps=1,
        replicate=0,
        prunable=False,
        timed=kind == "calibrate",
        batch_sizes=ordered,
        dropout=recipe.dropout,
        label=f"{kind} {', '.join(map(str, ordered))}",
    )


def measured(outcomes: Sequence[Outcome], kind: str, what: str) -> dict[int, Any]:
    """Return `what` the latest finished run of `kind` measured, by batch size; {} without one."""
    done = [o for o in outcomes if o.run.kind == kind and o.state == "finished"]
    table = done[-1].result.measured.get(what, {}) if done else {}
    return {int(size): value for size, value in table.items()}


def equal_time_steps(facts: Facts, outcomes: Sequence[Outcome], size: int, other: int) -> int:
    """Return the steps with batches of `other` in the time of a final run with batches of `size`.

    Without measured seconds per step, those for equal examples.
    """
    seconds = measured(outcomes, "calibrate", "seconds_per_step")
    if other == size or not seconds:
        return facts.steps(1, other)
    ratio: float = seconds[size] / seconds[other]
    return max(10, round(facts.steps(1, size) * ratio))
