"""Workers, as processes and on Ray: the outcomes of one process, also when a worker dies."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from clusters import a_local_ray, needs_ray, quiet_ray
from misbehaving import PARENT, Misbehaving
from optuna.storages import BaseStorage, InMemoryStorage
from test_inline import COMPARING, ROUNDS, Nobody, a_run, an_executor
from test_study import a_study, trials

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.config.sections import RayConfig
from orchestrator.curve import Outcome, Point
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.job import Job
from orchestrator.executors.parallel import ParallelExecutor, Pool, groups
from orchestrator.executors.pool import WorkerPool
from orchestrator.recipe import Run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.states import Folder

OWN = {"_target_": "misbehaving.Misbehaving"}


pytestmark = quiet_ray


def a_pool(kind: str = "processes", **options: Any) -> Pool:
    config = Config.from_mapping({"objective": {**OWN, **options}})
    if kind == "processes":
        return WorkerPool(config.as_mapping(), 2)
    from orchestrator.executors.cluster import RayPool

    return RayPool(build.objective_of, config.as_mapping(), RayConfig(workers=2))


@pytest.fixture(scope="module", params=["processes", pytest.param("ray", marks=needs_ray)])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kind of workers; a Ray cluster on this machine is there for as long as it is needed."""
    if request.param == "ray":
        with a_local_ray(processors=4):
            yield "ray"
    else:
        yield "processes"


@pytest.fixture(scope="module")
def pool(kind: str) -> Iterator[Pool]:
    """Two workers for all tests: it takes them longer to start than to run a test."""
    made = a_pool(kind)
    yield made
    made.close()


Make = Callable[..., ParallelExecutor]


@pytest.fixture
def workers(pool: Pool, tmp_path: Path) -> Make:
    """Make executors whose workers are the pool's."""

    def make(
        pruner: dict[str, Any] | None = None,
        watcher: Nobody | None = None,
        storage: BaseStorage | None = None,
        pool: Pool = pool,
    ) -> ParallelExecutor:
        objective = Misbehaving()
        config = Config.from_mapping({"pruner": pruner or {"name": "none"}})
        made, states = (
            build.pruner(config, objective.facts.chance_loss),
            Folder(tmp_path / "checkpoints"),
        )
        ledger = Ledger(storage or InMemoryStorage(), "s", repr(made))
        return ParallelExecutor(ledger, objective, made, states, watcher or Nobody(), pool=pool)

    return make


def everything(executor: InlineExecutor, rounds: list[list[Run]] = ROUNDS) -> list[Any]:
    """Run all rounds; return all there is of each outcome, bit for bit."""
    outcomes = [o for runs in rounds for o in executor.run("a", runs)]
    return [
        (
            o.run,
            o.run.label,
            o.key,
            o.state,
            o.reason,
            str(o.curve.to_json()),
            astuple(o.result)[:2],
        )
        for o in outcomes
    ]


@pytest.mark.parametrize(
    "pruner",
    [{"name": "none"}, *COMPARING],
    ids=["none", "behind", "hyperband", "halving", "median"],
)
def test_outcomes_are_those_of_one_process(
    workers: Make, tmp_path: Path, pruner: dict[str, Any]
) -> None:
    """States, reasons, curves and results to the last bit, trials in the order proposed."""
    kept = InMemoryStorage()
    found = everything(workers(pruner, storage=kept))
    assert found == everything(an_executor(tmp_path, pruner))
    study = optuna.load_study(study_name="s/a", storage=kept)
    assert [t.user_attrs["key"] for t in study.trials] == [key for _, _, key, *_ in found]
    assert {t.params["max_lr"] for t in study.trials} == {run.schedule.max_lr for run, *_ in found}
    assert all(t.intermediate_values for t in study.trials)


def test_what_the_ledger_knows_is_not_trained_again(workers: Make) -> None:
    """The same rounds again, in a new executor: nobody starts."""
    kept, watcher = InMemoryStorage(), Nobody()
    first = everything(workers(storage=kept))
    assert everything(workers(storage=kept, watcher=watcher)) == first
    assert watcher.started == []


def test_the_same_run_twice_in_a_round_is_trained_once(workers: Make) -> None:
    """The second is known when its turn comes."""
    watcher = Nobody()
    runs = [a_run(0.1), a_run(0.05), replace(a_run(0.1), label="twice")]
    one, _, again = workers(watcher=watcher).run("a", runs)
    assert one.key == again.key
    assert len(watcher.started) == 2


def test_what_measures_is_a_group_of_its_own() -> None:
    """Timed runs, probes and calibrations have nothing beside them; the order stays."""
    plain = [Job(a_run(0.1, i), f"{i}") for i in range(4)]
    timed = Job(replace(a_run(0.1), timed=True), "timed")
    probe = Job(replace(a_run(0.1), kind="probe", batch_sizes=(8,)), "probe")
    jobs = [plain[0], plain[1], timed, probe, plain[2], plain[3], plain[2]]
    found = [[job.trial_key for job in group] for group in groups(jobs)]
    assert found == [["0", "1"], ["timed"], ["probe"], ["2", "3"], ["2"]]
    assert list(groups([])) == []


def test_timed_runs_have_a_device_to_themselves(workers: Make, kind: str) -> None:
    """In the parent, or in a worker on Ray that has all processors: nothing runs beside them."""
    plain = [replace(a_run(0.1, i), label="pid") for i in range(3)]
    timed = [replace(run, timed=True) for run in plain[:2]]
    pids = [o.result.measured["pid"] for o in workers().run("a", [*plain, *timed])]
    assert len(set(pids[3:])) == 1
    assert (pids[3] == os.getpid()) == (kind == "processes")
    assert not {os.getpid(), pids[3]} & set(pids[:3])


@needs_ray
@pytest.mark.parametrize("kind", ["ray"], indirect=True)
def test_a_timed_run_says_on_what_device(workers: Make) -> None:
    """Its outcome has the processor or the GPU, and the others have none."""
    plain, timed = workers().run("a", [a_run(0.1), replace(a_run(0.1), timed=True)])
    assert "cores" in timed.result.measured["device"]
    assert "device" not in plain.result.measured


def test_a_run_whose_worker_is_killed_is_tried_once_more(
    workers: Make, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed without a word in the middle: said, tried again, and the outcome is the same."""
    kept = InMemoryStorage()
    undisturbed = [a_run(0.1), a_run(0.05)]
    disturbed = [replace(undisturbed[0], label="killed once"), undisturbed[1]]
    found = everything(workers(storage=kept), [disturbed])
    assert [f[3:] for f in found] == [f[3:] for f in everything(workers(), [undisturbed])]
    how = {"processes": "signal SIGKILL", "ray": "it is dead"}[kind]
    assert f"killed once: its worker process died ({how}); it is retried once" in caplog.text
    trial = optuna.load_study(study_name="s/a", storage=kept).trials[0]
    assert list(trial.intermediate_values) == a_run(0.1).report_steps()


def test_a_run_whose_worker_is_killed_again_has_failed(
    workers: Make, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The study does not hang, the others finish, and the reason is with the trial."""
    runs = [replace(a_run(0.1), label="killed"), a_run(0.05), a_run(0.02)]
    lost, *others = workers().run("a", runs)
    assert lost.state == "failed"
    assert re.fullmatch(r"its worker process died twice \(.*\): out of memory\?", lost.reason)
    assert kind == "ray" or len(lost.curve) >= 2  # on Ray the last reports may die with it
    assert [o.state for o in others] == ["finished", "finished"]
    assert lost.reason in caplog.text


def test_an_exception_in_a_worker_keeps_its_traceback(
    workers: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The run has failed, and the log says where."""
    lost, other = workers().run("a", [replace(a_run(0.1), label="raises"), a_run(0.05)])
    assert (lost.state, other.state) == ("failed", "finished")
    assert lost.reason == "ValueError: out of cheese"
    assert 'raise ValueError("out of cheese")' in caplog.text
    assert "misbehaving.py" in caplog.text


@pytest.mark.parametrize("kind", ["processes"], indirect=True)
def test_a_worker_that_cannot_start_fails_the_run_and_says_why(
    workers: Make, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objective builds here, but not there."""
    monkeypatch.setenv(PARENT, str(os.getpid()))
    pool = a_pool(unbuildable=True)
    outcomes = workers(pool=pool).run("a", [a_run(0.1), a_run(0.05)])
    pool.close()
    assert [o.state for o in outcomes] == ["failed", "failed"]
    assert "its worker process died twice (exit code 1)" in outcomes[0].reason
    assert "RuntimeError: no worker can build this" in caplog.text


@needs_ray
@pytest.mark.parametrize("kind", ["ray"], indirect=True)
def test_workers_of_a_cluster_that_cannot_start_end_the_study_and_say_why(
    workers: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run is to blame: what it says is that of the objective."""
    pool = a_pool(kind, unbuildable=True)
    with pytest.raises(ClusterError, match=r"workers cannot start: .*no worker can build this"):
        workers(pool=pool).run("a", [a_run(0.1), a_run(0.05)])
    assert not pool._workers  # type: ignore[attr-defined]


class Impatient(Nobody):
    """Presses Ctrl-C a second after the sixth point: no worker is between two lines then."""

    points = 0

    def point(self, run: Run, key: str, point: Point) -> None:
        self.points += 1
        if self.points == 6:
            time.sleep(1)
            raise KeyboardInterrupt


def is_alive(pid: int) -> bool:
    """Whether the process lives; one that has ended and is not waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_an_interruption_stops_the_workers_and_the_same_command_goes_on(
    workers: Make, kind: str, here: Path
) -> None:
    """Both sleep for minutes; the trials are nobody's any more, and are done again."""
    kept, pool = InMemoryStorage(), a_pool(kind)
    runs = [replace(a_run(0.1, i), label="asleep") for i in range(2)]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        workers(watcher=Impatient(), storage=kept, pool=pool).run("a", runs)
    assert time.monotonic() - start < 30
    assert not pool._workers  # type: ignore[attr-defined]
    study = optuna.load_study(study_name="s/a", storage=kept)
    assert {t.state for t in study.trials} == {optuna.trial.TrialState.FAIL}
    again = workers(storage=kept).run("a", [replace(run, label="") for run in runs])
    assert [o.state for o in again] == ["finished"] * 2


@pytest.mark.parametrize("kind", ["processes"], indirect=True)
def test_an_interrupted_worker_keeps_a_checkpoint(
    workers: Make, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has some seconds for that, as a run in this process has; nothing is called a failure."""
    runs = [replace(a_run(0.1, i), label="patient") for i in range(2)]
    with pytest.raises(KeyboardInterrupt):
        workers(watcher=Impatient(), pool=a_pool()).run("a", runs)
    assert list((tmp_path / "checkpoints").glob("*.checkpoint"))  # one may just have reported
    assert "failed" not in caplog.text


def test_workers_end_with_a_parent_that_is_killed(here: Path) -> None:
    """Killed without a word: the workers notice within seconds, in the middle of a run."""
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from dataclasses import replace
from test_parallel import *
from orchestrator.executors.worker import Task
pool = a_pool()
worker = pool.free()
run = replace(a_run(0.1), label="asleep")
job = Job(run, run.key(Misbehaving().context(run)))
worker.send(Task(job, None, Folder(Path("checkpoints"))))
print(worker.pid, flush=True)
pool.listen(), time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for(lambda: (here / "asleep").exists())
        assert is_alive(pid)
        parent.kill()
    wait_for(lambda: not is_alive(pid))


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def decisions(record: Any) -> list[Any]:
    return [
        (s.decision.reason, dict(s.decision.values), s.decision.interval) for s in record.stages
    ]


@pytest.mark.usefixtures("here")
def test_a_study_decides_the_same_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake objective, a timed stage and all: the decisions and trials of one process."""
    monkeypatch.setattr("orchestrator.report.html.drawings", lambda _: {})
    short: dict[str, Any] = {
        "plan": ["lr_range", "momentum", "batch_size", "final"],
        "stages": {"final": {"epochs": 4, "seeds": 2, "baselines": False}},
    }
    alone, _ = a_study(study_name="alone", **short)
    record, shown = a_study(executor={"name": "processes", "workers": 2}, **short)
    assert decisions(record) == decisions(alone)
    assert record.recipe == alone.recipe
    assert [[o.key for o in s.outcomes] for s in record.stages] == [
        [o.key for o in s.outcomes] for s in alone.stages
    ]
    proposed = [o.key for o in record.stages[1].outcomes]
    assert [t.user_attrs["key"] for t in trials("momentum")] == proposed
    assert "arning" not in shown
    again, shown = a_study(executor={"name": "inline"}, threads=1, device="cpu", **short)
    assert decisions(again) == decisions(alone)
    assert "no new runs" in shown
    assert "settings differ" not in shown


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_real_training_gives_the_same_bits_in_workers() -> None:
    """A small network on the digits: keys and curves of one process, with streamed data."""
    config: dict[str, Any] = {
        "objective": {"name": "training"},
        "plan": ["lr_range", "momentum", "final"],
        "stages": {
            "momentum": {"candidates": [0.9, 0.8]},
            "final": {"epochs": 4, "seeds": 2, "baselines": False},
        },
        "recipe": {"batch_size": 32},
        "threads": 1,
    }
    alone, _ = a_study(study_name="alone", **config)
    config["objective"] = {"name": "training", "resident": False}
    record, _ = a_study(executor={"name": "processes", "workers": 2}, **config)
    assert decisions(record) == decisions(alone)

    def bits(outcome: Outcome) -> Any:
        kept = {k: v for k, v in outcome.curve.to_json().items() if k != "seconds"}
        return outcome.key, outcome.state, str(kept), str(outcome.result.test_loss)

    assert [bits(o) for s in record.stages for o in s.outcomes if not o.run.timed] == [
        bits(o) for s in alone.stages for o in s.outcomes if not o.run.timed
    ]


def test_side_by_side_is_for_processors_with_one_thread_each() -> None:
    """Threads and device are settled beforehand, for keys depend on them; a GPU is refused."""
    config = Config.from_mapping({"executor": {"name": "processes"}})
    assert (config.threads, config.device) == (1, "cpu")
    assert Config.from_mapping(config.as_mapping()) == config
    assert Config.from_mapping({"executor": {"name": "processes"}, "threads": 2}).threads == 2
    with pytest.raises(ConfigError, match=r"device: 'cuda' trains one run at a time: .* measured"):
        Config.from_mapping({"executor": {"name": "processes"}, "device": "cuda"})
    with pytest.raises(ConfigError, match=r"executor.workers: unknown key"):
        Config.from_mapping({"executor": {"name": "inline", "workers": 2}})
    with pytest.raises(ConfigError, match=r"executor.workers: 0 is not allowed"):
        Config.from_mapping({"executor": {"name": "processes", "workers": 0}})
