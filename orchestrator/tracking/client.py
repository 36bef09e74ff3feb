"""The MLflow client: connects, finds and creates runs, and logs in batches.

The only file that imports mlflow.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.redact import hidden
from orchestrator.tracking.outbox import Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Without this tag the user interface opens on its pages for language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# Errors of a working server about one request: the request is skipped.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
log = logging.getLogger("orchestrator.tracking")


def name_of(key: str) -> str:
    """Return `key` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


class Client:
    """The runs of one experiment. Metrics and tags are buffered until `flush`.

    Times are in milliseconds since 1970, as in MLflow.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.mlflow = client
        self._experiment = experiment
        self._metrics: dict[str, list[tuple[str, float, int, int]]] = {}  # per run id
        self._tags: dict[str, dict[str, str]] = {}

    @classmethod
    def open(cls, experiment: str, uri: str, artifacts: Path) -> Client:
        """Connect, and create database and experiment if they are missing (1-2 s).

        Raises Unavailable if mlflow cannot be imported, any other exception if the server fails.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # one line per run
        # With the defaults (7 retries of 120 s) one call blocks longer than `finish` waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        try:
            from mlflow import MlflowClient  # noqa: F401
        except Exception as error:  # a stray module of the same name raises anything
            raise Unavailable(f"mlflow cannot be imported ({error})") from error
        for chatter in ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool"):
            logging.getLogger(chatter).setLevel(logging.ERROR)
        local = not uri.startswith(("http", "databricks"))
        # Two processes that create one SQLite database at once both fail.
        with _locked(artifacts) if local else nullcontext():
            client = _client(uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                where = artifacts.as_uri() if local else None  # a server keeps its own artifacts
                made = client.create_experiment(experiment, where, tags=EXPERIMENT_TAGS)
                return cls(client, made)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return cls(client, found.experiment_id)

    @contextmanager
    def if_refused(self, what: str) -> Iterator[None]:
        """Return a context in which a refused request is logged and skipped."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            log.debug("mlflow refused %s: %s", what, error)

    # --- buffered

    def log(self, run_id: str, values: Mapping[str, float], step: int, at: int) -> None:
        """Buffer finite values; MLflow would silently store inf as 1.8e308."""
        rows = self._metrics.setdefault(run_id, [])
        for name, value in values.items():
            if math.isfinite(value):
                rows.append((name_of(name), float(value), at, int(step)))
            elif name.endswith("_loss") and not name.startswith("test"):
                self.tag(run_id, {"diverged": "true"})

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Buffer tags, without passwords."""
        shown = {name_of(k): hidden(str(v)) for k, v in tags.items()}
        self._tags.setdefault(run_id, {}).update(shown)

    def flush(self) -> None:
        """Write the buffered values, one call per run."""
        from mlflow.entities import Metric, RunTag

        metrics, tags = self._metrics, self._tags
        self._metrics, self._tags = {}, {}
        for run_id in {**metrics, **tags}:
            with self.if_refused("log"):
                self.mlflow.log_batch(
                    run_id,
                    metrics=[Metric(*m) for m in metrics.get(run_id, ())],
                    tags=[RunTag(k, v) for k, v in tags.get(run_id, {}).items()],
                )

    # --- written at once

    def create(self, name: str, tags: Mapping[str, str], at: int) -> str:
        """Create a run, return its id."""
        made = self.mlflow.create_run(
            self._experiment, start_time=at, run_name=name, tags=dict(tags)
        )
        return str(made.info.run_id)

    def find(self, condition: str) -> Iterator[Any]:
        """Yield the experiment's runs with that condition, the latest first."""
        token = None
        while True:
            page = self.mlflow.search_runs(
                [self._experiment],
                condition,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Write parameters."""
        from mlflow.entities import Param

        rows = [
            Param(name_of(k), v if isinstance(v, str) else json.dumps(v)) for k, v in params.items()
        ]
        self.mlflow.log_batch(run_id, params=rows)

    def datasets(self, run_id: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Log the datasets of a run: {name, context, digest, source, examples} each."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=data["name"],
                    digest=data["digest"][:36],  # MLflow's limit
                    source_type="orchestrator",
                    source=json.dumps({"source": hidden(data["source"])}),
                    profile=json.dumps({"examples": data["examples"]}),
                ),
                [InputTag("mlflow.data.context", data["context"])],
            )
            for data in datasets
        ]
        if inputs:
            self.mlflow.log_inputs(run_id, inputs)


def _client(uri: str) -> MlflowClient:
    """Return MLflow's client. Raises ValueError, with what to do, for a folder that it refuses."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        if "://" in uri and not uri.startswith("file:"):
            raise
        raise ValueError(
            f"the tracking address {uri} is a folder, and this version of MLflow needs a database:"
            " tracking.uri=sqlite:///mlflow.db, or MLFLOW_ALLOW_FILE_STORE=true to use the folder"
        ) from error


def _locked(folder: Path) -> AbstractContextManager[Any]:
    """Return a lock on the folder, which is made if missing."""
    from filelock import FileLock  # only here, in the background: .1 s

    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "lock")
