"""Turns a study's events into MLflow runs: parent run, child runs, curves, artifacts.

All of this runs in the outbox's thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.storage.paths import StudyPaths
from orchestrator.tracking import model
from orchestrator.tracking.client import Client, name_of
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.outbox import Event

SAMPLE_SECONDS = 5.0  # between two samples of the machine
STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",  # as in MLflow's own Optuna integration
    "failed": "FAILED",
    "complete": "FINISHED",
    "undecided": "FAILED",
    "interrupted": "KILLED",
}
BY_PROGRESS = "by_progress/"  # curves whose step is the progress, in per mille


def flat(tree: Mapping[str, Any], path: str = "", mark: str = "/") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their joined names."""
    for name, value in tree.items():
        where = f"{path}{mark}{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from flat(value, where, mark)
        else:
            yield where, value


class Store:
    """Writes events to MLflow. All methods run in the outbox's thread and may be slow.

    An event may be sent twice: runs are found by their tags, and MLflow drops a metric with the
    same time and step. `now`: the clock of the events' times, in milliseconds.
    """

    def __init__(self, client: Client, study: str, now: Callable[[], int]) -> None:
        self._to, self._study, self._now = client, study, now
        self._machine: Machine | None = None
        self._sampled = self._began = 0.0
        self._reset("")

    def _reset(self, parent: str) -> None:
        self._parent = parent
        self._children: dict[str, str] = {}  # key -> run id
        self._open: set[str] = set()
        self._ended: set[str] = set()  # keys of trials that are complete in MLflow
        self._sentences: dict[str, str] = {}

    def deliver(self, event: Event) -> None:
        """Write one event."""
        if event["do"] == "start":  # nothing works without a parent run, so this may raise
            self._on_start(event)
            return
        with self._to.if_refused(event["do"]):
            getattr(self, f"_on_{event['do']}")(event)

    def flush(self) -> None:
        """Write the buffered metrics."""
        self._to.flush()

    def tick(self) -> None:
        """Log system metrics to the parent run, every few seconds."""
        now = self._now() / 1000
        if self._machine is None or not self._parent or now - self._sampled < SAMPLE_SECONDS:
            return
        self._sampled = now
        found = self._machine.sample()
        since = max(0, int(now - self._began))  # MLflow refuses negative steps
        self._to.log(self._parent, found, since, int(now * 1000))
        self.flush()

    def _on_start(self, event: Event) -> None:
        at = event["at"]
        # MLflow's search cannot escape a quote.
        tags = {name_of(k): str(v).replace("'", "`") for k, v in event["tags"].items()}
        tags["kind"] = "study"
        same = " and ".join(f"tags.`{k}` = '{v}'" for k, v in tags.items())
        found = next(self._to.find(same), None)
        if found is None:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000))
            self._reset(self._to.create(f"{self._study} {when}", tags, at))
            with self._to.if_refused("config"):
                self._to.params(self._parent, dict(flat(event["config"], mark=".")))
            with self._to.if_refused("datasets"):
                self._to.datasets(self._parent, event.get("datasets", ()))
        else:
            self._reset(found.info.run_id)
            self._to.mlflow.update_run(self._parent, status="RUNNING")
            for child in self._to.find(f"tags.mlflow.parentRunId = '{self._parent}'"):
                key = child.data.tags.get("key", "")
                self._children[key] = child.info.run_id
                if child.info.status == "RUNNING":  # its process was killed
                    self._to.mlflow.set_terminated(child.info.run_id, "KILLED", at)
                elif child.data.tags.get("state") != "running":
                    self._ended.add(key)
        self._began = found.info.start_time / 1000 if found else at / 1000
        self._machine = Machine()

    def _child(self, event: Event) -> str:
        """Return the run id of the event's trial, a new one if there is none."""
        key = event["key"]
        if key not in self._children:
            tags = {
                "mlflow.parentRunId": self._parent,
                **{k: event[k] for k in ("stage", "kind", "key")},
                "state": "running",
            }
            self._children[key] = self._to.create(event["label"], tags, event["at"])
            self._to.params(self._children[key], event["params"])
        return self._children[key]

    def _on_run_started(self, event: Event) -> None:
        known = event["key"] in self._children
        run_id = self._child(event)
        self._open.add(run_id)
        if known:
            self._to.mlflow.update_run(run_id, status="RUNNING")
            self._to.tag(run_id, {"state": "running", "stage": event["stage"]})

    def _on_point(self, event: Event) -> None:
        run_id = self._children.get(event["key"])
        if run_id is not None:
            progress = round(1000 * event.get("progress", 0))
            for name, value in event["values"].items():
                step = progress if name.startswith(BY_PROGRESS) else event["step"]
                self._to.log(run_id, {name: value}, step, event["at"])

    def _on_run_ended(self, event: Event) -> None:
        run_id = self._child(event)
        self._to.log(run_id, event["values"], event["step"], event["at"])
        self._to.tag(run_id, event["tags"])
        self.flush()
        self._to.mlflow.set_terminated(run_id, STATUS[event["tags"]["state"]], event["at"])
        self._open.discard(run_id)
        self._ended.add(event["key"])

    def _on_known(self, event: Event) -> None:
        if event["key"] not in self._ended:
            self._on_run_started(event)
            for point in event["points"]:
                self._on_point({**point, "key": event["key"], "at": event["at"]})
            self._on_run_ended(event)

    def _on_decided(self, event: Event) -> None:
        self._sentences[event["stage"]] = event["reason"]
        lines = [f"**{stage}**: {reason}" for stage, reason in self._sentences.items()]
        self._to.tag(self._parent, {"mlflow.note.content": "\n\n".join(lines)})

    def _on_finish(self, event: Event) -> None:
        summary, at = event["summary"], event["at"]
        self._to.log(self._parent, event["values"], 0, at)
        self._to.tag(
            self._parent,
            {
                "status": event["status"],
                **({"reason": summary["reason"]} if summary.get("reason") else {}),
                **{f"answer.{k}": v for k, v in summary.get("recipe", {}).items()},
            },
        )
        self.flush()
        for file in map(Path, event["files"]):
            if file.is_file():
                figures = StudyPaths(file.parents[1]).figures
                place = figures.name if file.parent == figures else None
                self._to.mlflow.log_artifact(self._parent, str(file), place)
        if event.get("model"):
            with self._to.if_refused("model"):
                self._model(event["model"])
        for run_id in sorted(self._open):
            self._to.mlflow.set_terminated(run_id, "KILLED", at)
        self._to.mlflow.set_terminated(self._parent, STATUS.get(event["status"], "FAILED"), at)

    def _model(self, served: Mapping[str, Any]) -> None:
        """Log the network to the parent run, for `mlflow.pyfunc.load_model("runs:/<id>/model")`.

        After a replay it is there already.
        """
        known = self._to.mlflow.get_run(self._parent).data.tags.get("model.sha256")
        if known == served["digest"] or not Path(served["file"]).is_file():
            return
        with tempfile.TemporaryDirectory() as folder:
            model.write(served, Path(folder) / "model")
            self._to.mlflow.log_artifacts(self._parent, str(Path(folder) / "model"), "model")
        self._to.mlflow.set_tag(self._parent, "model.sha256", served["digest"])
