"""The order of stages: batch size after momentum and weight decay, or right after the LR."""

from __future__ import annotations

import math
from statistics import mean, median, stdev
from typing import Any

import workloads
from rightness_parts.regret import FRESH
from workloads import WORKLOADS, in_parallel

ORDERS = {
    "momentum, weight decay, batch size": (
        "lr_range",
        "momentum",
        "weight_decay",
        "batch_size",
        "lr_check",
    ),
    "batch size, momentum, weight decay": (
        "lr_range",
        "batch_size",
        "momentum",
        "weight_decay",
        "lr_check",
    ),
    "batch size only": ("lr_range", "batch_size", "lr_check"),
    "range test only": ("lr_range",),
}


def _study(item: tuple[str, str | None, int, int]) -> dict[str, dict[str, float]] | None:
    name, path, seed, fresh = item
    judge = WORKLOADS[name].of(0, path)
    found = {}
    for order, plan in ORDERS.items():
        task = WORKLOADS[name].of(200 + seed, path)
        recipe, _ = task.study(plan)
        if recipe.max_lr is None:
            return None
        outcomes = judge.outcomes([judge.final(recipe, FRESH + i) for i in range(fresh)])
        loss = mean(o.held_out_loss for o in outcomes)
        cost = task.cost(task.ran.values()) / task.final_seconds
        found[order] = {"log_loss": math.log(loss), "cost": cost, "batch_size": recipe.batch_size}
    return found


def run(options: Any) -> dict[str, Any]:
    """Run the part."""
    rows = []
    for name, w in WORKLOADS.items():
        if w.needs_cifar and not options.cifar:
            continue
        studies, fresh = (2, 2) if options.quick else (10 if w.seeds >= 10 else 4, 5)
        items = [(name, options.cifar, seed, fresh) for seed in range(studies)]
        studies_found = [f for f in in_parallel(_study, items, workloads.workers()) if f]
        first = next(iter(ORDERS))
        for order in ORDERS:
            gaps = [f[order]["log_loss"] - f[first]["log_loss"] for f in studies_found]
            fine = [g for g in gaps if math.isfinite(g)]
            rows.append(
                {
                    "workload": name,
                    "order": order,
                    "studies": len(gaps),
                    "lost": len(gaps) - len(fine),
                    "against_default": mean(fine) if fine else None,
                    "standard_error": stdev(fine) / math.sqrt(len(fine)) if len(fine) > 1 else None,
                    "cost_in_final_runs": median(f[order]["cost"] for f in studies_found),
                    "batch_size": median(f[order]["batch_size"] for f in studies_found),
                }
            )
    return {"rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| workload | order of stages | final held-out loss against the default order |"
        " cost before the final stage, in final runs | median batch size |",
        "|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        gap = "lost" if r["against_default"] is None else f"{100 * r['against_default']:+.1f} %"
        error = f" ± {100 * r['standard_error']:.1f}" if r["standard_error"] is not None else ""
        lines.append(
            f"| {r['workload']} | {r['order']} | {gap}{error} | {r['cost_in_final_runs']:.1f}"
            f" | {r['batch_size']:g} |"
        )
    return "\n".join(lines)
