"""A training function tried out before the study: two steps, twice with one seed, and another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from orchestrator.config.user_code import raised
from orchestrator.curve import Result
from orchestrator.errors import ConfigError, out_of_memory
from orchestrator.objectives import StopRun
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.stages.ramps import round_to
from orchestrator.training.function.measure import NoSession
from orchestrator.training.function.trial import Trial
from orchestrator.training.optimizer import name_of

STEPS = 2
NOTHING, SOMETHING = 1e-12, 1e-2  # lr of the first step, which changes nothing, and beyond the last
SAME, SAME_ON_GPU = 1e-6, 1e-3  # losses that differ by this share are those of one run


@dataclass(frozen=True)
class Rehearsal:
    """What a training function turned out to do.

    `start_loss`: held-out loss before any training, 3 digits. `optimizer`, `nesterov`: as a recipe
    has them. `momentum`, `weight_decay`: those that the optimiser had. `device`: where it trains.
    `metric`: the name of what is reported beside the losses. `uses_batch_size`, `uses_seed`,
    `has_test`, `keeps_end`: whether the function does. `notes`: what it said by `Trial.note`.
    """

    start_loss: float
    optimizer: str
    nesterov: bool
    momentum: float
    weight_decay: float
    device: torch.device
    metric: str | None
    uses_batch_size: bool
    uses_seed: bool
    has_test: bool
    keeps_end: bool
    notes: tuple[str, ...]


def rehearse(
    do: Callable[[Trial], object], name: str, batch_size: int, seeds: tuple[int, int]
) -> Rehearsal:
    """Try the function out with two seeds. Raises ConfigError, one line, for what it does wrong."""
    schedule = Schedule("range_test", NOTHING, SOMETHING, 0.9, 0.9)
    run = Run("train", schedule, 0.0, batch_size, STEPS, 0, points=STEPS, kept=True)
    one, two = seeds
    first, again, other = (_tried(do, Trial(run, NoSession(), name, s)) for s in (one, one, two))
    before = first.points[0].held_out_loss
    if not 0 < before < math.inf:
        raise first.misuse(
            f"reports a held-out loss of {before:.3g} before any training: it must be finite and"
            " above 0"
        )
    if "steps" not in first.asked:
        raise first.misuse("does not read trial.steps: loop over range(trial.steps)")
    _compare(first, again)
    assert first.groups is not None
    return Rehearsal(
        start_loss=round_to(before),
        optimizer=_recipes_name(first.groups.optimizer),
        nesterov=bool(first.groups.optimizer.param_groups[0].get("nesterov")),
        momentum=first.groups.momentum,
        weight_decay=first.groups.weight_decay,
        device=first.device,
        metric=first.metric_name,
        uses_batch_size="batch_size" in first.asked,
        uses_seed=not _same(first, other),
        has_test=first.has_test,
        keeps_end=first.keeps_end,
        notes=tuple(first.notes),
    )


def _tried(do: Callable[[Trial], object], trial: Trial) -> Trial:
    try:
        given = do(trial)
    except StopRun:  # a loss that is not finite: the caller reads it
        return trial
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise trial.misuse(
                f"runs out of memory with batch size {trial.batch_size}: choose a smaller one"
            ) from error
        raise trial.misuse(f"raised {raised(error)}") from error
    if not trial.points:
        raise trial.misuse("returned without a report: call trial.report where trial.due(step)")
    if not isinstance(given, Result):
        raise trial.misuse(f"must return trial.result(...), got {type(given).__name__}")
    return trial


def _recipes_name(optimizer: Optimizer) -> str:
    """Return what a recipe calls an optimiser: sgd, adamw, or where its class is from."""
    kind = type(optimizer)
    name = name_of(optimizer)
    return name if name in ("sgd", "adamw") else f"{kind.__module__}.{kind.__qualname__}"


def _losses(trial: Trial) -> list[float]:
    return [loss for p in trial.points for loss in (p.held_out_loss, p.train_loss)]


def _near(a: float, b: float, trial: Trial) -> bool:
    share = SAME if trial.device.type == "cpu" else SAME_ON_GPU
    return math.isclose(a, b, rel_tol=share) or (math.isnan(a) and math.isnan(b))


def _same(one: Trial, other: Trial) -> bool:
    pairs = zip(_losses(one), _losses(other), strict=False)
    return all(_near(a, b, one) for a, b in pairs)


def _compare(first: Trial, again: Trial) -> None:
    """Raise ConfigError if two runs with one seed are not the same."""
    if _same(first, again):
        return
    a, b = first.points[0], again.points[0]
    if not _near(a.held_out_loss, b.held_out_loss, first):
        raise first.misuse(
            f"begins with another network in a second run of one seed (held-out loss"
            f" {a.held_out_loss:.6g}, then {b.held_out_loss:.6g}): make model and optimiser anew in"
            " each call, random only by trial.seed or the global random states"
        )
    raise first.misuse(
        f"trains otherwise in a second run of one seed (train loss {a.train_loss:.6g}, then"
        f" {b.train_loss:.6g}): shuffle and augment by trial.seed or the global random states alone"
    )
