"""A tracking server with a password: MLflow's own environment variables are all it needs."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.mlflow import MlflowTracker
from tests.test_tracking import CONFIG, train

INFO = {
    "run_id": "r1",
    "run_uuid": "r1",
    "experiment_id": "1",
    "status": "RUNNING",
    "start_time": 1,
    "lifecycle_stage": "active",
    "artifact_uri": "mlflow-artifacts:/1/r1/artifacts",
}
RUN = {"run": {"info": INFO, "data": {}}}
ANSWERS: dict[str, Any] = {
    "experiments/create": {"experiment_id": "1"},
    "runs/search": {"runs": []},
    "runs/create": RUN,
    "runs/get": RUN,
    "runs/update": {"run_info": INFO},
}
PASSWORD = "hush/hush"


class Server(ThreadingHTTPServer):
    """As much of an MLflow server as a study asks for, behind a password."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.refused = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        word = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
        path = self.path.partition("?")[0].split("/mlflow/")[-1]
        if self.headers.get("Authorization") != f"Basic {word}":
            self.server.refused += 1
            self._send(401, {"error_code": "UNAUTHENTICATED", "message": "who are you?"})
        elif path == "experiments/get-by-name":
            self._send(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"})
        else:
            json_body = self.headers.get("Content-Type") == "application/json"
            self.server.seen.append((path, json.loads(body or "{}") if json_body else {}))
            self._send(200, ANSWERS.get(path, {}))

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def _send(self, code: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def a_study(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("x")
    tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs")
    tracker.start(CONFIG, {"study": "demo"})
    train(tracker, "a", 2.0, 1.0)
    tracker.finish("complete", {}, [report])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_with_a_password_gets_the_study(
    tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs, curves and the report arrive, each request with the user's name and password."""
    a_study(tmp_path)
    assert capfd.readouterr() == ("", "")  # MLflow would tell the address of each run
    assert server.refused == 0
    paths = [path for path, _ in server.seen]
    assert paths.count("runs/create") == 2  # parent and child
    assert any(path.endswith("report.html") for path in paths)
    logged = [body.get("metrics", []) for path, body in server.seen if path == "runs/log-batch"]
    losses = [m["value"] for metrics in logged for m in metrics if m["key"] == "held_out_loss"]
    assert losses == [2.0, 1.0]
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrong_password_costs_one_warning(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The study goes on, its events wait in the spool, and nobody is shown a password."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password")
    caplog.set_level(logging.WARNING, logger="orchestrator.tracking")
    a_study(tmp_path)
    assert server.seen == []
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "orchestrator.tracking"]
    assert "tracking stopped, the study continues" in warning
    spool = (tmp_path / "runs/demo/tracking.spool.jsonl").read_text()
    assert '"do": "finish"' in spool
    assert "wrong-password" not in warning + spool
