"""The trained network in MLflow: loaded and asked without our code, without a pickle."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import orchestrator
from orchestrator.serving import served

SCRIPT = """
import sys
sys.modules["orchestrator"] = None  # the network needs nothing of ours
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
x = np.load("x.npy")
model = mlflow.pyfunc.load_model(sys.argv[2])
assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
np.save("pyfunc.npy", model.predict(x))
import torch
np.save("torch.npy", mlflow.pytorch.load_model(sys.argv[2])(torch.from_numpy(x)).detach().numpy())
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_study_leaves_a_model_that_mlflow_loads(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_model("runs:/<id>/model")` predicts digits from raw pixels, any batch size."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small = ["plan=[final]", "recipe.max_lr=0.1", "recipe.batch_size=32", "model=mlp"]
    small += ["stages.final.epochs=3", "stages.final.seeds=1", "threads=1"]
    record = orchestrator.run_study(overrides=small)
    assert record.status == "complete", record.reason
    made = Path("runs/study/model.pt2").stat().st_mtime_ns
    assert orchestrator.run_study(overrides=small).recipe == record.recipe
    assert Path("runs/study/model.pt2").stat().st_mtime_ns == made  # told again, not traced again
    from mlflow import MlflowClient
    from sklearn.datasets import load_digits

    uri = f"sqlite:///{here}/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "study")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'study'")
    images, labels = load_digits(return_X_y=True)
    np.save("x.npy", images[:50].reshape(-1, 1, 8, 8).astype("float32"))
    model = f"runs:/{parent.info.run_id}/model"
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, uri, model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = np.load("pyfunc.npy")
    assert scores.shape == (50, 10)
    assert (scores.argmax(1) == labels[:50]).mean() > 0.7
    np.testing.assert_allclose(np.load("torch.npy"), scores, atol=1e-4)


def test_a_network_that_cannot_be_exported_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged in one line; the weights are kept all the same."""

    def export(weights: Path, to: Path) -> Any:
        raise RuntimeError("data-dependent branch\nand much more")

    torch.save({}, tmp_path / "model.pt")
    caplog.set_level(logging.WARNING, logger="orchestrator.serving")
    objective: Any = SimpleNamespace(export=export)
    assert served(objective, tmp_path) is None
    assert "cannot trace it (data-dependent branch)" in caplog.text


def test_an_objective_without_networks_has_nothing_to_serve(tmp_path: Path) -> None:
    """The quadratic keeps a model.pt that is no network."""
    (tmp_path / "model.pt").touch()
    nothing: Any = SimpleNamespace()
    assert served(nothing, tmp_path) is None
