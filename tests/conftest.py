"""What all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from leaks import refused, undone

# What the shell that runs the tests says of its screen, its machine or its servers is not tested.
for name in list(os.environ):
    if name in ("CI", "NO_COLOR", "COLUMNS", "OMP_WAIT_POLICY") or name.startswith("MLFLOW_"):
        del os.environ[name]
os.environ["TERM"] = "xterm"
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test finds the process as the one before it did, and torch's random state at a seed."""
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)
    with undone(tmp_path_factory.getbasetemp()), refused():
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies draw none: that takes most of the time of a small one."""
    monkeypatch.setattr("orchestrator.report.html.drawings", lambda _: {})


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder with CIFAR-10 as Parquet files that ORCHESTRATOR_CIFAR10 names; skips without."""
    folder = os.environ.get("ORCHESTRATOR_CIFAR10")
    if not folder:
        pytest.skip("needs CIFAR-10: set ORCHESTRATOR_CIFAR10 to a folder with its Parquet files")
    return Path(folder)
