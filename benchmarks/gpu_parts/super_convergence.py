"""ResNet-56: 1cycle to lr 3 against drops from .1, as long as the time allows.

Source: Smith and Topin 2017 (arXiv 1708.07120), figure 1: 92.4 % in 10,000 steps of 1,000 images
with lr up to 3, against 91.2 % in 80,000 steps from .1. Here the cycle gets as many steps as fit
into the time left; the drops get as many, and three times as many if that leaves enough.
"""

from __future__ import annotations

import argparse
from typing import Any

import bench
from rightness_parts.policies import Steps

from gpu_parts.place import examples_per_second, left, objective
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import execute

CYCLE = Schedule("paper", 0.1, 3.0, 0.85, 0.95)
DROPS = Steps.at_lr(0.1, 0.9)
WEIGHT_DECAY = 1e-4
LONGER = 3  # how many times as long the long run of the rival is
MOST_STEPS, LEAST_STEPS = 10_000, 300
RESERVE = 1.3  # evaluations, and a machine that is not always as fast


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train as long as there is time."""
    size, width = (4, 0.25) if options.cpu_check else (1000, 1.0)
    model = {"name": "resnet56", "width": width}
    made = objective(options, model, precision="bfloat16", held_out_examples=5000)
    per_step = size / examples_per_second(made, size, 2 if options.cpu_check else 20)
    fit = int(left(options) / (RESERVE * per_step))
    fit = 4 * (2 + LONGER) if options.cpu_check else fit
    longer = fit >= LEAST_STEPS * (2 + LONGER)
    steps = 4 if options.cpu_check else min(MOST_STEPS, fit // (2 + longer * LONGER))
    if steps < LEAST_STEPS and not options.cpu_check:
        return {"left_out": f"{steps} steps are left of the time", "rows": []}
    plan = [("1cycle to lr 3", CYCLE, steps), ("drops from .1", DROPS, steps)]
    if longer or options.cpu_check:
        plan.append((f"drops from .1, {LONGER} times as long", DROPS, LONGER * steps))
    rows = []
    for name, schedule, count in plan:
        run = Run("train", schedule, WEIGHT_DECAY, size, count, 0, points=20)
        outcome = execute(made, run)
        rows.append(
            {
                "schedule": name,
                "steps": count,
                "epochs": run.examples / made.facts.train_examples,
                "accuracy": outcome.metric,
                "loss": outcome.held_out_loss,
                "seconds": outcome.result.seconds,
            }
        )
    goals = [
        bench.Goal(
            f"points of 1cycle behind {drops['schedule']}",
            100 * (drops["accuracy"] - rows[0]["accuracy"]),
            0.0,
        )
        for drops in rows[1:]
    ]
    return {"left_out": "", "rows": rows, "goals": goals}


def table(result: dict[str, Any]) -> str:
    """Return the table."""
    if result["left_out"]:
        return f"Left out: {result['left_out']}."
    rows = [
        (r["schedule"], r["steps"], r["epochs"], 100 * r["accuracy"], r["loss"], r["seconds"])
        for r in result["rows"]
    ]
    head = ("schedule", "steps", "epochs", "held-out %", "held-out loss", "training, s")
    return f"{bench.markdown(head, rows)}\n\n{bench.goals(result['goals'])}"
