"""MLflow: one experiment per study name, a parent run per study run, a child run per trial.

`MlflowTracker` turns calls into events and returns at once. A thread of the `Outbox` passes them to
a `Store` (`store.py`), which uses MLflow through a `Client` (`client.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.recipe import Decision, Run
from orchestrator.storage.paths import StudyPaths
from orchestrator.tracking import Tracker
from orchestrator.tracking.client import Client
from orchestrator.tracking.outbox import Event, Outbox
from orchestrator.tracking.store import BY_PROGRESS, Store, flat
from orchestrator.tracking.timestamps import SteadyClock

FLUSH_SECONDS = 30.0  # how long `finish` waits for the server
LEAVING_SECONDS = 2.0  # the same after an interruption; the rest is sent by the next command
log = logging.getLogger("orchestrator.tracking")


class MlflowTracker(Tracker):
    """Records a study in MLflow, without ever stopping or slowing it.

    `folder` contains mlflow.db unless `uri` or MLFLOW_TRACKING_URI names another store; artifacts
    of a local store are under `runs`/.mlartifacts. `metric`: name of the metric beside the loss,
    None without one. A study resumes in the parent run that has all the tags given to `start`.
    These tags should identify the study's storage and config, so that a changed config or a fresh
    start opens a new parent.
    """

    def __init__(
        self,
        study: str,
        folder: Path,
        runs: Path,
        uri: str | None = None,
        metric: str | None = None,
    ) -> None:
        folder, runs = folder.resolve(), runs.resolve()
        chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not chosen:
            chosen = f"sqlite:///{folder / 'mlflow.db'}"
            _warn_of_old_store(folder)
        self._metric, self._now = metric, (now := SteadyClock())
        self._outbox = Outbox(
            lambda: Store(Client.open(study, chosen, runs / ".mlartifacts"), study, now),
            spool=StudyPaths.of(runs, study).spool,
        )

    def start(
        self,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Open or reopen the parent run; its trials in state RUNNING were killed."""
        self._put(
            "start",
            config=dict(config),
            tags=dict(tags),
            datasets=[dict(data) for data in datasets],
        )

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Open the trial's child run, or reopen it where the same trial was stopped.

        Before a timed run it waits, 3 s at most, until the thread is idle.
        """
        if run.timed:
            self._outbox.pause()
        else:
            self._outbox.resume()
        self._put("run_started", key=trial_key, **_describe(stage, run))

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Add one measurement to the trial's curves."""
        self._put("point", key=trial_key, **self._measured(point))

    def _measured(self, point: Point) -> Event:
        values = {
            "train_loss": point.train_loss,
            "held_out_loss": point.held_out_loss,
            "lr": point.lr,
            "momentum": point.momentum,
            "seconds": point.seconds,
        }
        if self._metric:
            values[self._metric] = point.metric
        # Runs of different lengths are compared at equal progress, on separate curves.
        compared = ("train_loss", "held_out_loss", self._metric)
        values |= {BY_PROGRESS + k: v for k, v in values.items() if k in compared}
        return {"step": point.step, "progress": point.progress, "values": values}

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """End the trial's child run with its state, clue, reason and final metrics."""
        self._outbox.resume()
        self._put("run_ended", **self._ended(stage, outcome, clue))

    def known(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Send what is missing of a trial that an earlier command trained.

        Not kept in the spool if the server is down: the next command sends it too.
        """
        points = [self._measured(point) for point in outcome.curve.points()]
        ended = self._ended(stage, outcome, clue)
        self._put("known", keep=False, points=points, **ended)

    def _ended(self, stage: str, outcome: Outcome, clue: str) -> Event:
        result = outcome.result
        values = {
            "training_seconds": result.seconds,
            "examples": result.examples,
            "test_loss": result.test_loss,
            **({f"test_{self._metric}": result.test_metric} if self._metric else {}),
            **dict(flat(result.measured)),
        }
        tags = {"state": outcome.state, "clue": clue}
        if outcome.reason:
            tags["prune_reason" if outcome.state == "pruned" else "reason"] = outcome.reason
        return {
            "key": outcome.key,
            "step": outcome.curve.step[-1] if len(outcome.curve) else 0,
            "values": {k: v for k, v in values.items() if isinstance(v, int | float)},
            "tags": tags,
            **_describe(stage, outcome.run),
        }

    def decided(self, decision: Decision) -> None:
        """Add the decision's reason to the parent's description."""
        self._put("decided", stage=decision.stage, reason=decision.reason)

    def finish(
        self,
        status: str,
        summary: Mapping[str, Any],
        files: Sequence[Path],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Write results and files, end the runs; wait 30 s at most, 2 s if interrupted."""
        self._put(
            "finish",
            status=status,
            summary=summary,
            values=_numbers(summary, self._metric or "metric"),
            files=[str(file.resolve()) for file in files],
            model=dict(model) if model else None,
        )
        self._outbox.close(LEAVING_SECONDS if status == "interrupted" else FLUSH_SECONDS)

    def _put(self, do: str, **values: Any) -> None:
        self._outbox.put({"do": do, "at": self._now(), **values})


def _warn_of_old_store(folder: Path) -> None:
    if any((folder / "mlruns").glob("*/meta.yaml")):
        log.warning(
            "%s makes a bare `mlflow ui` show an old file store; to see this study, move it away"
            " or use `mlflow ui --backend-store-uri sqlite:///mlflow.db`",
            folder / "mlruns",
        )


def _describe(stage: str, run: Run) -> Event:
    params = {**run.params(), "schedule": run.schedule.name, "examples": run.examples}
    if run.attempt:
        params["attempt"] = run.attempt
    if run.batch_sizes:
        params["batch_sizes"] = ", ".join(map(str, run.batch_sizes))
    return {"stage": stage, "kind": run.kind, "label": run.name, "params": params}


def _numbers(summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return the numbers of summary.json to compare between studies."""
    final = summary.get("final") or {}
    found: dict[str, Any] = dict(
        flat({"answer": summary.get("recipe", {}), "cost": summary.get("cost", {})})
    )
    for result in (final, *final.get("baselines", ())):
        prefix = f"{result['name']}/" if "name" in result else ""
        for field, name in (("test_metric", f"test_{metric}"), ("test_loss", "test_loss")):
            stat = result.get(field) or {}
            found[f"{prefix}{name}"] = stat.get("mean")
            found[f"{prefix}{name}_std"] = stat.get("std")
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
