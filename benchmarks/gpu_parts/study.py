"""+study=cifar from the command to the first sealed result, on the whole data.

The moment of a sealed result is when Optuna's journal closed the trial that opened the test. The
journal has what there is also of a study that had to be stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean
from subprocess import TimeoutExpired
from typing import Any

import bench
from speed_parts import profile
from speed_parts.contest import free_cudnn
from speed_parts.measured import measure

from gpu_parts.place import data, examples_per_second, left, objective
from orchestrator.storage.backend import journal

PROMISED = 180.0  # seconds to the first sealed result
BEHIND = 0.2  # points of accuracy that it may be behind airbench
HELD_OUT = 5000
TINY = (
    "model.width=0.0625",
    "recipe.batch_size=16",
    "plan=[lr_range,final]",
    "stages.final.epochs=4",
    "stages.final.seeds=1",
    "device=cpu",
    "threads=1",
)
# Bfloat16 and any kernels: float32 and kernels that repeat are slower. Sizes below 256 leave such a
# GPU waiting for Python (a step of some 100 kernels takes 2 ms or more to launch).
CHOSEN = (
    "precision=bfloat16",
    "objective.deterministic=false",
    "optimizer.label_smoothing=0.2",  # as airbench has it
    f"data.held_out_examples={HELD_OUT}",
    "stages.batch_size.candidates=[256,512,1024]",
)
FINAL_RUNS = 7  # before the first sealed result: the study's six, and what evaluation takes
AROUND = 30.0  # seconds of Python's start, of decoding the images, and of each size's first steps
EPOCHS = (5, 20)  # at least, for an answer of any worth, and at most: the study's own
ENDING = 10.0  # seconds between the study's budget and the time at which it is stopped


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the study; with --cpu-check a tiny one."""
    speed = None if options.cpu_check else _speed(options)
    chosen = (
        ["data=arrays", *TINY] if speed is None else [*CHOSEN, f"stages.final.{_epochs(speed)}"]
    )
    budget = f"budget.max_seconds={max(30.0, left(options) - ENDING):.0f}"
    overrides = ["+study=cifar", *chosen, "tracking=none", budget]
    own = [f"data.{key}={value}" for key, value in data(options).items() if key != "name"]
    found = followed([*overrides, *own], left(options))
    return {
        "overrides": overrides,
        "examples_per_second": speed,
        "goals": _goals(found["sealed"], getattr(options, "airbench", None)),
        **found,
    }


def _speed(options: argparse.Namespace) -> float:
    """Return how many examples a second the study's network is trained on, in its batches."""
    made = objective(options, {"name": "resnet9"}, precision="bfloat16", held_out_examples=HELD_OUT)
    with free_cudnn():
        return examples_per_second(made, batch_size=512, steps=100)


def _epochs(speed: float) -> str:
    """Return the length of a final run with which the first sealed result comes as promised."""
    examples = (PROMISED - AROUND) * speed / FINAL_RUNS
    least, most = EPOCHS
    return f"epochs={min(most, max(least, int(examples / (50_000 - HELD_OUT))))}"


def followed(overrides: list[str], seconds: float) -> dict[str, Any]:
    """Run a study for at most so many seconds, return what came of it, and when.

    One that is stopped has no summary: its decisions are not told, its sealed results are.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs, started = Path(folder) / "runs/cifar", time.time()
        try:
            found = measure(Path(folder), overrides, timeout=max(30.0, seconds))
        except TimeoutExpired as late:
            whole: dict[str, Any] = {"status": f"stopped after {late.timeout:.0f} s", "stages": []}
        else:
            whole = {
                **_told(json.loads((runs / "summary.json").read_text())),
                **profile.split(found),
            }
        return {**whole, "sealed": _sealed(runs / "optuna.journal", started)}


def _told(summary: dict[str, Any]) -> dict[str, Any]:
    stages = [{k: s[k] for k in ("name", "reason", "trials", "seconds")} for s in summary["stages"]]
    return {
        "status": summary["status"] + (f": {why}" if (why := summary["reason"]) else ""),
        "stages": stages,
        **{k: summary[k] for k in ("recipe", "final", "budget", "cost")},
    }


def _sealed(file: Path, started: float) -> list[dict[str, Any]]:
    """Return each run that opened the test: its recipe's name, when it ended, and its accuracy."""
    import optuna

    if not file.exists():
        return []
    storage, rows = journal(file), []
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            stored = json.loads(trial.user_attrs.get("outcome", "{}"))
            if stored.get("run", {}).get("opens_test") and trial.datetime_complete:
                label = trial.user_attrs["label"]
                rows.append(
                    {
                        "label": f"{label} ({trial.number})",
                        "recipe": label.split()[0],
                        "seconds": trial.datetime_complete.timestamp() - started,
                        "accuracy": stored["result"]["test_metric"],
                    }
                )
    return sorted(rows, key=lambda row: row["seconds"])


def _goals(sealed: list[dict[str, Any]], airbench: dict[str, Any] | None) -> list[bench.Goal]:
    """Return what is promised; accuracy beside airbench's own, of this command on these files."""
    first = sealed[0]["seconds"] if sealed else None
    goals = [bench.Goal("seconds from the command to the first sealed result", first, PROMISED)]
    own = [row["accuracy"] for row in sealed if row["recipe"] == "answer"]
    accuracy = 100 * mean(own) if own else None
    for key, views in (("augmented", "six views"), ("accuracy", "one view")) if airbench else ():
        what = f"test accuracy in one view, %, beside airbench's in {views} less {BEHIND}"
        limit = 100 * airbench[key][0] - BEHIND
        goals.append(bench.Goal(what, accuracy, limit, least=True))
    return goals


def table(result: dict[str, Any]) -> str:
    """Return goals, decisions, the sealed results and the rooms."""
    speed = result["examples_per_second"]
    stages = [(s["name"], s["seconds"], s["reason"]) for s in result["stages"]]
    sealed = [
        (row["label"], f"{row['seconds']:.1f}", f"{100 * row['accuracy']:.2f}")
        for row in result["sealed"]
    ]
    told = [
        f"{result['status'].capitalize()}.",
        *([f"Before it: {speed:,.0f} examples/s of training."] if speed else []),
        *(["airbench was not trained by this command."] if len(result["goals"]) < 2 else []),
    ]
    parts = [
        " ".join(told),
        bench.goals(result["goals"]),
        bench.markdown(("sealed run", "ended, s after the command", "test accuracy, %"), sealed),
    ]
    if stages:
        parts += [bench.markdown(("stage", "training, s", "decision"), stages)]
    if "rooms" in result:
        parts += [profile.table(result)]
    return "\n\n".join(parts)
