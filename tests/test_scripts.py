"""Training scripts of many shapes, as people have them: each is tuned by its `train(trial)`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import orchestrator
from orchestrator.errors import ConfigError
from orchestrator.stages.expected.first_run import STOP

SCRIPTS = Path(__file__).parent / "scripts"
QUICK = ["tracking=none", "threads=1", "plan=[lr_range,final]", "stages.final.seeds=1"]


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """One of the scripts, imported as its user does."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module(request.param)
    yield module
    del sys.modules[request.param]


@pytest.mark.parametrize(
    ("script", "share"),  # of the untrained loss that is left at most
    [
        ("accumulation", 0.8),
        ("autocast", 0.3),
        ("stream", 0.2),
        ("sampler", 0.6),
        ("dicts", 0.2),
        ("padded", 0.9),
        ("multitask", 0.5),
        ("frozen", 0.4),
        ("language_model", 0.75),
    ],
    indirect=["script"],
)
@pytest.mark.usefixtures("here", "without_figures")
def test_a_script_is_tuned(script: ModuleType, share: float) -> None:
    """A recipe by which the script learns what it can, tested once on its sealed data."""
    record = orchestrator.tune(script.train, steps=200, batch_size=16, overrides=QUICK, quiet=True)
    assert record.status == "complete", record.reason
    runs = [o.run for stage in record.stages for o in stage.outcomes]
    start = next(run.stop_loss for run in runs if run.kept and run.stop_loss) / STOP
    assert record.summary()["final"]["test_loss"]["mean"] < share * start


@pytest.mark.parametrize("script", ["gan"], indirect=True)
@pytest.mark.usefixtures("here")
def test_two_optimisers_are_refused_with_the_reason(script: ModuleType) -> None:
    """Their losses play against each other: one held-out loss says nothing of one rate."""
    with pytest.raises(
        ConfigError, match=r"two optimisers \(Adam and Adam\): a study searches one"
    ):
        orchestrator.tune(script.train, steps=200, batch_size=32, overrides=QUICK)
