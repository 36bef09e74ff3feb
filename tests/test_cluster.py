"""A Ray cluster of two nodes and PostgreSQL, disturbed for real: the same decisions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from clusters import TwoNodes, needs_ray, quiet_ray
from postgres import Server, a_server, needs_postgres

from orchestrator.config.schema import Config
from orchestrator.curve import Outcome, Point
from orchestrator.executors.job import Job
from orchestrator.executors.parallel import Flight, ParallelExecutor
from orchestrator.record import StudyRecord
from orchestrator.report import html
from orchestrator.report.terminal import Terminal
from orchestrator.study.walk import run_study

pytestmark = [needs_ray, needs_postgres, quiet_ray, pytest.mark.usefixtures("here")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with a_server() as made:
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    made = TwoNodes()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "write", lambda record, folder: [])


def values(name: str, **changes: Any) -> dict[str, Any]:
    """Return the config of a short study whose runs wait at each report."""
    return {
        "study_name": name,
        "effort": "thorough",
        "plan": ["momentum", "final"],
        "recipe": {"max_lr": 0.05},
        "objective": {"_target_": "slowly.Slowly", "pause": 0.03},
        "stages": {
            "momentum": {"candidates": [0.9, 0.8], "horizons": [0.25]},
            "final": {"epochs": 4, "seeds": 2, "baselines": False},
        },
        "tracking": {"name": "none"},
        **changes,
    }


def on_the_cluster(name: str, cluster: TwoNodes, server: Server, **options: Any) -> StudyRecord:
    ray = {"name": "ray", "address": cluster.address, **options}
    storage = {"name": "url", "url": server.url(), "lease_seconds": 3}
    config = Config.from_mapping(values(name, executor=ray, storage=storage))
    return run_study(config, Terminal())


def decisions(record: StudyRecord) -> list[Any]:
    return [(dict(s.decision.values), s.decision.reason) for s in record.stages]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """The same study in one process, without a pause."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = values("s", runs=str(folder), storage={"name": "memory"}, threads=1, device="cpu")
    config["objective"]["pause"] = 0
    return run_study(Config.from_mapping(config), Terminal())


def keys(record: StudyRecord) -> list[str]:
    return [o.key for o in record.outcomes]


def ended_once(name: str, server: Server, record: StudyRecord) -> None:
    """Assert that each run has one outcome in the database, and no trial is open."""
    storage = optuna.storages.RDBStorage(server.url())
    names = [n for n in optuna.get_all_study_names(storage) if n.startswith(f"{name}/")]
    trials = [t for n in names for t in optuna.load_study(study_name=n, storage=storage).trials]
    storage.remove_session()
    storage.engine.dispose()
    counted = Counter(t.user_attrs["key"] for t in trials if "outcome" in t.user_attrs)
    assert counted == Counter(set(keys(record)))
    assert not [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]


Fault = Callable[[ParallelExecutor], None]


def disturb(monkeypatch: pytest.MonkeyPatch, fault: Fault, at: int = 10) -> None:
    """Cause the fault when so many points have been reported."""
    real, points = ParallelExecutor._point, []

    def point(self: ParallelExecutor, flight: Flight, point: Point) -> None:
        real(self, flight, point)
        points.append(point)
        if len(points) == at:
            fault(self)

    monkeypatch.setattr(ParallelExecutor, "_point", point)


def workers(executor: ParallelExecutor, node: str | None = None) -> list[Any]:
    return [w for w in executor._flights if node in (None, w.node)]


def kill_worker(executor: ParallelExecutor) -> None:
    os.kill(workers(executor)[0].pid, signal.SIGKILL)


def stop_worker(executor: ParallelExecutor) -> None:
    """It neither works nor ends, as one that is cut off from the network."""
    os.kill(workers(executor)[0].pid, signal.SIGSTOP)


@pytest.mark.parametrize("fault", [kill_worker, stop_worker], ids=["killed", "cut off"])
def test_a_worker_is_lost(
    fault: Fault,
    cluster: TwoNodes,
    server: Server,
    undisturbed: StudyRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its trial is reclaimed once, by another worker."""
    disturb(monkeypatch, fault)
    record = on_the_cluster(fault.__name__, cluster, server, lease_seconds=3)
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    ended_once(fault.__name__, server, record)
    log = Path(f"runs/{fault.__name__}/study.log").read_text()
    assert log.count("its worker process died") == 1


def test_a_node_is_lost(
    cluster: TwoNodes, server: Server, undisturbed: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of trials: these go on elsewhere, from their checkpoints."""
    disturb(monkeypatch, lambda executor: cluster.kill_other())
    record = on_the_cluster("node", cluster, server)
    cluster.add()
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    ended_once("node", server, record)
    assert "its worker process died" in Path("runs/node/study.log").read_text()


def test_the_database_is_restarted(
    cluster: TwoNodes, server: Server, undisturbed: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its connections break in the middle of trials: the study waits and goes on."""
    disturb(monkeypatch, lambda executor: server.restart())
    record = on_the_cluster("restart", cluster, server)
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    ended_once("restart", server, record)


def test_the_command_is_killed_and_goes_on_elsewhere(
    cluster: TwoNodes,
    server: Server,
    undisturbed: StudyRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another command in another folder takes the study over, and trains only what is missing."""
    first = start(tmp_path / "first", "driver", cluster, server)
    known = until_trials_end(server, "driver", 2)
    first.kill()
    first.wait()
    trained: list[str] = []
    close = ParallelExecutor._close

    def noted(self: ParallelExecutor, stage: str, job: Job, *rest: Any) -> Outcome:
        trained.append(job.run_key)
        return close(self, stage, job, *rest)

    monkeypatch.setattr(ParallelExecutor, "_close", noted)
    record = on_the_cluster("driver", cluster, server)
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    ended_once("driver", server, record)
    assert not set(known) & set(trained)


@pytest.mark.slow
def test_the_head_is_lost(server: Server, undisturbed: StudyRecord, tmp_path: Path) -> None:
    """The command exits with 1 and says how to go on; with another cluster it does."""
    cluster = TwoNodes()
    try:
        command = start(tmp_path / "first", "head", cluster, server)
        known = until_trials_end(server, "head", 1)
        cluster.kill_head()
        shown = command.communicate(timeout=60)[0].decode()
        assert command.returncode == 1
        assert "the Ray cluster is lost (its head does not answer)" in shown
        assert "run the same command to resume" in shown
    finally:
        cluster.close()
    config = values("head", storage={"name": "url", "url": server.url(), "lease_seconds": 3})
    config |= {"threads": 1, "device": "cpu"}
    record = run_study(Config.from_mapping(config), Terminal())
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    ended_once("head", server, record)
    assert set(known) <= set(keys(record))


COMMAND = """
import json, sys
from orchestrator.executors import cluster
cluster.HEAD_SECONDS = 2
from orchestrator import __main__ as cli
from orchestrator.config.schema import Config
sys.exit(cli._study(Config.from_mapping(json.loads(sys.argv[1])), []))
"""


def start(folder: Path, name: str, cluster: TwoNodes, server: Server) -> subprocess.Popen[bytes]:
    """Start the study as a command in a folder of its own."""
    folder.mkdir()
    ray = {"name": "ray", "address": cluster.address}
    storage = {"name": "url", "url": server.url(), "lease_seconds": 3}
    config = json.dumps(values(name, executor=ray, storage=storage))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, config],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def until_trials_end(server: Server, name: str, count: int) -> list[str]:
    """Wait until so many trials of a study have ended; return their keys."""
    end = time.monotonic() + 60
    storage = optuna.storages.RDBStorage(server.url())
    try:
        while True:
            assert time.monotonic() < end
            time.sleep(0.2)
            names = [n for n in optuna.get_all_study_names(storage) if n.startswith(f"{name}/")]
            found = [
                t.user_attrs["key"]
                for n in names
                for t in optuna.load_study(study_name=n, storage=storage).trials
                if t.state == optuna.trial.TrialState.COMPLETE
            ]
            if len(found) >= count:
                return found
    finally:
        storage.remove_session()
        storage.engine.dispose()
