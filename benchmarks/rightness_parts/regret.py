"""Regret: the staged recipe against the best of a large grid, and against the baselines.

Every recipe of the grid is trained at the same time budget as the final run. The best cell by mean
held-out loss is trained again on fresh seeds beside the answers of the studies, so that it is not
flattered by having been chosen. Regret is the log ratio of mean losses, in per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median, stdev
from typing import Any

import workloads
from workloads import TRUTH, WORKLOADS, Task, in_parallel

from orchestrator.recipe import Recipe

FRESH = TRUTH + 500  # replicates that judge the chosen recipes
PARTS = 20  # pieces of the grid for the processes
LEAST = 3  # seeds of the cells that may be the best
PLAN = ("lr_range", "momentum", "weight_decay", "batch_size", "lr_check", "final")


def grid(task: Task) -> list[Recipe]:
    """Return all recipes of the workload's grid."""
    w = task.workload
    return [
        replace(
            task.recipe.at_lr(lr),
            max_momentum=m,
            min_momentum=min(task.recipe.min_momentum, m),
            weight_decay=wd,
            batch_size=size,
        )
        for size in w.batch_sizes
        for lr in w.lrs
        for m in w.momenta
        for wd in w.weight_decays
    ]


def held_out(task: Task, recipe: Recipe, first: int, seeds: int) -> float:
    """Return the mean held-out loss of a recipe at its end; inf if a seed was lost."""
    runs = [task.final(recipe, first + i) for i in range(seeds)]
    losses = [o.held_out_loss for o in task.outcomes(runs)]
    return mean(losses) if all(x < task.facts.chance_loss for x in losses) else math.inf


def _cells(item: tuple[str, str | None, int, int, int]) -> list[float]:
    name, path, part, parts, seeds = item
    task = WORKLOADS[name].of(0, path)
    return [held_out(task, r, TRUTH, seeds) for r in grid(task)[part::parts]]


def _again(item: tuple[str, str | None, int]) -> float:
    name, path, number = item
    task = WORKLOADS[name].of(0, path)
    return held_out(task, grid(task)[number], TRUTH, LEAST)


def grid_losses(name: str, path: str | None, seeds: int) -> list[float]:
    """Return the mean held-out loss of each cell of the grid, trained where it is not known.

    Fewer than three seeds: only the best twentieth of the cells gets three.
    """
    items = [(name, path, part, PARTS, seeds) for part in range(PARTS)]
    pieces = in_parallel(_cells, items, workloads.workers())
    losses = [math.nan] * sum(map(len, pieces))
    for part, piece in enumerate(pieces):
        losses[part::PARTS] = piece
    if seeds >= LEAST:
        return losses
    best = sorted(range(len(losses)), key=losses.__getitem__)[: len(losses) // 20]
    again = in_parallel(_again, [(name, path, i) for i in best], workloads.workers())
    for i, loss in zip(best, again, strict=True):
        losses[i] = loss
    return [loss if i in best else math.inf for i, loss in enumerate(losses)]


def _judged(task: Task, recipe: Recipe, seeds: int) -> dict[str, Any]:
    outcomes = task.outcomes([task.final(recipe, FRESH + i, test=True) for i in range(seeds)])
    return {
        "recipe": recipe.values(),
        "held_out": [o.held_out_loss for o in outcomes],
        "test": [o.result.test_loss for o in outcomes],
        "test_metric": [o.result.test_metric for o in outcomes],
    }


def _study(item: tuple[str, str | None, int, int]) -> dict[str, Any]:
    name, path, seed, seeds = item
    task = WORKLOADS[name].of(seed, path)
    recipe, decisions = task.study(PLAN)
    if "final" not in decisions or not decisions["final"].answered:
        return {"seed": seed, "answered": False, "reason": list(decisions.values())[-1].reason}
    judge = WORKLOADS[name].of(0, path)  # the same judges for all study seeds and for the grid
    ramped = recipe.after("lr_range")
    before = recipe.after("lr_check") or recipe
    assert ramped is not None
    return {
        "seed": seed,
        "answered": True,
        "staged": _judged(judge, recipe, seeds),
        "unconfirmed": _judged(judge, before, seeds),
        "range_test_only": _judged(judge, ramped, seeds),
        "examples": sum(o.result.examples for o in task.ran.values()),
        "cost_in_final_runs": task.cost(task.ran.values()) / task.final_seconds,
        "reasons": {k: d.reason for k, d in decisions.items()},
    }


def one(name: str, path: str | None, studies: int, grid_seeds: int, fresh: int) -> dict[str, Any]:
    """Return the regret of so many studies of one workload."""
    losses = grid_losses(name, path, grid_seeds)
    task = WORKLOADS[name].of(0, path)
    cells = grid(task)
    best = cells[min(range(len(cells)), key=losses.__getitem__)]
    top = _judged(task, best, fresh)
    untuned = _judged(task, replace(task.recipe.at_lr(0.1), batch_size=64), fresh)
    items = [(name, path, seed, fresh) for seed in range(studies)]
    found = in_parallel(_study, items, workloads.workers())
    answered = [s for s in found if s["answered"]]
    result: dict[str, Any] = {
        "workload": name,
        "grid": len(cells),
        "grid_seeds": grid_seeds,
        "fresh_seeds": fresh,
        "best_cell": best.values(),
        "best_held_out": mean(top["held_out"]),
        "best_test": mean(top["test"]),
        "best_test_metric": mean(top["test_metric"]),
        "seed_sd": stdev(map(math.log, top["held_out"])),
        "seed_sd_test": stdev(map(math.log, top["test"])),
        "studies": studies,
        "answered": len(answered),
        "no_answer": [s["reason"] for s in found if not s["answered"]],
        "cost_in_final_runs": median(s["cost_in_final_runs"] for s in answered),
    }
    for who in ("staged", "unconfirmed", "range_test_only"):
        result[who] = _regret([s[who] for s in answered], top)
    result["untuned"] = _regret([untuned], top)
    result["worse_than_range_test_only"] = sum(
        _worse(s["staged"], s["range_test_only"]) for s in answered
    )
    result["better_than_range_test_only"] = sum(
        _worse(s["range_test_only"], s["staged"]) for s in answered
    )
    result["recipes"] = [
        {k: s["staged"]["recipe"][k] for k in FIELDS} | {"seed": s["seed"]} for s in answered
    ]
    return result


FIELDS = ("max_lr", "max_momentum", "weight_decay", "batch_size")


def _regret(judged: Sequence[dict[str, Any]], top: dict[str, Any]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for part in ("held_out", "test"):
        logs = [_log_mean(j[part]) - _log_mean(top[part]) for j in judged]
        fine = [x for x in logs if math.isfinite(x)]
        out[f"{part}_median"] = median(fine) if fine else None
        out[f"{part}_worst"] = max(fine) if fine else None
        out[f"{part}_lost"] = len(logs) - len(fine)
    metrics = [m for j in judged for m in j["test_metric"] if math.isfinite(m)]
    out["test_metric"] = mean(metrics) if metrics else None
    return out


def _log_mean(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.log(middle) if math.isfinite(middle) and middle > 0 else math.inf


def _worse(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `one` loses to `other` on the fresh seeds: paired, by two standard errors."""
    if one["recipe"] == other["recipe"]:
        return False
    pairs = zip(one["held_out"], other["held_out"], strict=True)
    logs = [
        math.log(a / b) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in pairs
    ]
    if not all(map(math.isfinite, logs)):
        return not all(map(math.isfinite, one["held_out"]))
    return mean(logs) > 2 * stdev(logs) / math.sqrt(len(logs))


def run(options: Any) -> dict[str, Any]:
    """Run the part: every workload that can be run."""
    rows = []
    for name, w in WORKLOADS.items():
        if w.needs_cifar and not options.cifar:
            continue
        studies, fresh = (2, 3) if options.quick else (10, 10) if w.seeds >= 10 else (6, 5)
        seeds = 1 if options.quick or w.seeds < LEAST else w.seeds
        rows.append(one(name, options.cifar, studies, seeds, fresh))
    return {"rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| workload | best of the grid: test loss (accuracy) | seed sd | staged: median (worst) |"
        " range test only | untuned | studies beyond noise: worse / better than range test only |"
        " cost in final runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        cells = [
            r["workload"],
            f"{r['best_test']:.3f} ({100 * r['best_test_metric']:.1f} %)",
            f"{100 * r['seed_sd']:.0f} %",
        ]
        cells += [_cell(r[who]) for who in ("staged", "range_test_only", "untuned")]
        cells += [
            f"{r['worse_than_range_test_only']} / {r['better_than_range_test_only']}"
            f" of {r['answered']}",
            f"{r['cost_in_final_runs']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(regret: dict[str, Any]) -> str:
    if regret["held_out_median"] is None:
        return "lost"
    parts = [
        f"{part.replace('_', '-')} {100 * regret[f'{part}_median']:+.0f} %"
        f" ({100 * regret[f'{part}_worst']:+.0f} %)"
        for part in ("held_out", "test")
    ]
    text = ", ".join([*parts, f"{100 * regret['test_metric']:.1f} %"])
    return text + (f", {regret['held_out_lost']} lost" if regret["held_out_lost"] else "")
