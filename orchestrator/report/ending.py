"""The closing lines of a study: recipe, test results, cost, files.

Made from summary.json alone, so `show` prints the same lines later.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.changes import kept
from orchestrator.curve import State
from orchestrator.figures.numbers import rate
from orchestrator.redact import hidden
from orchestrator.report.text import (
    audited,
    balance,
    command,
    counts,
    measure,
    more,
    results,
    spent,
    status,
)
from orchestrator.storage.paths import StudyPaths


def ending(summary: Mapping[str, Any], folder: Path) -> list[tuple[str, str, str]]:
    """Return the closing lines as (name, text, style); `folder` is the study's."""
    done = summary["status"] == "complete"
    told = summary["reason"] or summary["study"]
    lines = [("", "", ""), (status(summary), told, "bold" if done else "bold red")]
    known = {k: v for k, v in summary["recipe"].items() if v is not None}
    title = "recipe" if done else "recipe so far"
    lines.append((title, ", ".join(f"{k} {rate(v)}" for k, v in known.items()), "bold"))
    if done or summary["final"]:
        for name, score, verdict in results(summary):
            text = f"{measure(summary)} {score}"
            comparison = f"; the answer is {verdict}" if verdict.startswith(("b", "w")) else ""
            if name == "answer" and "±" in score:  # explained once
                comparison = ", mean ± standard deviation over seeds"
            lines.append((name, text + (comparison or (f"; {verdict}" if verdict else "")), "bold"))
    if parts := balance(summary):
        told = ", ".join(f"{name} {value}" for name, value, _ in parts)
        lines.append(("balance", f"of regularisation: {told}", ""))
    lines.append(("cost", cost(summary), ""))
    if said := more(summary):
        lines.append(("more", said, ""))
    if said := audited(summary):
        lines.append(("audit", said, ""))
    paths = StudyPaths(folder)
    weights = [paths.weights] if summary["final"] else []
    files = (paths.report, paths.recipe, *weights, paths.summary)
    if found := [file.name for file in files if file.exists()]:
        lines.append(("files", f"{_short(folder)}/: {', '.join(found)}", ""))
    if where := _tracked(paths):
        lines.append(("curves", where, ""))
    if done and known.get("max_lr") is not None:
        lines.append(("to use it", command(summary), ""))
    elif summary["status"] == "interrupted":
        lines.append(("to resume", "run the same command again", ""))
    return lines


def cost(summary: Mapping[str, Any]) -> str:
    """Return the number of runs and the time that a study took."""
    price = summary["cost"].get("final_runs")
    told = f", the price of {price:.1f} final runs" if price is not None else ""
    return f"{counts(_states(summary))}{told}; {spent(summary)}"


def _states(summary: Mapping[str, Any]) -> Mapping[State, int]:
    """Return how runs ended; older summaries count a run twice if two stages share it."""
    if known := summary["cost"].get("runs"):
        return dict(known)
    return sum((Counter(stage["trials"]) for stage in summary["stages"]), Counter())


def _short(folder: Path) -> str:
    """Return the folder relative to the working folder, if it is inside."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder)


def _tracked(paths: StudyPaths) -> str:
    """Return how to see the curves in MLflow, "" where the study was not tracked."""
    tracking = kept(paths.config).get("tracking")
    if not isinstance(tracking, dict) or tracking.get("name") != "mlflow":
        return ""
    if paths.spool.exists():
        return ""
    server = tracking.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        return f"in MLflow at {hidden(server)}"
    return f"mlflow ui, then Model training, Experiments, {paths.folder.name}"  # it opens on GenAI
