"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# What the shell that runs the tests says of its screen, its machine or its servers is not tested.
for name in list(os.environ):
    if name in ("CI", "NO_COLOR", "COLUMNS", "OMP_WAIT_POLICY") or name.startswith("MLFLOW_"):
        del os.environ[name]
os.environ["TERM"] = "xterm"
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands start in an empty folder, and what they do to their process is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))


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
