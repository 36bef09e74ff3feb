"""Decisions against ground truth: ten seeds per candidate in full final runs.

Each context is a recipe (another max_lr, momentum, weight decay) in which several studies, each
with its own seed, decide one stage. The truth of a context is the candidate with the lowest mean
held-out loss over the truth seeds; a candidate is tied with it if their paired difference is within
two standard errors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import workloads
from workloads import TRUTH, WORKLOADS, Task, in_parallel

from orchestrator.recipe import Recipe
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.stage import Seen

STAGES = ("momentum", "weight_decay", "batch_size", "lr_check")
CONTEXTS = 4
STUDIES = 5  # decisions of one stage and workload: CONTEXTS x STUDIES


@dataclass(frozen=True)
class Verdict:
    """One decision beside the truth: `excess` is its log loss over the truth's, in truth runs."""

    stage: str
    right: bool
    tied: bool
    excess: float
    incumbent_excess: float
    kept: bool


def contexts(task: Task) -> list[Recipe]:
    """Return recipes around the useful rates, some with a poor momentum or weight decay."""
    low, middle, high = task.workload.lrs[0], task.workload.lrs[1], task.workload.lrs[2]
    recipe = task.recipe
    return [
        recipe.at_lr(middle),
        recipe.at_lr(high),
        replace(recipe.at_lr(low), weight_decay=1e-3),
        replace(recipe.at_lr(middle), max_momentum=0.95, weight_decay=0.0),
    ]


def truth(task: Task, candidates: Sequence[Recipe], seeds: int) -> list[list[float]]:
    """Return the held-out losses of each candidate, shape (candidates, seeds)."""
    return [
        [
            o.held_out_loss
            for o in task.outcomes([task.final(r, TRUTH + 100 + i) for i in range(seeds)])
        ]
        for r in candidates
    ]


def variants(task: Task, stage: str, recipe: Recipe) -> list[Recipe]:
    """Return what the stage chooses between."""
    made = task.stages[stage]
    if isinstance(made, CandidateStage):
        seen = Seen(recipe, [])
        return [made.variant(seen, value) for value in made.values(seen)]
    lr = recipe.max_lr or math.nan  # batch sizes: each with the rates that its own ramps may give
    own = recipe.batch_size
    return [
        replace(recipe.at_lr(lr * factor * math.sqrt(size / own)), batch_size=size)
        for size in task.workload.batch_sizes
        for factor in (0.5, 1.0, 2.0)
    ]


def _context(item: tuple[str, str | None, int, int]) -> list[Verdict]:
    name, path, number, seeds = item
    judge = WORKLOADS[name].of(0, path)
    recipe = contexts(judge)[number]
    verdicts = []
    for stage in STAGES:
        for study in range(STUDIES):
            task = WORKLOADS[name].of(100 + study, path)
            decision = task.decide(stage, recipe)
            chosen = recipe.with_(decision)
            candidates = variants(judge, stage, recipe)
            pool = list(dict.fromkeys([replace(r, history=()) for r in (recipe, *candidates)]))
            at = replace(chosen, history=())
            if at not in pool:
                pool.append(at)
            losses = truth(judge, pool, seeds)
            verdicts.append(_verdict(stage, losses, pool.index(at), decision.incumbent_kept))
    return verdicts


def _verdict(stage: str, losses: list[list[float]], chosen: int, kept: bool) -> Verdict:
    logs = np.log(np.where(np.isfinite(losses), losses, 1e9))
    means = logs.mean(1)
    best = int(np.argmin(means))
    gaps = logs[chosen] - logs[best]
    error = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    excess = float(means[chosen] - means[best])
    return Verdict(
        stage=stage,
        right=chosen == best,
        tied=chosen == best or excess <= 2 * error,
        excess=excess,
        incumbent_excess=float(means[0] - means[best]),
        kept=kept,
    )


def run(options: Any) -> dict[str, Any]:
    """Run the part: CONTEXTS x STUDIES decisions a stage and workload."""
    rows = []
    for name, w in WORKLOADS.items():
        if w.needs_cifar and not options.cifar:
            continue
        seeds = 2 if options.quick else (10 if w.seeds >= 10 else 5)
        count = 1 if options.quick else CONTEXTS
        items = [(name, options.cifar, number, seeds) for number in range(count)]
        by_stage: dict[str, list[Verdict]] = defaultdict(list)
        for verdicts in in_parallel(_context, items, workloads.workers()):
            for verdict in verdicts:
                by_stage[verdict.stage].append(verdict)
        rows += [{"workload": name, "truth_seeds": seeds, **_summary(v)} for v in by_stage.values()]
    return {"rows": rows}


def _summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    excess = [v.excess for v in verdicts]
    return {
        "stage": verdicts[0].stage,
        "decisions": len(verdicts),
        "right": sum(v.right for v in verdicts),
        "right_or_tied": sum(v.tied for v in verdicts),
        "kept": sum(v.kept for v in verdicts),
        "excess_mean": mean(excess),
        "excess_median": median(excess),
        "excess_worst": max(excess),
        "excess_sd": stdev(excess) if len(excess) > 1 else 0.0,
        "incumbent_excess_mean": mean(v.incumbent_excess for v in verdicts),
        "made_worse": sum(v.excess > v.incumbent_excess + 0.03 for v in verdicts),
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| workload | stage | decisions | the best | the best or tied with it | incumbent kept |"
        " excess loss: mean (worst) | excess had the incumbent stayed | made worse by over 3 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['workload']} | {r['stage']} | {r['decisions']} | {r['right']} | {r['right_or_tied']}"
        f" | {r['kept']} | {100 * r['excess_mean']:.1f} % ({100 * r['excess_worst']:.0f} %)"
        f" | {100 * r['incumbent_excess_mean']:.1f} % | {r['made_worse']} |"
        for r in result["rows"]
    ]
    return "\n".join(lines)
