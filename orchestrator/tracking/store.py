"""What a study's events become in MLflow: experiment, parent run, child runs, curves, artifacts.

This is the only file that imports mlflow. All of it runs in the one thread of the outbox.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.redact import hidden
from orchestrator.system import try_lock
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.outbox import Event, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

SAMPLE_SECONDS = 5.0  # between two looks at the machine
STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",  # as MLflow's own Optuna integration has it
    "failed": "FAILED",
    "complete": "FINISHED",
    "undecided": "FAILED",
    "interrupted": "KILLED",
}
# Without it the user interface opens on its pages for language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# What the server answers when it is well and the request is not: skip it and go on.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
BY_PROGRESS = "by_progress/"  # curves whose step is the progress, in per mille
log = logging.getLogger("orchestrator.tracking")


def flat(tree: Mapping[str, Any], path: str = "", mark: str = "/") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings under their joined names."""
    for name, value in tree.items():
        where = f"{path}{mark}{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from flat(value, where, mark)
        else:
            yield where, value


def _name(key: str) -> str:
    """Return `key` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


class Store:
    """Events in, MLflow runs out. All methods run in the outbox's thread and may take their time.

    Sending an event twice is harmless: runs are found again by their tags, and MLflow drops a
    metric that it has with the same time and step.
    """

    def __init__(self, client: MlflowClient, study: str, experiment: str) -> None:
        self._client, self._study, self._experiment = client, study, experiment
        self._machine: Machine | None = None
        self._sampled = self._began = 0.0
        self._reset("")

    def _reset(self, parent: str) -> None:
        self._parent = parent
        self._children: dict[str, str] = {}  # key -> run id
        self._open: set[str] = set()
        self._ended: set[str] = set()  # keys of trials that are here as a whole
        self._metrics: dict[str, list[tuple[str, float, int, int]]] = {}  # per run id
        self._tags: dict[str, dict[str, str]] = {}
        self._sentences: dict[str, str] = {}

    @classmethod
    def open(cls, study: str, uri: str, artifacts: Path) -> Store:
        """Connect, and make database and experiment where they are missing (1-2 s).

        Raises Unavailable if mlflow cannot be imported, anything else if the server is away.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a line a run
        # The defaults (7 tries of 120 s) hold one call for minutes, longer than `finish` waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        try:
            from mlflow import MlflowClient
        except Exception as error:  # a stray module of the same name raises anything
            raise Unavailable(f"mlflow cannot be imported ({error})") from error
        for chatter in ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool"):
            logging.getLogger(chatter).setLevel(logging.ERROR)
        local = not uri.startswith(("http", "databricks"))
        with _alone(artifacts) if local else nullcontext():
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(study)
            if found is None:
                where = artifacts.as_uri() if local else None  # a server keeps its own artifacts
                made = client.create_experiment(study, where, tags=EXPERIMENT_TAGS)
                return cls(client, study, made)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return cls(client, study, found.experiment_id)

    def deliver(self, event: Event) -> None:
        """Take one event."""
        if event["do"] == "start":  # nothing works without a parent run: let it raise
            self._on_start(event)
            return
        with self._if_refused(event["do"]):
            getattr(self, f"_on_{event['do']}")(event)

    def flush(self) -> None:
        """Write the measurements gathered since the last time, one call per run."""
        from mlflow.entities import Metric, RunTag

        metrics, tags = self._metrics, self._tags
        self._metrics, self._tags = {}, {}
        for run_id in {**metrics, **tags}:
            with self._if_refused("log"):
                self._client.log_batch(
                    run_id,
                    metrics=[Metric(*m) for m in metrics.get(run_id, ())],
                    tags=[RunTag(k, v) for k, v in tags.get(run_id, {}).items()],
                )

    def tick(self) -> None:
        """Log what the machine is doing, every few seconds, on the parent."""
        now = time.time()
        if self._machine is None or not self._parent or now - self._sampled < SAMPLE_SECONDS:
            return
        self._sampled = now
        self._log(
            self._parent, self._machine.sample(), int(now - self._began), int(now * 1000), False
        )
        self.flush()

    @contextmanager
    def _if_refused(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            log.debug("mlflow refused %s: %s", what, error)

    def _log(
        self, run_id: str, values: Mapping[str, float], step: int, at: int, losses: bool = True
    ) -> None:
        """Gather finite values; MLflow would turn inf into 1.8e308 without a word."""
        rows = self._metrics.setdefault(run_id, [])
        for name, value in values.items():
            if math.isfinite(value):
                rows.append((_name(name), float(value), at, int(step)))
            elif losses and name.endswith("_loss") and not name.startswith("test"):
                self._tag(run_id, {"diverged": "true"})

    def _tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._tags.setdefault(run_id, {}).update(
            {_name(k): hidden(str(v)) for k, v in tags.items()}
        )

    def _params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [
            Param(_name(k), v if isinstance(v, str) else json.dumps(v)) for k, v in params.items()
        ]
        self._client.log_batch(run_id, params=rows)

    def _find(self, condition: str) -> Iterator[Any]:
        """Yield the experiment's runs with that condition, the latest first."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                condition,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _on_start(self, event: Event) -> None:
        at = event["at"]
        # The search knows no way to escape a quote.
        tags = {_name(k): str(v).replace("'", "`") for k, v in event["tags"].items()}
        tags["kind"] = "study"
        same = " and ".join(f"tags.`{k}` = '{v}'" for k, v in tags.items())
        found = next(self._find(same), None)
        if found is None:
            self._reset(self._create_parent(tags, at))
            with self._if_refused("config"):
                self._params(self._parent, dict(flat(event["config"], mark=".")))
            with self._if_refused("datasets"):
                self._datasets(event.get("datasets", ()))
        else:
            self._reset(found.info.run_id)
            self._client.update_run(self._parent, status="RUNNING")
            for child in self._find(f"tags.mlflow.parentRunId = '{self._parent}'"):
                key = child.data.tags.get("key", "")
                self._children[key] = child.info.run_id
                if child.info.status == "RUNNING":  # its process was killed
                    self._client.set_terminated(child.info.run_id, "KILLED", at)
                elif child.data.tags.get("state") != "running":
                    self._ended.add(key)
        self._began = found.info.start_time / 1000 if found else at / 1000
        self._machine = Machine()

    def _datasets(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Name the data on the parent: {name, context, digest, source, examples} each."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=data["name"],
                    digest=data["digest"][:36],  # MLflow takes no more
                    source_type="orchestrator",
                    source=json.dumps({"source": hidden(data["source"])}),
                    profile=json.dumps({"examples": data["examples"]}),
                ),
                [InputTag("mlflow.data.context", data["context"])],
            )
            for data in datasets
        ]
        if inputs:
            self._client.log_inputs(self._parent, inputs)

    def _create_parent(self, tags: Mapping[str, str], at: int) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000))
        made = self._client.create_run(
            self._experiment, start_time=at, run_name=f"{self._study} {when}", tags=dict(tags)
        )
        return str(made.info.run_id)

    def _child(self, event: Event) -> str:
        """Return the run id of the event's trial, a new one if there is none."""
        key = event["key"]
        if key not in self._children:
            made = self._client.create_run(
                self._experiment,
                start_time=event["at"],
                run_name=event["label"],
                tags={
                    "mlflow.parentRunId": self._parent,
                    **{k: event[k] for k in ("stage", "kind", "key")},
                    "state": "running",
                },
            )
            self._children[key] = made.info.run_id
            self._params(self._children[key], event["params"])
        return self._children[key]

    def _on_run_started(self, event: Event) -> None:
        known = event["key"] in self._children
        run_id = self._child(event)
        self._open.add(run_id)
        if known:
            self._client.update_run(run_id, status="RUNNING")
            self._tag(run_id, {"state": "running", "stage": event["stage"]})

    def _on_point(self, event: Event) -> None:
        run_id = self._children.get(event["key"])
        if run_id is not None:
            progress = round(1000 * event.get("progress", 0))
            for name, value in event["values"].items():
                step = progress if name.startswith(BY_PROGRESS) else event["step"]
                self._log(run_id, {name: value}, step, event["at"])

    def _on_run_ended(self, event: Event) -> None:
        run_id = self._child(event)
        self._log(run_id, event["values"], event["step"], event["at"])
        self._tag(run_id, event["tags"])
        self.flush()
        self._client.set_terminated(run_id, STATUS[event["tags"]["state"]], event["at"])
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
        self._tag(self._parent, {"mlflow.note.content": "\n\n".join(lines)})

    def _on_finish(self, event: Event) -> None:
        summary, at = event["summary"], event["at"]
        self._log(self._parent, event["values"], 0, at)
        self._tag(
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
                place = "figures" if file.parent.name == "figures" else None
                self._client.log_artifact(self._parent, str(file), place)
        if event.get("model"):
            with self._if_refused("model"):
                self._model(event["model"])
        for run_id in sorted(self._open):
            self._client.set_terminated(run_id, "KILLED", at)
        self._client.set_terminated(self._parent, STATUS.get(event["status"], "FAILED"), at)

    def _model(self, served: Mapping[str, Any]) -> None:
        """Keep the network on the parent, for `mlflow.pyfunc.load_model("runs:/<id>/model")`.

        A study that is answered again has it already.
        """
        from orchestrator.tracking import model

        known = self._client.get_run(self._parent).data.tags.get("model.sha256")
        if known == served["digest"] or not Path(served["file"]).is_file():
            return
        with tempfile.TemporaryDirectory() as folder:
            model.write(served, Path(folder) / "model")
            self._client.log_artifacts(self._parent, str(Path(folder) / "model"), "model")
        self._client.set_tag(self._parent, "model.sha256", served["digest"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out: two that create one SQLite database at once both fail."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not try_lock(handle):
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)
