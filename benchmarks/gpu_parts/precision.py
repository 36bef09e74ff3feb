"""Does bfloat16 change what is read off a curve? The same runs in both precisions, clue by clue.

The yardstick is another seed in float32: a clue that changes no more often than that is as good.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import bench

from gpu_parts.place import left, objective
from orchestrator import clues
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import execute
from orchestrator.training.objective import TrainingObjective

RATES, DECAYS = (0.01, 0.05, 0.2, 1.0, 5.0), (5e-4, 0.0, 1e-2)
COLUMNS = ("float32", "bfloat16", "another seed")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train each pair of learning rate and weight decay in float32, bfloat16, and on a new seed."""
    size, steps, width = (16, 8, 0.0625) if options.cpu_check else (256, 300, 0.25)
    model = {"name": "resnet9", "width": width}
    made = {p: objective(options, model, precision=p, held_out_examples=1000) for p in COLUMNS[:2]}
    return {"rows": compared(made, size, steps, lambda: left(options))}


def compared(
    made: Mapping[str, TrainingObjective],
    size: int,
    steps: int,
    left: Callable[[], float] = lambda: math.inf,
) -> list[dict[str, Any]]:
    """Return what is read off each run; `made` is an objective by precision.

    `left`: seconds that there are; the pairs after the first that do not fit are left out.
    """
    rows, longest = [], 0.0
    for decay, lr in itertools.product(DECAYS, RATES):
        if rows and left() < longest:
            break
        began = time.monotonic()
        schedule = Schedule("paper", lr / 10, lr, 0.85, 0.95)
        read = [
            _read(made[p], Run("train", schedule, decay, size, steps, seed, points=20))
            for p, seed in ((COLUMNS[0], 0), (COLUMNS[1], 0), (COLUMNS[0], 1))
        ]
        rows.append({"lr": lr, "weight_decay": decay, **dict(zip(COLUMNS, read, strict=True))})
        longest = max(longest, time.monotonic() - began)
    return rows


def _read(made: TrainingObjective, run: Run) -> dict[str, Any]:
    curve = execute(made, run).curve
    clue = clues.read(curve, made.facts.chance_loss)
    return {"clue": clue.label, "loss": float(curve.held_out_loss[-1])}


def table(result: dict[str, Any]) -> str:
    """Return how often the clue and by how much the loss changes, beside another seed's."""
    rows = []
    for column in COLUMNS[1:]:
        pairs = [(row["float32"], row[column]) for row in result["rows"]]
        changed = sum(a["clue"] != b["clue"] for a, b in pairs)
        both = [(a["loss"], b["loss"]) for a, b in pairs]
        moved = [abs(math.log(b / a)) for a, b in both if math.isfinite(a) and math.isfinite(b)]
        rows.append((column, f"{changed} of {len(pairs)}", median(moved) if moved else None))
    return bench.markdown(
        ("beside float32", "clues that change", "median change of log loss"), rows
    )
