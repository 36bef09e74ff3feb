"""A whole study against its training: what evaluation, tracking, Optuna and the rest cost."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import bench

from speed_parts import profile
from speed_parts.measured import measure
from speed_parts.rooms import HELD_OUT, POINTS, REPORTS, TRAINING


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the CIFAR laptop study; the digits study without CIFAR-10."""
    name = "cifar_laptop" if options.cifar else "digits"
    overrides = [f"+study={name}", *(profile.SHORT if options.quick else ())]
    if options.quick and options.cifar:
        overrides += ["data.train_examples=2000", "data.held_out_examples=500"]
    where = [f"data.path={options.cifar}"] if options.cifar else []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if options.cifar:  # the images are decoded once in a user's life, not in every study
            measure(here, [*overrides, *where, "study_name=before"], first_step=True)
        found = measure(here, [*overrides, *where])
        summary = json.loads((here / "runs" / name / "summary.json").read_text())
    return {
        "overrides": overrides,
        "cost": summary["cost"],
        **profile.split(found),
        "goals": _goals(found, name),
    }


def _goals(found: dict[str, Any], study: str) -> list[bench.Goal]:
    seconds, calls = found["seconds"], found["calls"]
    training, held_out = seconds[TRAINING], seconds[HELD_OUT]
    tracking = seconds[POINTS] + seconds["tracking: the rest"]
    points = calls[POINTS]["count"]
    report = calls[REPORTS]["median_ms"]
    return [
        bench.Goal(f"study {study} / (training + held-out evaluation)",
                   found["wall"] / (training + held_out), 1.05),
        bench.Goal("held-out evaluation / training", held_out / training, 0.25),
        bench.Goal("tracking, ms a point (calls of the main thread; waits before timed runs apart)",
                   1e3 * tracking / points, 0.5),
        bench.Goal("Optuna, ms a report", report, 1.0),
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the goals, then the rooms."""
    cost = result["cost"]
    return "\n\n".join(
        (
            bench.goals(result["goals"]),
            f"summary.json says {cost['training_seconds']:g} s of training and"
            f" {cost['evaluation_seconds']:g} s of evaluation in {cost['total_seconds']:g} s, the"
            f" first sealed result after {cost['first_test_seconds']:g} s: probe, calibration"
            " and warm-up are neither training nor evaluation, imports and exit are in none.",
            profile.table(result),
        )
    )
