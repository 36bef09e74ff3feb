"""The chosen recipe against the optimum, on random quadratic problems of which it is known.

`QuadraticObjective.expected_loss` is exact, so nothing here is noisy but the studies themselves.
The optimum is searched over max_lr, momentum and weight decay at each batch size, at the time of
the untuned final run, under the same schedule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import numpy as np
import workloads
from workloads import in_parallel

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.objectives.quadratic import QuadraticObjective, random_problem
from orchestrator.recipe import Recipe
from orchestrator.stages.stage import cycle, walk
from orchestrator.testing import execute

SIZES = (16, 32, 64, 128, 256)
PLAN = ("lr_range", "momentum", "weight_decay", "batch_size", "lr_check", "final")


def expected(objective: QuadraticObjective, recipe: Recipe, own_size: int) -> float:
    """Return the exact mean loss of a final run of the recipe, as long as `own_size` takes."""
    seconds = objective.step_seconds
    steps = objective.facts.steps(1, own_size) * seconds(own_size) / seconds(recipe.batch_size)
    return objective.expected_loss(cycle(recipe, max(10, round(steps)), 0, ""))


def optimum(objective: QuadraticObjective, start: Recipe) -> tuple[Recipe, float]:
    """Return the best recipe: a golden section over lr per size, then a simplex at the best two."""
    from scipy.optimize import minimize

    peak = 2 / objective.problem.curvature

    def at(recipe: Recipe) -> float:
        return math.log(min(expected(objective, recipe, start.batch_size), 1e9))

    by_size = []
    for size in SIZES:
        sized = replace(start, batch_size=size)
        rates = peak * np.logspace(-2.5, 1, 12)
        values = [at(sized.at_lr(lr)) for lr in rates]
        best = int(np.argmin(values))
        by_size.append((values[best], size, float(rates[best])))

    def recipe_of(x: Sequence[float], size: int) -> Recipe:
        momentum = 1 / (1 + math.exp(-x[1]))
        return replace(
            start.at_lr(math.exp(x[0])),
            batch_size=size,
            max_momentum=momentum,
            min_momentum=min(start.min_momentum, momentum),
            weight_decay=math.exp(x[2]),
        )

    found = []
    for _, size, lr in sorted(by_size)[:2]:
        for decay in (1e-5, 0.02):  # the loss is flat at small decays: start on both sides
            x0 = np.array([math.log(lr), math.log(0.9 / 0.1), math.log(decay)])
            simplex = np.array([x0, *(x0 + np.eye(3) * [0.5, 0.7, 1.5])])
            done = minimize(
                lambda x, size=size: at(recipe_of(x, size)),
                x0,
                method="Nelder-Mead",
                options={"maxfev": 70, "initial_simplex": simplex},
            )
            found.append((float(done.fun), recipe_of(done.x, size)))
    value, recipe = min(found, key=lambda f: f[0])
    return recipe, math.exp(value)


def known_optimum(seed: int, objective: QuadraticObjective, start: Recipe) -> float:
    """Return the least expected loss of a random problem, searched for once."""
    file = workloads.CACHE / "optimum" / f"{seed}.json"
    if not file.exists():
        recipe, loss = optimum(objective, start)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"loss": loss, "recipe": recipe.values()}))
    return float(json.loads(file.read_text())["loss"])


def problem(seed: int) -> dict[str, Any]:
    """Return what the study of one random problem chose, and what it could have had."""
    constants = {"name": "quadratic", **asdict(random_problem(seed))}
    config = Config.from_mapping(
        {
            "objective": constants,
            "seed": seed,
            "tracking": {"name": "none"},
            "stages": {"batch_size": {"candidates": list(SIZES)}},
        }
    )
    objective = build.objective(config, workloads.CACHE)
    assert isinstance(objective, QuadraticObjective)
    recipe = start = build.recipe(config, objective.facts)
    reasons = {}
    for stage in build.stages(config, objective.facts):
        decision, _ = walk(stage, recipe, lambda runs: [execute(objective, r) for r in runs])
        recipe = recipe.with_(decision)
        reasons[stage.name] = decision.reason
        if recipe.max_lr is None:
            return {"seed": seed, "answered": False, "reason": decision.reason}
    best = known_optimum(seed, objective, start)
    ramped = recipe.after("lr_range")
    assert ramped is not None
    size = start.batch_size
    return {
        "seed": seed,
        "answered": True,
        "best": best,
        "staged": expected(objective, recipe, size),
        "range_test_only": expected(objective, ramped, size),
        "untuned": expected(objective, start.at_lr(0.1), size),
        "chance": objective.facts.chance_loss,
        "reasons": reasons,
    }


def run(options: Any) -> dict[str, Any]:
    """Run the part: 200 problems, or 6."""
    found = in_parallel(problem, range(6 if options.quick else 200), workloads.workers())
    answered = [f for f in found if f["answered"]]
    rows = {}
    for who in ("staged", "range_test_only", "untuned"):
        ratios = [f[who] / f["best"] - 1 for f in answered]
        lost = sum(not f[who] < f["chance"] for f in answered)
        rows[who] = {
            "median": median(ratios),
            "p95": sorted(ratios)[int(0.95 * (len(ratios) - 1))],
            "within_10_percent": sum(r <= 0.1 for r in ratios),
            "lost": lost,
        }
    worst = sorted(answered, key=lambda f: f["staged"] / f["best"], reverse=True)[:5]
    worse = sum(f["staged"] > 1.05 * f["range_test_only"] for f in answered)
    return {
        "problems": len(found),
        "answered": len(answered),
        "no_answer": [f["reason"] for f in found if not f["answered"]],
        "rows": rows,
        "worse_than_range_test_only_by_5_percent": worse,
        "worst": worst,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        f"{result['answered']} of {result['problems']} problems answered; excess of the exact final"
        " loss over the optimum's:",
        "",
        "| recipe | median | 95th percentile | within 10 % | above chance |",
        "|---|---|---|---|---|",
    ]
    for who, r in result["rows"].items():
        lines.append(
            f"| {who} | {100 * r['median']:.1f} % | {_percent(r['p95'])} |"
            f" {r['within_10_percent']} | {r['lost']} |"
        )
    lines += [
        "",
        f"Staged is more than 5 % worse than range test only in"
        f" {result['worse_than_range_test_only_by_5_percent']} of {result['answered']}.",
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    """Return a share as text, "lost" where the loss is not finite."""
    return f"{100 * share:.0f} %" if share is not None and math.isfinite(share) else "lost"
