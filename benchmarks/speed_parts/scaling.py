"""Cost of a trial against the number of trials in a study, points per curve, and workers.

The trials are those of the fake objective, which takes no time worth speaking of; but workers are
measured by real training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import bench

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.schedules import Schedule
from orchestrator.stages.stage import Stage, option
from speed_parts.measured import measure
from speed_parts.rooms import REPORTS, TRAINING

FLAT = 1.5  # the cost of a trial may vary so much and still be called flat


@dataclass(frozen=True, kw_only=True)
class Many(Stage):
    """Runs so many trials that are all different, and decides nothing."""

    kind: ClassVar[str] = "many"
    needs: ClassVar[tuple[str, ...]] = ()

    trials: int = option(10, "how many", ge=1)
    points: int = option(10, "points of each curve", ge=1)
    steps: int = option(20, "steps of each run, at least one a point", ge=1)

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """All trials at once."""
        if outcomes:
            return []
        schedule = Schedule("constant", 1e-3, 1e-3, 0.9, 0.9)
        steps = max(self.steps, self.points)
        return [
            Run("train", schedule, 0.0, 32, steps, number, points=self.points, prunable=False)
            for number in range(self.trials)
        ]

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Decide nothing."""
        return Decision(self.name, self.kind, f"{len(outcomes)} trials ran")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure studies of one stage."""
    counts = (5, 20) if options.quick else (10, 100, 1000)
    points = (5, 50) if options.quick else (10, 100, 1000)
    trials = [_measured(trials=count) for count in counts]
    per_trial = [row["ms_per_trial"] for row in trials]
    return {
        "trials": trials,
        "points": [_measured(trials=counts[0], points=count) for count in points],
        "workers": _workers(options.quick),
        "goals": [
            bench.Goal(
                f"cost of a trial, of {counts[-1]:,} against the cheapest",
                per_trial[-1] / min(per_trial),
                FLAT,
            )
        ],
    }


def _measured(*, trials: int, points: int = 10) -> dict[str, Any]:
    """Return what a trial costs; the report is written once a study and stands for itself."""
    overrides = [
        "+study=quadratic",
        "plan=[many]",
        "++stages.many._target_=speed_parts.scaling.Many",
        f"++stages.many.trials={trials}",
        f"++stages.many.points={points}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), overrides)
        again = measure(Path(folder), overrides)
    seconds = defaultdict(float, found["seconds"])
    per_trial = {
        "objective": seconds[TRAINING],
        "optuna_trials": seconds["Optuna: trials"],
        "optuna_reports": seconds[REPORTS],
        "terminal": seconds["terminal"],
        "study": seconds["the study's own work"] + seconds["stages"],
    }
    return {
        "trials": trials,
        "points": points,
        "wall": found["wall"],
        "ms_per_trial": 1e3 * sum(per_trial.values()) / trials,
        **{f"{name}_ms": 1e3 * s / trials for name, s in per_trial.items()},
        "report_seconds": seconds["report"],
        "again_seconds": again["wall"],
        "again_optuna_ms": 1e3 * again["seconds"]["Optuna: trials"] / trials,
    }


def _workers(quick: bool) -> list[dict[str, Any]]:
    """Return how long a stage of real training takes in one process and in several."""
    work = ["+study=digits", "plan=[weight_decay]", "recipe.max_lr=0.3", "threads=1"]
    work += ["stages.final.epochs=1"] if quick else []
    rows = []
    for count in (0, 1, 2) if quick else (0, 1, 2, 4):
        executor = ["executor=processes", f"executor.workers={count}"] if count else []
        with tempfile.TemporaryDirectory() as folder:
            wall = measure(Path(folder), [*work, *executor])["wall"]
            summary = json.loads(Path(folder, "runs/digits/summary.json").read_text())
        rows.append(
            {
                "workers": count or "inline",
                "wall": wall,
                "study_seconds": summary["cost"]["total_seconds"],
                "training_seconds": summary["cost"]["training_seconds"],
                "decision": summary["stages"][0]["decision"],
                "reason": summary["stages"][0]["reason"],
            }
        )
    return rows


COLUMNS = {
    "trials": "trials",
    "points": "points",
    "ms_per_trial": "ms a trial",
    "optuna_trials_ms": "ask, tell",
    "optuna_reports_ms": "reports",
    "objective_ms": "objective",
    "terminal_ms": "terminal",
    "study_ms": "study, stages",
    "report_seconds": "report, s",
    "wall": "whole command, s",
    "again_seconds": "again (replay), s",
    "again_optuna_ms": "replay, ms a trial",
}


def table(result: dict[str, Any]) -> str:
    """Return the three tables."""

    def rows(name: str) -> str:
        return bench.markdown(
            list(COLUMNS.values()), [[row[c] for c in COLUMNS] for row in result[name]]
        )

    first = result["workers"][0]
    workers = bench.markdown(
        ("workers", "whole command, s", "study, s", "training, s, summed", "inline's decision"),
        [
            (
                row["workers"],
                *(row[c] for c in ("wall", "study_seconds", "training_seconds")),
                "yes" if row["decision"] == first["decision"] else f"NO: {row['reason']}",
            )
            for row in result["workers"]
        ],
    )
    return "\n\n".join(
        (
            "Milliseconds are those of a trial, in the main thread; imports and report are apart.",
            f"Trials in one study:\n\n{rows('trials')}",
            f"Points per curve:\n\n{rows('points')}",
            f"Workers (a weight-decay stage on the digits, one thread each):\n\n{workers}",
            bench.goals(result["goals"]),
        )
    )
