"""The dry run: what a study is going to do and cost, from a few steps of each batch size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.objectives import describe
from orchestrator.plan.estimate import Play, Range, StagePlan, by_stage, likeliest, plays
from orchestrator.plan.pace import clock_of
from orchestrator.plan.prices import Clock, Prices, probe
from orchestrator.recipe import Recipe
from orchestrator.stages.stage import Stage

BOOKKEEPING = 0.02  # seconds of a run: what Optuna, MLflow and checkpoints take
# Seconds of a command beside its start and its runs: of Python, of MLflow's import, which slows the
# first run, and of report and exported model at the end. Measured: 2.4 to 3.3.
AROUND = 3.0


@dataclass(frozen=True)
class StudyPlan:
    """What a study is expected to do. Seconds are those of the whole command.

    `seconds`: the range that the share `likely` of the plays lies in, `extremes`: that of all of
    them. `runs`: what is trained. `tried`: the batch sizes that stages search with, those
    of the baselines apart. `spent`: what the probe itself took.
    """

    study: str
    device: str
    stages: Sequence[StagePlan]
    runs: Range
    seconds: Range
    likely: float
    extremes: Range
    prices: Prices
    batch_size: int
    tried: Sequence[int]
    notes: tuple[str, ...]
    spent: float


def plan_study(config: Config, clock: Clock = time.perf_counter) -> StudyPlan:
    """Probe the objective, play the study and return its plan; no study folder is made.

    The plan is that of a study from its beginning, whatever has been trained before. Raises
    ConfigError where the request turns out to be wrong.
    """
    began = clock()
    objective = build.objective(config)
    stages, recipe = build.stages(config, objective.facts), build.recipe(config, objective.facts)
    start = AROUND + clock() - began
    watch = clock_of(objective, lambda: 0.0, clock)
    prices = probe(objective, recipe, _sizes(stages, recipe), watch)
    said = describe(objective)
    if watch is clock:
        prices = replace(prices, run=prices.run + BOOKKEEPING)
    else:
        start = 0.0
    played = plays(stages, recipe, prices)
    totals = [start + play.total for play in played]
    seconds, likely = likeliest(totals)
    return StudyPlan(
        study=config.study_name,
        device=said.device,
        stages=by_stage(played),
        runs=Range.of(map(_runs, played)),
        seconds=seconds,
        likely=likely,
        extremes=Range.of(totals, left_out=0),
        prices=prices,
        batch_size=recipe.batch_size,
        tried=_sizes([stage for stage in stages if stage.kind != "final"], recipe),
        notes=(*said.notes, *said.advice(recipe.batch_size)),
        spent=clock() - began,
    )


def _runs(played: Play) -> int:
    return sum(map(len, played.runs.values()))


def _sizes(stages: Sequence[Stage], recipe: Recipe) -> list[int]:
    """Return the batch sizes that the stages ask for at first, which is all of them, or nearly."""
    start = recipe if recipe.max_lr is not None else recipe.at_lr(0.01)
    runs = [run for stage in stages for run in stage.propose(start, [])]
    return sorted({b for run in runs for b in (run.batch_size, *run.batch_sizes)})
