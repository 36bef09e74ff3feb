"""Faults, each caused for real: nothing is lost, and each ends in the documented way."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from programs import free_port

from orchestrator import __main__ as cli
from orchestrator.changes import surroundings
from orchestrator.config.schema import Config
from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.curve import Outcome, Point, Result
from orchestrator.errors import ConfigError, StorageError
from orchestrator.executors import job
from orchestrator.executors import session as sessions
from orchestrator.objectives import Description, Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Run
from orchestrator.record import StudyRecord
from orchestrator.report import html
from orchestrator.report.terminal import Terminal
from orchestrator.schedules import Schedule
from orchestrator.storage import backend
from orchestrator.storage.states import Folder
from orchestrator.study import lock
from orchestrator.study.walk import run_study
from orchestrator.system import files, signals
from orchestrator.training.objective import TrainingObjective, TrainingSettings

pytestmark = pytest.mark.usefixtures("here")
Call = Callable[[QuadraticObjective, Run, Session], Result]
REAL = QuadraticObjective.__call__


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, no waiting for the disk, no garbage collection: nothing here needs them."""
    monkeypatch.setattr(html, "write", lambda record, folder: [])
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(gc, "collect", int)
    monkeypatch.setattr(job, "SIGNAL_SECONDS", 0.0)  # no DataLoader in this process


def a_study(**changes: Any) -> StudyRecord:
    """Run a short study on the quadratic objective."""
    mapping = {
        "study_name": "s",
        "effort": "thorough",
        "plan": ["momentum", "final"],
        "recipe": {"max_lr": 0.05},
        "objective": {"name": "quadratic", "train_examples": 300},
        "stages": {"final": {"epochs": 4}},
        "tracking": {"name": "none"},
        **changes,
    }
    return run_study(Config.from_mapping(mapping), Terminal())


def disturbed(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr(QuadraticObjective, "__call__", call)


def states(record: StudyRecord, stage: int = 0) -> dict[str, int]:
    counted: dict[str, int] = record.stages[stage].summary()["trials"]
    return counted


def study_log() -> str:
    return Path("runs/s/study.log").read_text()


def decisions(record: StudyRecord) -> list[tuple[dict[str, Any], str]]:
    return [(dict(s.decision.values), s.decision.reason) for s in record.stages]


# --- in a run


def sizes_compared(*candidates: int) -> StudyRecord:
    """Run a study that compares batch size 8 with others."""
    return a_study(
        plan=["batch_size", "final"],
        recipe={"max_lr": 0.05, "batch_size": 8},
        stages={"final": {"epochs": 4}, "batch_size": {"candidates": list(candidates)}},
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_batch_size_without_memory_is_left_out_with_all_larger_ones(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at 32: 32 and 64 are not trained on, 8 and 16 are compared, and it is said."""
    tried: list[int] = []

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        if run.kind in ("train", "ramp"):
            tried.append(run.batch_size)
            if run.batch_size >= 32:
                raise error
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = sizes_compared(16, 32, 64)
    assert record.status == "complete"
    assert record.recipe.batch_size in (8, 16)
    assert "32 and larger ran out of memory" in record.stages[0].decision.reason
    assert tried.count(32) + tried.count(64) <= 4  # the round in which it was found out
    assert "out of memory" in study_log()


def test_a_batch_size_that_has_memory_for_its_first_seed_only_is_left_out_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 64 the second seed fails: 64 has no part in the decision, and nothing is made again."""

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        if run.kind == "train" and run.batch_size == 64 and run.replicate == 1:
            raise MemoryError
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = sizes_compared(16, 64)
    decision, runs = record.stages[0].decision, [o.run for o in record.stages[0].outcomes]
    assert decision.values["batch_size"] in (8, 16)
    assert 64 not in decision.tied_with
    assert "64 and larger ran out of memory" in decision.reason
    assert [row["batch_size"] for row in decision.evidence["rows"]] == [8, 16]
    assert [run.batch_sizes for run in runs if run.kind == "calibrate"] == [(8, 16, 64)]


def test_a_calibration_without_memory_is_repeated_without_the_largest_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sizes at once may not fit where each does: the largest goes, the others are compared."""

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        if run.kind == "calibrate" and len(run.batch_sizes) > 2:
            raise MemoryError
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = sizes_compared(16, 32)
    assert record.status == "complete"
    assert {o.run.batch_size for o in record.stages[0].outcomes if o.run.timed} == {8, 16, 32}
    assert "32 and larger ran out of memory" in record.stages[0].decision.reason


def test_torch_says_in_words_that_a_processor_has_no_memory() -> None:
    """The real allocator's error counts as out of memory, not as a mistake of the user's."""
    from orchestrator.executors.session import reason_of

    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert reason_of(raised.value).startswith("out of memory: ")
    assert not reason_of(ValueError("shape")).startswith("out of memory")


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)])
def test_an_exception_in_the_users_code_fails_its_run_with_the_traceback_in_the_log(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value of momentum crashes: its trials are FAILED, the stage decides among the others."""

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        if run.schedule.max_momentum == 0.99:
            raise error
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = a_study()
    assert record.status == "complete"
    assert states(record)["failed"] == 2
    assert "Traceback" in study_log()
    assert f"{type(error).__name__}: {error}" in study_log()


def test_a_study_whose_runs_all_crash_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status failed, and the reason is the crash, not the stage's view of it."""

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        raise ValueError("wrong shape")

    disturbed(monkeypatch, call)
    record = a_study(plan=["lr_range", "final"], recipe={})
    assert record.status == "failed"
    assert "runs failed: ValueError: wrong shape" in record.reason


@pytest.mark.parametrize(("lost_from", "chosen"), [(0.5, 0.9), (2.0, 0.95)])
def test_a_loss_that_is_not_a_number_is_a_lost_run(
    lost_from: float, chosen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best momentum by far, NaN from half of its runs on: not chosen, no NaN in the answer."""

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        best = run.schedule.max_momentum == 0.95 and run.kind == "train"
        return REAL(self, run, Sick(session, lost_from) if best else session)

    disturbed(monkeypatch, call)
    record = a_study()
    assert record.status == "complete"
    assert record.stages[0].decision.values["max_momentum"] == chosen
    assert states(record)["pruned"] == (2 if chosen == 0.9 else 0)
    json.dumps(record.summary(), allow_nan=False)


class Sick:
    """A session in front of another: a tenth of each loss, and NaN from a share of the run on."""

    def __init__(self, session: Session, lost_from: float) -> None:
        self._session, self._lost_from = session, lost_from

    def report(self, point: Any) -> None:
        loss = point.held_out_loss / 10 if point.progress < self._lost_from else float("nan")
        self._session.report(replace(point, held_out_loss=loss))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


# --- files


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_set_aside(damage: str) -> None:
    """A checksum tells; the file is renamed, and the run starts over."""
    path = Path("c/key.checkpoint")
    files.write_sealed(path, b"state" * 1000)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[2000] ^= 1
    bad = {"torn": whole[:-7], "flipped": bytes(flipped), "empty": b"", "foreign": b"PK\x03\x04"}
    path.write_bytes(bad[damage])
    assert files.read_sealed(path) is None
    assert [p.name for p in path.parent.iterdir()] == ["key.checkpoint.broken"]
    files.write_sealed(path, b"again")
    assert files.read_sealed(path) == b"again"


def test_damaged_lines_of_the_journal_cost_their_trials_only() -> None:
    """Lines in the middle are corrupted: the file is kept aside, the answer is the same."""
    undisturbed = a_study()
    path = Path("runs/s/optuna.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    outcomes = [i for i, line in enumerate(lines) if b'"outcome"' in line]
    lines[outcomes[1]] = b"\x00" * 40 + b"\n"  # zeros, as after a power cut
    lines[outcomes[3]] = lines[outcomes[3]][:50] + lines[outcomes[3] + 1]  # torn, glued to the next
    path.write_bytes(b"".join(lines))
    record = a_study()
    assert record.status == "complete"
    assert decisions(record) == decisions(undisturbed)
    assert Path("runs/s/optuna.journal.broken").is_file()
    assert "lines of" in study_log()


def test_a_changed_number_in_an_outcome_is_noticed() -> None:
    """The line is still JSON, but not what was written: it is not believed."""
    undisturbed = a_study()
    path = Path("runs/s/optuna.journal")
    text = path.read_text()
    at = text.index('\\"held_out_loss\\": [') + len('\\"held_out_loss\\": [')
    path.write_text(text[:at] + "9" + text[at + 1 :])
    record = a_study()
    assert "1 damaged outcomes" in study_log()
    assert decisions(record) == decisions(undisturbed)


def test_a_trial_that_lost_its_creation_takes_no_other_trials_outcome() -> None:
    """Without the line that made a trial Optuna numbers the later ones anew; seals tell."""
    undisturbed = a_study()
    path = Path("runs/s/optuna.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    made = [i for i, line in enumerate(lines) if b'"op_code":4' in line]
    lines[made[2]] = b"garbage\n"
    path.write_bytes(b"".join(lines))
    assert decisions(a_study()) == decisions(undisturbed)


@pytest.mark.slow
def test_a_full_disk_stops_the_study_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A file may not grow beyond a limit (as on a full disk): exit 1, one line; then it goes on."""
    long = "effort=thorough"
    done = command(tmp_path, long, limit=60_000)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    shown = done.stdout + done.stderr
    assert "File too large; free some disk space, then run the same command to resume" in shown
    again = command(tmp_path, long)
    assert again.returncode == 0, again.stdout + again.stderr
    undisturbed = command(tmp_path, long, "study_name=other")
    assert answer(again.stdout) == answer(undisturbed.stdout)


SHORT = (
    "+study=quadratic",
    "study_name=s",
    "plan=[momentum,final]",
    "recipe.max_lr=.05",
    "tracking=none",
)
# A file system of 64 kB in a mount namespace of its own: gone with its process.
TINY = """
mount -t tmpfs -o size=64k tmpfs disk && cd disk || exit 77
"$@" > ../full.txt 2>&1; echo $? > ../full.code
mount -o remount,size=64m . && "$@" > ../again.txt 2>&1; echo $? > ../again.code
"""


@pytest.mark.slow
def test_a_disk_without_room_stops_the_study_and_room_lets_it_go_on(tmp_path: Path) -> None:
    """A real one (ENOSPC), of 64 kB: exit 1, one line; with more room the same answer."""
    (tmp_path / "disk").mkdir()
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    shell = [*alone, "sh", "-c", TINY, "sh", sys.executable, "-m", "orchestrator", *SHORT]
    ours = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(shell, cwd=tmp_path, env=os.environ | ours, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if not (tmp_path / "full.code").exists():
        pytest.skip(f"a file system may not be mounted here: {done.stderr.decode()[:200]}")
    full, again = (tmp_path / f"{name}.txt" for name in ("full", "again"))
    codes = [int((tmp_path / f"{name}.code").read_text()) for name in ("full", "again")]
    assert codes == [1, 0], full.read_text() + again.read_text()
    assert "No space left on device; free some disk space" in full.read_text()
    assert "Traceback" not in full.read_text()
    undisturbed = command(tmp_path, "study_name=other")
    assert answer(again.read_text()) == answer(undisturbed.stdout)


def answer(shown: str) -> list[str]:
    return [line.split("(")[0] for line in shown.splitlines() if line.startswith("momentum")]


def command(folder: Path, *more: str, limit: int | None = None) -> Any:
    """Run a short study by the command line, with a limit for the size of files in bytes."""
    arguments = [*SHORT, *more]

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )


def test_a_full_disk_under_a_checkpoint_is_not_the_runs_fault() -> None:
    """`session.save` raises StorageError, which stops the study instead of failing the run."""

    class Trial:
        number = 0

    made = sessions.TrialSession(
        None, "key", Trial(), None, Folder(Path("/proc/nowhere")), lambda point: None  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(StorageError, match="run the same command to resume"):
        made.save(b"state")


def test_a_runs_folder_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2 and what to set; /sys is read-only for everybody."""
    code = cli.run(["+study=quadratic", "runs=/sys/runs", "tracking=none"])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert "set runs=... to a folder that can" in err


# --- the storage


def test_a_storage_that_is_locked_for_long_stops_the_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process holds the journal's lock and hangs: status failed, and it goes on later."""
    monkeypatch.setattr(backend, "LOCK_SECONDS", 0.2)
    calls = 0
    held: list[Any] = []

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        nonlocal calls
        calls += 1
        if calls == 4:
            held.append(open("runs/s/optuna.journal.flock", "a"))  # noqa: SIM115
            fcntl.flock(held[0], fcntl.LOCK_EX)
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = a_study()
    assert record.status == "failed"
    assert "another process has held" in record.reason
    held[0].close()
    assert a_study().status == "complete"
    assert len({o.key for s in a_study().stages for o in s.outcomes}) == calls - 1


def test_a_storage_that_goes_away_stops_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's table vanishes in the middle: status failed with the database's own words."""
    calls = 0

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        nonlocal calls
        calls += 1
        if calls == 2:
            with closing(sqlite3.connect("trials.db")) as database:
                database.execute("drop table trial_intermediate_values")
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = a_study(storage={"name": "url", "url": "sqlite:///trials.db"})
    assert record.status == "failed"
    assert "no such table" in record.reason
    assert "run the same command to resume" in record.reason


def test_a_storage_that_cannot_be_opened_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The request is wrong: exit 2 without a stack trace."""
    url = "sqlite:////nowhere/at/all.db"
    arguments = ["+study=quadratic", "tracking=none", "storage=url", f"storage.url='{url}'"]
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert "there is no folder /nowhere/at" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("postgresql+psycopg", "Connection refused"), ("oracle+cx_oracle", "No module named")],
)
def test_a_database_that_nobody_serves_is_one_line_and_no_folder(
    kind: str, problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed port, a missing driver: exit 2 before a folder is made, and no password shown."""
    url = f"{kind}://me:hunter2@127.0.0.1:9/db"
    assert cli.run(["+study=quadratic", "tracking=none", "storage=url", f"storage.url={url}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("storage.url: ")
    assert err.count("\n") == 1
    assert problem in err
    assert "hunter2" not in err
    assert list(here.iterdir()) == []


def test_a_locked_database_is_one_line_and_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process writes to the SQLite file and does not end: exit 2, its own words."""
    with closing(sqlite3.connect("trials.db", isolation_level=None)) as database:
        database.execute("create table mine (x)")
        database.execute("begin exclusive")
        arguments = ["storage=url", "storage.url='sqlite:///trials.db?timeout=0.1'"]
        assert cli.run(["+study=quadratic", "tracking=none", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("storage.url: database is locked")
        assert err.count("\n") == 1
    assert [p.name for p in here.iterdir()] == ["trials.db"]


@pytest.mark.parametrize("runs", ["/proc/x", "a_file"])
def test_a_runs_folder_that_cannot_be_made_is_one_line(
    runs: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, nothing left behind."""
    Path("a_file").touch()
    assert cli.run(["+study=quadratic", "tracking=none", f"runs={runs}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "set runs=... to a folder that can" in err
    assert [p.name for p in here.iterdir()] == ["a_file"]


def test_a_clock_that_jumps_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day back in the middle: the same decisions, no negative duration."""
    undisturbed = a_study(study_name="other")
    real, calls = time.time, 0

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        nonlocal calls
        calls += 1
        if calls == 3:
            monkeypatch.setattr(time, "time", lambda: real() - 86400)
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = a_study()
    assert decisions(record) == decisions(undisturbed)
    assert record.total_seconds >= 0
    assert a_study().status == "complete"


LIBFAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
SET_BACK = """
import os, sys, time
from orchestrator import __main__ as cli
from orchestrator.objectives.quadratic import QuadraticObjective

real, runs = QuadraticObjective.__call__, []

def call(self, run, session):
    runs.append(run)
    if len(runs) == 3:
        before = time.time()
        with open("offset.new", "w") as file:
            file.write("-86400")
        os.replace("offset.new", os.environ["FAKETIME_TIMESTAMP_FILE"])
        assert before - 86400 <= time.time() < before
    return real(self, run, session)

QuadraticObjective.__call__ = call
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(LIBFAKETIME is None, reason="needs libfaketime (apt install faketime)")
def test_a_machine_whose_clock_is_set_back_changes_nothing(here: Path) -> None:
    """A day back in the middle, for the whole process: the same answer, nothing ends too early."""
    study = ["+study=quadratic", "quiet=true"]
    assert cli.run([*study, "study_name=undisturbed", "tracking=none"]) == 0
    Path("offset").write_text("+0")
    ours = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {
        "PYTHONPATH": ours,
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(here / "offset"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nobody can set that one
        "NO_FAKE_STAT": "1",
    }
    command = [sys.executable, "-c", SET_BACK, *study, "study_name=s", "tracking=mlflow"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stderr) == (0, "")
    told, undisturbed = (
        json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in ("s", "undisturbed")
    )
    assert told["recipe"] == undisturbed["recipe"]
    for one, other in zip(told["stages"], undisturbed["stages"], strict=True):
        assert (one["decision"], one["reason"]) == (other["decision"], other["reason"])
    assert all(s["seconds"] >= 0 for s in told["stages"])
    assert told["cost"]["total_seconds"] >= 0
    _all_ends_after_its_beginning(here)
    assert cli.run([*study, "study_name=s", "tracking=mlflow"]) == 0  # the clock is right again


def _all_ends_after_its_beginning(here: Path) -> None:
    """In MLflow, which has everything: nothing was refused, nothing waits for the next time."""
    from mlflow import MlflowClient

    assert not Path("runs/s/tracking.spool.jsonl").exists()
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert len(found) > 10
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    assert all(run.info.end_time >= run.info.start_time for run in found)
    (parent,) = (run for run in found if run.data.tags["kind"] == "study")
    samples = client.get_metric_history(parent.info.run_id, "system/load_average")
    assert samples
    assert all(0 <= sample.step < 3600 for sample in samples)


# --- one owner


def test_a_second_process_is_told_who_holds_the_study() -> None:
    """Exit 2 at once; the line names process, host, since when, and the ways out."""
    Path("runs/s").mkdir(parents=True)
    code = (
        "import time; from pathlib import Path; from orchestrator.study import lock;"
        "held = lock.held(Path('runs/s')); held.__enter__(); print('held', flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigError, match=f"study s is being run by process {other.pid} on"):
            a_study()
        other.kill()
    assert a_study().status == "complete"  # the dead owner's lock is taken over by itself


def test_two_owners_in_one_process_are_refused_too() -> None:
    """Two threads of one program are two owners."""
    Path("runs/s").mkdir(parents=True)
    with lock.held(Path("runs/s")), pytest.raises(ConfigError, match="since 20"):
        a_study()


def test_a_fork_does_not_hold_the_lock_for_its_parent() -> None:
    """A worker process may outlive the owner: the study is free all the same."""
    folder = Path("runs/s")
    folder.mkdir(parents=True)
    (reading, writing), (waiting, ready) = os.pipe(), os.pipe()
    with lock.held(folder):
        child = os.fork()
        if child == 0:
            os.write(ready, b"x")
            os.read(reading, 1)
            os._exit(0)
        os.read(waiting, 1)
    with lock.held(folder):
        pass
    os.write(writing, b"x")
    os.waitpid(child, 0)


def test_starting_over_holds_the_new_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """fresh=true renames the folder with its lock; the new one is locked as well."""
    refused: list[Run] = []

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        with pytest.raises(ConfigError, match="is being run by"), lock.held(Path("runs/s")):
            pass
        refused.append(run)
        return REAL(self, run, session)

    a_study()
    disturbed(monkeypatch, call)
    a_study(fresh=True)
    assert refused
    assert len([p for p in Path("runs").iterdir() if p.name.startswith("s.old-")]) == 1
    assert Path("runs/s/lock").is_file()


# --- changes


def test_a_changed_setting_says_what_differs_and_which_stages_run_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The path with both values, then each stage whose first runs are not known, with the cause."""
    a_study()
    capsys.readouterr()
    a_study(objective={"name": "quadratic", "train_examples": 300, "noise": 3.0})
    shown = capsys.readouterr().out
    assert "objective.noise: 4.0 -> 3.0" in shown
    assert "momentum runs again: noise: 4.0 -> 3.0" in shown


def test_a_longer_final_run_is_named_where_it_was_set(capsys: pytest.CaptureFixture[str]) -> None:
    """Not by the steps and reports that follow from it; settings of the records are no cause."""
    a_study()
    capsys.readouterr()
    a_study(stages={"final": {"epochs": 26}}, storage={"name": "journal"})
    shown = capsys.readouterr().out
    assert "momentum runs again: stages.final.epochs: 4.0 -> 26.0\n" in shown
    assert "steps:" not in shown


def test_changed_data_and_code_are_told_in_words() -> None:
    """No hash of the run's surroundings is shown to people; all else as it is."""
    before = {
        "train_hash": "aa",
        "model": {"source": "0" * 16, "width": 1},
        "data": {"source": "x"},
    }
    now = {"train_hash": "bb", "model": {"source": "1" * 16, "width": 2}, "data": {"source": "y"}}
    assert surroundings(before, now) == [
        "the training data changed",
        "the code of model changed",
        "model.width: 1 -> 2",
        'data.source: "x" -> "y"',
    ]


def test_an_added_candidate_is_no_stage_that_runs_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is known stays known: only the config's difference is told."""
    a_study()
    capsys.readouterr()
    stages = {"final": {"epochs": 4}, "momentum": {"candidates": [0.99, 0.97, 0.95, 0.9, 0.8]}}
    a_study(stages=stages)
    shown = capsys.readouterr().out
    assert "stages.momentum.candidates" in shown
    assert "runs again:" not in shown


def test_another_version_of_the_program_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results of another training version do not compare; fresh=true starts over."""
    a_study()

    def write_version(version: int) -> None:
        said = Description(formats={"training": version})
        monkeypatch.setattr(QuadraticObjective, "describe", lambda _: said)

    write_version(3)
    record = a_study(fresh=True)
    write_version(4)
    with pytest.raises(ConfigError, match=r"training version 3, now 4.*fresh=true"):
        a_study()
    assert a_study(fresh=True).status == record.status == "complete"


# --- signals


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_is_noted_and_ends_the_study_at_the_next_report(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in a row are as one; the exit code tells which; the same command goes on."""
    undisturbed = a_study(study_name="other")
    calls = 0

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        nonlocal calls
        calls += 1
        if calls == 4:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    before = signal.getsignal(signal.SIGTERM)
    with signals.handled():
        record = a_study()
    assert record.status == "interrupted"
    assert signals.exit_code() == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads(Path("runs/s/summary.json").read_text())["status"] == "interrupted"
    resumed = a_study()
    assert decisions(resumed) == decisions(undisturbed)
    keys = {o.key for s in resumed.stages for o in s.outcomes}
    assert calls == len(keys) + 1  # only the run that was interrupted was begun twice


def test_where_nothing_reports_the_alarm_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that never comes to a report is stopped when the grace is over."""
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.2)

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        signal.raise_signal(signal.SIGTERM)
        while True:
            time.sleep(0.01)

    disturbed(monkeypatch, call)
    with signals.handled():
        assert a_study().status == "interrupted"


class Kept:
    """A session that keeps points and state."""

    def __init__(self, saved: bytes | None = None) -> None:
        self.saved, self.points = saved, list[Point]()

    def report(self, point: Point) -> None:
        self.points.append(replace(point, seconds=0.0, evaluation_seconds=0.0))

    def save(self, state: bytes) -> None:
        self.saved = state

    def load(self) -> bytes | None:
        return self.saved

    def save_model(self, state: bytes) -> None:
        """Not here."""


def test_a_signal_makes_a_training_run_keep_its_state_at_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also between two reports; what goes on from there is bit-equal (dropout, crops, norms)."""
    data = DataConfig(train_examples=300, held_out_examples=100, augment=True)
    model = ModelConfig(name="resnet9", width=0.125, dropout=0.2)
    run = Run("train", Schedule("paper", 0.01, 0.1, 0.85, 0.9), 1e-3, 32, 20, 0, points=2)
    settings = TrainingSettings(data, model, device="cpu", threads=1)
    made = TrainingObjective(settings, cache=Path())
    whole, cut = Kept(), Kept()
    made(run, whole)
    step, steps = torch.optim.SGD.step, 0

    def stepping(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2 + 14:  # two are made to warm up; the first report is at 10
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", stepping)
    made = TrainingObjective(settings, cache=Path())
    steps = 0
    with signals.handled(), signals.patiently(), pytest.raises(signals.Interrupted):
        made(run, cut)
    assert cut.saved is not None
    assert torch.load(BytesIO(cut.saved), weights_only=True)["step"] == 14
    resumed = Kept(cut.saved)
    made(run, resumed)
    assert [p.step for p in cut.points] == [10]
    assert resumed.points == whole.points


# --- tracking


class Server(BaseHTTPRequestHandler):
    """Answers 500 to everything, or hangs."""

    hangs = False

    def _answer(self) -> None:
        if self.hangs:
            time.sleep(20)
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["answers 500", "hangs", "refuses"])
def test_a_tracking_server_in_trouble_changes_nothing(
    fault: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study comes to the same answer; what was not sent is kept for the next run."""
    monkeypatch.setattr(Server, "hangs", fault == "hangs")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    port = server.server_address[1] if fault != "refuses" else 9
    undisturbed = a_study(study_name="other")
    record = a_study(tracking={"name": "mlflow", "uri": f"http://127.0.0.1:{port}"})
    assert record.status == "complete"
    assert decisions(record) == decisions(undisturbed)
    assert Path("runs/s/tracking.spool.jsonl").stat().st_size > 0


@contextmanager
def real_server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve MLflow from server.db at this port, in a process group of its own, until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "kept"]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as made:
        try:
            for _ in range(600):
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.2)
            yield made
        finally:
            with suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)


def served(query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect("server.db")) as database:
        return database.execute(query).fetchall()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tracking_server_killed_in_the_middle_gets_the_rest_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real `mlflow server`, kill -9, and back: every trial is there once, and the answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    tracking = {"name": "mlflow", "uri": f"http://127.0.0.1:{port}"}
    calls = 0
    with real_server(port) as server:

        def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
            nonlocal calls
            calls += 1
            if calls == 4:
                for _ in range(600):
                    if len(served("select * from runs")) > 2:
                        break
                    time.sleep(0.1)
                os.killpg(server.pid, signal.SIGKILL)
            return REAL(self, run, session)

        disturbed(monkeypatch, call)
        record = a_study(tracking=tracking)
    assert record.status == "complete"
    assert "tracking stopped, the study continues" in study_log()
    before = len(served("select * from runs"))
    keys = {o.key for stage in record.stages for o in stage.outcomes}
    assert 2 < before < len(keys) + 1
    with real_server(port):
        again = a_study(tracking=tracking)
    assert decisions(again) == decisions(record)
    assert calls == len(keys)
    told = served("select value from tags where key = 'key'")
    assert sorted(key for (key,) in told) == sorted(keys)
    parents = "select r.status from runs r join tags t on t.run_uuid = r.run_uuid"
    assert served(f"{parents} where t.key = 'kind' and t.value = 'study'") == [("FINISHED",)]
    assert served("select * from runs where status = 'RUNNING'") == []


# --- a DataLoader's worker


@pytest.mark.slow
def test_a_killed_worker_of_a_data_loader_fails_its_run_only(tmp_path: Path) -> None:
    """torch raises RuntimeError in the run; the trial is FAILED, the study goes on."""
    own_objective(tmp_path, LOADER)
    done = command(tmp_path, "objective=mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DataLoader worker" in done.stdout
    assert "killed by signal" in done.stdout
    log = (tmp_path / "runs/s/study.log").read_text()
    assert log.count("failed\nTraceback") == 1


def own_objective(folder: Path, source: str) -> None:
    """Write the class Mine, an objective of the user's, with its config."""
    (folder / "mine.py").write_text(textwrap.dedent(source))
    (folder / "conf/objective").mkdir(parents=True)
    (folder / "conf/objective/mine.yaml").write_text("_target_: mine.Mine\n")


LOADER = """
    import os, signal, time, torch
    from torch.utils.data import DataLoader, Dataset
    from orchestrator.objectives.quadratic import QuadraticObjective

    class Deadly(Dataset):
        def __len__(self): return 64
        def __getitem__(self, i):
            if i == 32: os.kill(os.getpid(), signal.SIGKILL)
            return torch.zeros(2)

    class Mine(QuadraticObjective):
        calls = 0
        def __init__(self): super().__init__(final_epochs=4)
        def __call__(self, run, session):
            Mine.calls += 1
            if Mine.calls == 3:
                for _ in DataLoader(Deadly(), batch_size=8, num_workers=1): pass
            return super().__call__(run, session)
"""


# --- memory that there really is not


@pytest.mark.slow
def test_a_processor_without_memory_for_a_batch_size_leaves_out_all_larger_ones(
    tmp_path: Path,
) -> None:
    """torch's allocator meets the system's limit (RLIMIT_AS) at 32: 8 or 16 is the answer."""
    own_objective(tmp_path, GREEDY)
    done = command(
        tmp_path, "objective=mine", "plan=[batch_size,final]", "recipe.batch_size=8",
        "stages.batch_size.candidates=[16,32,64]",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 and larger ran out of memory" in " ".join(done.stdout.split())
    assert "can't allocate memory" in (tmp_path / "runs/s/study.log").read_text()
    recipe = json.loads((tmp_path / "runs/s/summary.json").read_text())["recipe"]
    assert recipe["batch_size"] in (8, 16)


GREEDY = """
    import resource, torch
    from orchestrator.objectives.quadratic import QuadraticObjective

    class Mine(QuadraticObjective):
        def __init__(self): super().__init__(final_epochs=4)
        def __call__(self, run, session):
            if run.kind not in ("train", "ramp"):
                return super().__call__(run, session)
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
            try:
                torch.empty(run.batch_size * 40 * 2**20, dtype=torch.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            return super().__call__(run, session)
"""


# --- what the tests above rest on


def test_full_disks_are_told_by_their_error_number() -> None:
    """ENOSPC says to free disk space; anything else to fix it."""
    from orchestrator.errors import storing

    with pytest.raises(StorageError, match="free some disk space"), storing("x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match="fix this"), storing("x"):
        raise OSError(errno.EIO, "Input/output error")


def test_outcomes_without_memory_are_told_by_state_and_reason() -> None:
    """A finished run whose reason happens to begin so is none."""
    from curves import outcome

    run = Run("train", None, 0.0, 8, 100, 0)  # type: ignore[arg-type]
    failed: Outcome = replace(outcome(run, 0.5), state="failed", reason="out of memory: x")
    assert failed.out_of_memory
    assert not replace(failed, state="finished").out_of_memory
