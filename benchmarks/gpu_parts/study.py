"""+study=cifar from the command to the first sealed result, on the whole data.

The moment of a sealed result is when Optuna's journal closed the trial that opened the test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import bench
from speed_parts import profile
from speed_parts.measured import measure

from gpu_parts.place import data, left
from orchestrator.storage import journal

AIRBENCH = 94.0  # % on the original files, by its own account; see against_airbench for these ones
TINY = (
    "model.width=0.0625",
    "recipe.batch_size=16",
    "plan=[lr_range,final]",
    "stages.final.epochs=4",
    "stages.final.seeds=1",
    "device=cpu",
    "threads=1",
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the study; with --cpu-check a tiny one."""
    changes = [f"data.{key}={value}" for key, value in data(options).items() if key != "name"]
    tiny = ["data=arrays", *TINY] if options.cpu_check else []
    overrides = ["+study=cifar", *tiny]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        started = time.time()
        found = measure(here, [*overrides, *changes], timeout=max(30.0, left(options)))
        summary = json.loads((here / "runs/cifar/summary.json").read_text())
        sealed = _sealed(here / "runs/cifar/optuna.journal")
    first = min(sealed.values(), default=None)
    final = summary["final"] or {}
    goals = [
        bench.Goal(
            "seconds from the command to the first sealed result",
            None if first is None else first - started,
            180,
        ),
        bench.Goal(
            "test accuracy, %",
            100 * (final.get("test_metric") or {}).get("mean", float("nan")),
            AIRBENCH - 0.2,
            least=True,
        ),
    ]
    return {
        "overrides": overrides,
        "status": summary["status"],
        "recipe": summary["recipe"],
        "stages": [
            {k: s[k] for k in ("name", "reason", "trials", "seconds")} for s in summary["stages"]
        ],
        "final": final,
        "cost": summary["cost"],
        "sealed": sorted([at - started, label] for label, at in sealed.items()),
        **profile.split(found),
        "goals": goals,
    }


def _sealed(file: Path) -> dict[str, float]:
    """Return when each run that opened the test ended, by its label."""
    import optuna

    storage, ends = journal(file), {}
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            stored = json.loads(trial.user_attrs.get("outcome", "{}"))
            if stored.get("run", {}).get("opens_test") and trial.datetime_complete:
                at: datetime = trial.datetime_complete
                ends[f"{trial.user_attrs['label']} ({trial.number})"] = at.timestamp()
    return ends


def table(result: dict[str, Any]) -> str:
    """Return goals, decisions, the sealed results and the rooms."""
    stages = [(s["name"], s["seconds"], s["reason"]) for s in result["stages"]]
    sealed = [(label, f"{at:.1f}") for at, label in result["sealed"]]
    baselines = [
        (b["name"], 100 * (b["test_metric"] or {}).get("mean", float("nan")))
        for b in [{"name": "answer", **result["final"]}, *result["final"].get("baselines", [])]
        if b.get("test_metric")
    ]
    return "\n\n".join(
        (
            bench.goals(result["goals"]),
            bench.markdown(("stage", "training, s", "decision"), stages),
            bench.markdown(("sealed run", "ended, s after the command"), sealed),
            bench.markdown(("recipe", "test accuracy, %"), baselines),
            profile.table(result),
        )
    )
