"""The trained network in MLflow: loaded and asked without our code, without a pickle."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from programs import free_port, until_it_answers

import orchestrator
from orchestrator import build
from orchestrator.config.compose import compose, parse
from orchestrator.config.schema import Config
from orchestrator.objectives import Description, describe
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.storage.paths import StudyPaths
from orchestrator.study.model_files import served

SMALL = ["plan=[final]", "recipe.max_lr=0.1", "recipe.batch_size=32", "model=mlp"]
SMALL += ["stages.final.epochs=3", "stages.final.seeds=1", "threads=1"]


def model_of_the_study(uri: str) -> str:
    """Return the address of the only study's model."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "study")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'study'")
    return f"runs:/{parent.info.run_id}/model"


def digits(examples: int) -> tuple[Any, Any]:
    """Return images as the data source gives them, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images[:examples].reshape(-1, 1, 8, 8).astype("float32"), labels[:examples]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_a_study_leaves_a_model_that_mlflow_loads(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_model("runs:/<id>/model")` predicts digits from raw pixels, any batch size."""
    record = orchestrator.run_study(overrides=SMALL)
    assert record.status == "complete", record.reason
    made = Path("runs/study/model.pt2").stat().st_mtime_ns
    assert orchestrator.run_study(overrides=SMALL).recipe == record.recipe
    assert Path("runs/study/model.pt2").stat().st_mtime_ns == made  # told again, not traced again
    uri = f"sqlite:///{here}/mlflow.db"
    address = model_of_the_study(uri)
    images, labels = digits(50)

    import mlflow

    monkeypatch.setitem(sys.modules, "orchestrator", None)  # the network needs nothing of ours
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(address)
    network = mlflow.pytorch.load_model(address)
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    scores = model.predict(images)
    assert scores.shape == (50, 10)
    assert (scores.argmax(1) == labels).mean() > 0.7
    found = network(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(found, scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_documented_command_serves_the_network(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow models serve` answers a POST of raw pixels with the scores that model.pt gives."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert orchestrator.run_study(overrides=SMALL).status == "complete"
    images, _ = digits(3)
    got = asked(model_of_the_study(f"sqlite:///{here}/mlflow.db"), {"inputs": images.tolist()})
    setup = build.objective(Config.from_mapping(compose(parse(SMALL))), here)._setup
    network, data = setup.make_model().eval(), setup.data
    network.load_state_dict(torch.load("runs/study/model.pt", weights_only=True))
    x = (torch.from_numpy(images) - data.mean) * data.scale / data.std
    np.testing.assert_allclose(got["predictions"], network(x).detach().numpy(), atol=1e-4)


def asked(model: str, question: dict[str, Any]) -> dict[str, Any]:
    """Serve the model by the command in docs/howto.md, and return what it answers."""
    howto = (Path(__file__).parent.parent / "docs/howto.md").read_text()
    (documented,) = (line for line in howto.splitlines() if line.startswith("mlflow models serve"))
    port = free_port()
    command = [*documented.replace("runs:/RUN_ID/model", model).split(), "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        Path("server.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as server,
    ):
        try:
            until_it_answers(server, f"http://127.0.0.1:{port}/health", Path("server.log"))
            address = f"http://127.0.0.1:{port}/invocations"
            body = json.dumps(question).encode()
            request = Request(address, body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def test_a_network_that_cannot_be_exported_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged in one line; the weights are kept all the same."""

    def export(weights: Path, to: Path) -> Any:
        raise RuntimeError("data-dependent branch\nand much more")

    torch.save({}, tmp_path / "model.pt")
    caplog.set_level(logging.WARNING, logger="orchestrator.study.model_files")
    assert served(Description(export=export), StudyPaths(tmp_path)) is None
    assert "cannot trace it (data-dependent branch)" in caplog.text


def test_an_objective_without_networks_has_nothing_to_serve(tmp_path: Path) -> None:
    """The quadratic keeps a model.pt that is no network."""
    (tmp_path / "model.pt").touch()
    assert served(describe(QuadraticObjective()), StudyPaths(tmp_path)) is None
