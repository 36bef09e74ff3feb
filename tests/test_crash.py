"""`kill -9` and SIGTERM at random moments of real studies: resumed, they are as if undisturbed."""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).resolve().parents[1]
# BatchNorm, dropout and random crops: everything that a checkpoint has to carry.
ARGUMENTS = [
    "+study=digits", "plan=[lr_range,batch_size,final]", "stages.final.epochs=2",
    "stages.batch_size.candidates=[16,32]", "data.train_examples=400", "data.augment=true",
    "model.dropout=.2", "stages.final.seeds=2",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HOME / "benchmarks"))
    from reliability_parts import kills

    module: ModuleType = kills
    return module


def test_a_study_killed_at_random_moments_is_as_if_undisturbed(
    tmp_path: Path, kills: ModuleType
) -> None:
    """Same decisions, same reasons, same bytes of the model, whenever it was killed."""
    seconds = kills._until_the_end(tmp_path / "whole", ARGUMENTS, [])["seconds"]
    moments = [random.Random(3).uniform(0.3, 1.0) * seconds / 2 for _ in range(3)]
    done = kills._until_the_end(tmp_path / "killed", ARGUMENTS, moments)
    assert done["kills"] >= 2
    assert kills.found(tmp_path / "killed") == kills.found(tmp_path / "whole")


def test_what_was_tracked_before_a_kill_is_not_tracked_twice(
    tmp_path: Path, kills: ModuleType
) -> None:
    """One parent, a child for each trial, one value a metric and step; all of them have ended."""
    pytest.importorskip("mlflow")
    command = [sys.executable, str(kills.KILLED), "study_name=s", *ARGUMENTS]
    journal = tmp_path / "runs/s/optuna.journal"
    for reports in (20, 60, 100):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as study:
            while not journal.exists() or journal.read_text().count('"op_code":7') < reports:
                assert study.poll() is None
                time.sleep(0.02)
            study.kill()
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    tracked = "from runs r join tags t on t.run_uuid = r.run_uuid where t.key = "
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        asked = {
            "parents": f"select count(*) {tracked} 'kind' and t.value = 'study'",
            "children": f"select count(*) {tracked} 'mlflow.parentRunId'",
            "keys": f"select count(distinct t.value) {tracked} 'key'",
            "open": "select count(*) from runs where status != 'FINISHED'",
            "points": "select count(*) from metrics where key = 'held_out_loss'",
            "steps": "select count(*) from (select distinct run_uuid, step from metrics"
            " where key = 'held_out_loss')",
        }
        told = {name: db.execute(query).fetchone()[0] for name, query in asked.items()}
    summary = json.loads((tmp_path / "runs/s/summary.json").read_text())
    assert told["parents"] == 1
    assert told["children"] == told["keys"] == summary["cost"]["runs"]["finished"]
    assert told["open"] == 0
    assert told["points"] == told["steps"] > 100


@pytest.mark.parametrize(
    "how",
    [["tracking=none"], [], ["tracking.uri=http://{hanging}"], ["executor=processes"]],
    ids=["untracked", "tracked", "a server that hangs", "workers"],
)
def test_sigterm_ends_a_real_study_within_ten_seconds(
    how: list[str], tmp_path: Path, kills: ModuleType
) -> None:
    """Exit code 143 in the middle of training, a checkpoint is there, the same command goes on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        hanging = f"127.0.0.1:{server.getsockname()[1]}"
        arguments = [*ARGUMENTS, *(text.format(hanging=hanging) for text in how)]
        command = [sys.executable, str(kills.KILLED), "study_name=s", *arguments]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as study:
            journal = tmp_path / "runs" / "s" / "optuna.journal"
            while not journal.exists() or journal.read_text().count('"op_code":7') < 30:
                assert study.poll() is None
                time.sleep(0.05)
            began = time.monotonic()
            study.send_signal(signal.SIGTERM)
            study.send_signal(signal.SIGTERM)
            assert study.wait(30) == 143
            assert time.monotonic() - began < 10
    assert list((tmp_path / "runs/s/checkpoints").glob("*.checkpoint"))
    subprocess.run([*command, "tracking=none"], cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    kills._until_the_end(tmp_path / "whole", ARGUMENTS, [])
    assert kills.found(tmp_path) == kills.found(tmp_path / "whole")


def test_the_benchmark_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soak, with few trials, gives its table."""
    monkeypatch.syspath_prepend(str(HOME / "benchmarks"))
    from reliability_parts import soak

    result = soak.run(argparse.Namespace(quick=True))
    assert len(result["marks"]) == 10
    assert "ms a trial" in soak.table(result)
