"""A/A: candidates that differ only in a label that enters seed and key are to be called a tie.

They are not paired: each label has its own seeds, which is harder than what a study does. The whole
logic of the momentum and weight-decay stages is in it, two horizons and further seeds included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import workloads
from workloads import WORKLOADS, Task, in_parallel

from orchestrator.curve import Outcome
from orchestrator.objectives.quadratic import QuadraticObjective, random_problem
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.stage import walk
from orchestrator.stages.weight_decay import WeightDecay
from orchestrator.testing import execute

LABELS = 4
STEP = 1e-9  # weight decays so close that they train alike; the label is read off them


def label_of(run: Run, base: float) -> int:
    """Return which of the equal candidates a run is of."""
    return round((run.weight_decay - base) / STEP)


def decided(facts: Facts, recipe: Recipe, outcome_of: Any) -> Decision:
    """Take a weight-decay stage of equal candidates to its decision."""
    base = recipe.weight_decay
    candidates = tuple(base + STEP * k for k in range(LABELS))
    stage = WeightDecay(name="weight_decay", facts=facts, candidates=candidates, refine=0)

    def run_round(runs: list[Run]) -> list[Outcome]:
        return [replace(outcome_of(run, label_of(run, base)), run=run) for run in runs]

    return walk(stage, recipe, run_round)[0]


def _quadratic(seed: int) -> bool:
    problem = random_problem(seed)
    objectives = [QuadraticObjective(problem, seed=LABELS * seed + k) for k in range(LABELS)]
    recipe = Recipe(weight_decay=5e-4).at_lr(0.3 / problem.curvature)
    decision = decided(
        objectives[0].facts, recipe, lambda run, label: execute(objectives[label], run)
    )
    return bool(decision.incumbent_kept)


def _real(item: tuple[str, str | None, int]) -> bool:
    name, path, seed = item
    tasks: Mapping[int, Task] = {
        k: WORKLOADS[name].of(1000 + LABELS * seed + k, path) for k in range(LABELS)
    }
    lrs = WORKLOADS[name].lrs
    recipe = tasks[0].recipe.at_lr(lrs[1 + seed % 3])
    decision = decided(tasks[0].facts, recipe, lambda run, label: tasks[label].outcome(run))
    return bool(decision.incumbent_kept)


def run(options: Any) -> dict[str, Any]:
    """Run the part."""
    count, rows = (10 if options.quick else 1000), {}
    ties = in_parallel(_quadratic, range(count), workloads.workers())
    rows["quadratic"] = {"stages": count, "ties": sum(ties)}
    for name, studies in {"digits": 300, "digits_x5": 100, "digits_bn": 20, "cifar": 10}.items():
        if WORKLOADS[name].needs_cifar and not options.cifar:
            continue
        items = [(name, options.cifar, seed) for seed in range(2 if options.quick else studies)]
        ties = in_parallel(_real, items, workloads.workers())
        rows[name] = {"stages": len(items), "ties": sum(ties)}
    return {"rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| workload | stages | called a tie | share |", "|---|---|---|---|"]
    for name, r in result["rows"].items():
        share = 100 * r["ties"] / r["stages"]
        lines.append(f"| {name} | {r['stages']} | {r['ties']} | {share:.1f} % |")
    return "\n".join(lines)
