"""MLflow, as far as we use it: connected, its runs found and made, what is logged gathered.

This is the only file that imports mlflow.
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

# Without it the user interface opens on its pages for language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# What the server answers when it is well and the request is not: skip it and go on.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
log = logging.getLogger("orchestrator.tracking")


def name_of(key: str) -> str:
    """Return `key` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


class Client:
    """The runs of one experiment. Measurements and tags are gathered until `flush`.

    Times are in milliseconds since 1970, as MLflow has them.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.mlflow = client
        self._experiment = experiment
        self._metrics: dict[str, list[tuple[str, float, int, int]]] = {}  # per run id
        self._tags: dict[str, dict[str, str]] = {}

    @classmethod
    def open(cls, experiment: str, uri: str, artifacts: Path) -> Client:
        """Connect, and make database and experiment where they are missing (1-2 s).

        Raises Unavailable if mlflow cannot be imported, anything else if the server is away.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a line a run
        # The defaults (7 tries of 120 s) hold one call for minutes, longer than `finish` waits.
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
        """Within it a refusal of the server's is passed over."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            log.debug("mlflow refused %s: %s", what, error)

    # --- gathered

    def log(self, run_id: str, values: Mapping[str, float], step: int, at: int) -> None:
        """Gather finite values; MLflow would turn inf into 1.8e308 without a word."""
        rows = self._metrics.setdefault(run_id, [])
        for name, value in values.items():
            if math.isfinite(value):
                rows.append((name_of(name), float(value), at, int(step)))
            elif name.endswith("_loss") and not name.startswith("test"):
                self.tag(run_id, {"diverged": "true"})

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Gather tags, without passwords."""
        shown = {name_of(k): hidden(str(v)) for k, v in tags.items()}
        self._tags.setdefault(run_id, {}).update(shown)

    def flush(self) -> None:
        """Write what was gathered since the last time, one call per run."""
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
        """Make a run, return its id."""
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
        """Name the data of a run: {name, context, digest, source, examples} each."""
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
            self.mlflow.log_inputs(run_id, inputs)


def _client(uri: str) -> MlflowClient:
    """Return MLflow's client. Raises ValueError, with the cure, for a folder that it refuses."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        if "://" in uri and not uri.startswith("file:"):
            raise
        raise ValueError(
            f"the tracking address {uri} is a folder, and this MLflow keeps its runs in databases:"
            " tracking.uri=sqlite:///mlflow.db, or MLFLOW_ALLOW_FILE_STORE=true to have the folder"
        ) from error


def _locked(folder: Path) -> AbstractContextManager[Any]:
    """Keep other processes out of the folder, made if missing."""
    from filelock import FileLock  # only here, in the background: .1 s

    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "lock")
