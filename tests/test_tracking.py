"""Tracking: what reaches MLflow, and that nothing about it can stop or slow a study."""

from __future__ import annotations

import inspect
import json
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvidia import pretend

from orchestrator.curve import Curve, Outcome, Point, Result, State
from orchestrator.recipe import Decision, Run
from orchestrator.report.ending import _tracked
from orchestrator.schedules import Schedule
from orchestrator.storage.paths import StudyPaths
from orchestrator.tracking import Tracker, timestamps
from orchestrator.tracking import mlflow as tracking
from orchestrator.tracking.client import Client
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.mlflow import MlflowTracker
from orchestrator.tracking.outbox import Event, Outbox, Unavailable

CONFIG = {"study_name": "demo", "recipe": {"weight_decay": 5e-4}, "plan": ["lr_range"]}


def a_run(label: str = "momentum 0.95, seed 0") -> Run:
    return Run(
        kind="train",
        schedule=Schedule("paper", 0.01, 0.1, 0.85, 0.95),
        weight_decay=5e-4,
        batch_size=64,
        steps=20,
        replicate=0,
        label=label,
    )


def points(*losses: float) -> list[Point]:
    return [
        Point(i + 1, (i + 1) / len(losses), 0.1, 0.9, loss, loss, 0.5, i + 1.0)
        for i, loss in enumerate(losses)
    ]


def an_outcome(key: str, state: State, *losses: float, reason: str = "") -> Outcome:
    return Outcome(a_run(), key, state, Curve.of(points(*losses)), Result(2.0, 100), reason)


def train(
    tracker: Tracker, key: str, *losses: float, state: State = "finished", reason: str = ""
) -> None:
    tracker.run_started("momentum", a_run(), key)
    for point in points(*losses):
        tracker.point(a_run(), key, point)
    tracker.run_ended("momentum", an_outcome(key, state, *losses, reason=reason), "horizontal")


class Recorder:
    """A delivery that remembers, and fails or hangs on demand."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def deliver(self, event: Event) -> None:  # noqa: D102
        self.gate.wait()
        if self.error:
            raise self.error
        self.seen.append(event["n"])

    def flush(self) -> None: ...  # noqa: D102

    def tick(self) -> None: ...  # noqa: D102


def returns(call: Callable[[], None]) -> bool:
    """Whether a call comes back within a minute; made in a thread, so that no test hangs in it."""
    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(60)
    return not caller.is_alive()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="orchestrator.tracking")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "orchestrator.tracking"]


def test_events_arrive_in_order(tmp_path: Path) -> None:
    """What was put is delivered once, in order, before close returns; no spool is left."""
    to = Recorder()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01)
    for n in range(100):
        outbox.put({"n": n})
    outbox.close(5)
    assert to.seen == list(range(100))
    assert not (tmp_path / "spool.jsonl").exists()


def test_nothing_is_sent_while_paused(tmp_path: Path) -> None:
    """Between `pause` and `resume` the thread sends nothing, afterwards all of it."""
    to = Recorder()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01)
    outbox.pause()
    for n in range(5):
        outbox.put({"n": n})
    time.sleep(0.1)
    assert to.seen == []
    outbox.resume()
    outbox.close(5)
    assert to.seen == list(range(5))


def test_a_pause_waits_until_the_thread_rests(tmp_path: Path) -> None:
    """`pause` returns only after the delivery under way has ended, or after its bound."""
    to = Recorder()
    to.gate.clear()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01, rest_seconds=60)
    outbox.put({"n": 0})
    time.sleep(0.05)
    threading.Timer(0.1, to.gate.set).start()
    outbox.pause()
    assert to.seen == [0]
    outbox.close(5)


def test_a_pause_does_not_wait_for_a_delivery_that_hangs(tmp_path: Path) -> None:
    """It returns after its bound, while the delivery is still under way."""
    to = Recorder()
    to.gate.clear()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01, rest_seconds=0.1)
    outbox.put({"n": 0})
    time.sleep(0.05)
    assert returns(lambda: outbox.pause())
    assert to.seen == []
    to.gate.set()
    outbox.close(5)
    assert to.seen == [0]


def test_a_failing_server_costs_one_warning_and_no_event(
    tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    """After the first failure nothing is called; what is unsent is sent first the next time."""
    spool = tmp_path / "spool.jsonl"
    to = Recorder()
    to.error = ConnectionError("refused")
    outbox = Outbox(lambda: to, spool, period=0.01)
    outbox.put({"n": 0})
    while not warnings():
        time.sleep(0.01)
    to.error = None
    outbox.put({"n": 1})
    outbox.close(5)
    assert to.seen == []
    assert [json.loads(line)["n"] for line in spool.read_text().splitlines()] == [0, 1]
    assert len(warnings()) == 1
    assert "refused" in warnings()[0]

    again = Recorder()
    outbox = Outbox(lambda: again, spool, period=0.01)
    outbox.put({"n": 2})
    outbox.close(5)
    assert again.seen == [0, 1, 2]
    assert not spool.exists()


def test_the_spool_opens_with_the_sessions_first_event(tmp_path: Path) -> None:
    """A spool written in mid-session repeats the opening event, so that it can be understood."""
    to = Recorder()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01)
    outbox.put({"n": 0})
    while not to.seen:
        time.sleep(0.01)
    to.error = ConnectionError("gone")
    outbox.put({"n": 1})
    outbox.close(5)
    lines = (tmp_path / "spool.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1]


def test_a_hanging_server_holds_close_no_longer_than_its_timeout(
    tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    """close gives up after its timeout and keeps what was not confirmed."""
    to = Recorder()
    to.gate.clear()
    outbox = Outbox(lambda: to, tmp_path / "spool.jsonl", period=0.01)
    outbox.put({"n": 0})
    outbox.close(0.1)
    assert json.loads((tmp_path / "spool.jsonl").read_text())["n"] == 0
    assert "no answer within 0.1 s" in warnings()[0]
    to.gate.set()


def test_without_mlflow_nothing_is_kept(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    """Where tracking is not installed, one warning is all there is."""

    def absent() -> Recorder:
        raise Unavailable("mlflow cannot be imported")

    outbox = Outbox(absent, tmp_path / "spool.jsonl", period=0.01)
    outbox.put({"n": 0})
    outbox.close(5)
    outbox.put({"n": 1})
    assert not (tmp_path / "spool.jsonl").exists()
    assert len(warnings()) == 1


@pytest.mark.parametrize("torn", [b'{"n"', b"\xff\xfe\x00"])
def test_a_torn_spool_line_is_skipped(tmp_path: Path, torn: bytes) -> None:
    """A line cut short by a full disk, or of bytes that are no text, costs that line only."""
    spool = tmp_path / "spool.jsonl"
    spool.write_bytes(b'{"n": 0}\n{"n": 1}\n' + torn)
    to = Recorder()
    outbox = Outbox(lambda: to, spool, period=0.01)
    outbox.put({"n": 2})
    outbox.close(5)
    assert to.seen == [0, 1, 2]


def test_what_is_kept_behind_a_torn_line_is_read(tmp_path: Path) -> None:
    """A new line is begun: the torn one takes nothing along."""
    spool = tmp_path / "spool.jsonl"
    spool.write_text('{"n": 0}\n{"n"')
    to = Recorder()
    to.error = ConnectionError("gone")
    outbox = Outbox(lambda: to, spool, period=0.01)
    outbox.put({"n": 1})
    outbox.close(5)
    again = Recorder()
    outbox = Outbox(lambda: again, spool, period=0.01)
    outbox.put({"n": 2})
    outbox.close(5)
    assert again.seen == [0, 1, 2]


@pytest.mark.parametrize("where", ["connecting", "sending the spool"])
def test_a_server_that_answers_too_late_takes_nothing_from_the_spool(
    tmp_path: Path, where: str
) -> None:
    """close gave up meanwhile: what it kept is still there for the next session, in order."""
    spool, late = tmp_path / "spool.jsonl", Recorder()
    spool.write_text('{"n": 0}\n')
    gate = threading.Event()

    def connect() -> Recorder:
        if where == "connecting":
            gate.wait(5)
        return late

    if where != "connecting":
        late.gate.clear()
    outbox = Outbox(connect, spool, period=0.01)
    outbox.put({"n": 1})
    outbox.close(0.3)
    thread = outbox._thread
    assert thread is not None
    gate.set()
    late.gate.set()
    thread.join(5)
    assert not thread.is_alive()
    again = Recorder()
    outbox = Outbox(lambda: again, spool, period=0.01)
    outbox.put({"n": 2})
    outbox.close(5)
    assert again.seen == [0, 1, 2]


def test_the_machine_reports_processor_and_memory() -> None:
    """A sample has finite numbers under MLflow's own names."""
    found = Machine().sample()
    assert "system/load_average" in found
    assert all(math.isfinite(v) for v in found.values())
    if Path("/proc/meminfo").exists():
        assert 0 < found["system/system_memory_usage_percentage"] < 100


@pytest.mark.parametrize(("visible", "seen"), [(None, {0, 1}), ("1", {1}), ("", set())])
def test_gpus_are_reported_under_mlflows_names(
    visible: str | None, seen: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use and memory of those that this process may see, by their number in the machine."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pretend(monkeypatch, uses=[25, 75])
    found = {k: v for k, v in Machine().sample().items() if "gpu" in k}
    assert found == {
        f"system/gpu_{index}_{name}": value
        for index in seen
        for name, value in (
            ("utilization_percentage", [25, 75][index]),
            ("memory_usage_megabytes", 20_000),
            ("memory_usage_percentage", 25),
        )
    }
    pretend(monkeypatch, uses=[25, 75], broken=True)
    assert not [name for name in Machine().sample() if "gpu" in name]


class Paused:
    """An outbox that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self) -> None:
        """Note it."""
        self.asked.append("pause")

    def resume(self) -> None:
        """Note it."""
        self.asked.append("resume")

    def put(self, event: dict[str, Any]) -> None:
        """Note what the event says."""
        self.asked.append(event["do"])


def test_nothing_is_sent_while_a_timed_run_is_on_the_clock(tmp_path: Path) -> None:
    """The outbox is paused before such a run's first event, and goes on before its last.

    A timed run that was cut off has no end: the next run lets the outbox go on.
    """
    tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs")
    outbox = Paused()
    tracker._outbox = outbox  # type: ignore[assignment]
    timed = replace(a_run(), timed=True)
    tracker.run_started("batch_size", timed, "a")
    tracker.run_ended("batch_size", an_outcome("a", "finished"), "")
    assert outbox.asked == ["pause", "run_started", "resume", "run_ended"]
    outbox.asked.clear()
    tracker.run_started("batch_size", timed, "b")
    tracker.run_started("final", a_run(), "c")
    assert outbox.asked == ["pause", "run_started", "resume", "run_started"]


def test_the_plain_tracker_takes_every_call_and_does_nothing(here: Path) -> None:
    """It has the calls of MLflow's, with the same arguments; no file, no thread, no MLflow."""
    calls = [name for name in vars(MlflowTracker) if not name.startswith("_")]
    for name in calls:
        taken, wanted = (inspect.signature(getattr(t, name)) for t in (Tracker, MlflowTracker))
        assert taken == wanted, name
    before = threading.active_count()
    tracker = Tracker()
    tracker.start(CONFIG, {})
    train(tracker, "a", 1.0)
    tracker.known("momentum", an_outcome("b", "finished", 1.0), "horizontal")
    tracker.decided(Decision("momentum", "momentum", "why"))
    tracker.finish("complete", {}, [])
    assert list(here.iterdir()) == []
    assert threading.active_count() <= before


def test_no_call_waits_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does finish when its time is over: here the server answers only after all of them."""
    answers = threading.Event()
    monkeypatch.setattr(Client, "open", lambda *_: answers.wait())
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.1)
    tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs", uri="http://127.0.0.1:9")

    def study() -> None:
        tracker.start(CONFIG, {"study": "demo"})
        train(tracker, "a", *[1.0] * 100)
        tracker.decided(Decision("momentum", "momentum", "why"))
        tracker.finish("complete", {}, [])

    assert returns(study)
    answers.set()
    assert tracker._outbox._thread is not None
    tracker._outbox._thread.join(60)
    spool = (tmp_path / "runs/demo/tracking.spool.jsonl").read_text().splitlines()
    assert len(spool) == 105


def test_times_never_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock set back by a day stands still once, then goes on from where it was."""
    back = 86400
    times = iter([1000.0, 1001.0, 1001.0 - back, 1003.0 - back, 1004.0 - back])
    monkeypatch.setattr(timestamps, "time", SimpleNamespace(time=lambda: next(times)))
    now = timestamps.SteadyClock()
    assert [now() for _ in range(5)] == [1_000_000, 1_001_000, 1_001_000, 1_003_000, 1_004_000]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for MLflow's import, which takes a slow machine long."""
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 120.0)
    monkeypatch.setattr(tracking, "LEAVING_SECONDS", 120.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("patient")
def test_what_a_killed_command_did_not_send_is_sent_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is known but missing, or cut short, is told again; one that is whole is not."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed = MlflowTracker("demo", tmp_path, tmp_path / "runs")
    killed.start(CONFIG, {"study": "demo"})
    train(killed, "whole", 2.0, 1.0)
    killed.run_started("momentum", a_run("cut"), "cut")
    killed.point(a_run("cut"), "cut", points(2.0)[0])
    killed._outbox.close(60)  # killed here: the end of "cut" and all of "missing" were queued

    tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs")
    tracker.start(CONFIG, {"study": "demo"})
    for key in ("whole", "cut", "missing"):
        tracker.known("momentum", an_outcome(key, "finished", 2.0, 1.0), "horizontal")
    tracker.finish("complete", {}, [])

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    children = {r.data.tags["key"]: r for r in found if "key" in r.data.tags}
    assert len(found) == 4
    assert {k: r.info.status for k, r in children.items()} == dict.fromkeys(
        ("whole", "cut", "missing"), "FINISHED"
    )
    for run in children.values():
        curve = client.get_metric_history(run.info.run_id, "held_out_loss")
        assert {(m.step, m.value) for m in curve} == {(1, 2.0), (2, 1.0)}


def test_known_trials_are_not_kept_for_a_server_that_is_away(tmp_path: Path) -> None:
    """Every later command knows them: kept, they would be in the spool once for each command."""
    tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs", uri="http://127.0.0.1:9")
    tracker.start(CONFIG, {"study": "demo"})
    tracker.known("momentum", an_outcome("a", "finished", 2.0), "horizontal")
    tracker.finish("complete", {}, [])
    spool = (tmp_path / "runs" / "demo" / "tracking.spool.jsonl").read_text().splitlines()
    assert [json.loads(line)["do"] for line in spool] == ["start", "finish"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("patient")
def test_a_study_in_a_real_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    """Parent, children, curves, tags, files are in mlflow.db; a killed study goes on in place."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / "runs"
    figure = runs / "demo" / "figures" / "a.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"png")

    killed = MlflowTracker("demo", tmp_path, runs, metric="accuracy")
    data = {"name": "digits", "context": "training", "digest": "abc", "source": "x", "examples": 9}
    killed.start(CONFIG, {"study": "demo", "device": "cpu"}, [data])
    train(killed, "a", 2.0, 1.0)
    train(killed, "b", 2.0, math.inf, state="pruned", reason="loss is not finite")
    killed.run_started("momentum", a_run("cut short"), "c")
    killed.run_started("momentum", a_run("lost"), "d")
    killed._outbox.close(60)  # as if the process had died here

    tracker = MlflowTracker("demo", tmp_path, runs, metric="accuracy")
    tracker.start(CONFIG, {"study": "demo", "device": "cpu"})
    train(tracker, "c", 2.0, 0.5)
    tracker.decided(Decision("momentum", "momentum", "0.95 is best."))
    summary = {
        "recipe": {"max_lr": 0.1, "schedule": "paper"},
        "final": {
            "test_metric": {"mean": 0.97, "std": 0.01, "n": 3},
            "baselines": [{"name": "untuned", "test_metric": {"mean": 0.9}}],
        },
    }
    tracker.finish("complete", summary, [figure])
    changed = MlflowTracker("demo", tmp_path, runs)
    changed.start({**CONFIG, "plan": []}, {"study": "demo", "config": "another"})
    changed.finish("interrupted", {}, [])
    assert warnings() == []

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("demo")
    everything = client.search_runs([experiment.experiment_id])
    other, parent = [r for r in everything if r.data.tags["kind"] == "study"]
    children = {r.data.tags["key"]: r for r in everything if "key" in r.data.tags}
    assert (other.info.status, parent.info.status) == ("KILLED", "FINISHED")
    assert {k: r.info.status for k, r in children.items()} == {
        "a": "FINISHED",
        "b": "KILLED",
        "c": "FINISHED",
        "d": "KILLED",
    }
    assert {r.data.tags["mlflow.parentRunId"] for r in children.values()} == {parent.info.run_id}
    a, b = children["a"].data, children["b"].data
    assert children["a"].info.run_name == "momentum 0.95, seed 0"
    assert a.params["max_momentum"] == "0.95"
    assert a.tags["clue"] == "horizontal"
    assert "diverged" not in a.tags
    assert b.tags["prune_reason"] == "loss is not finite"
    assert b.tags["diverged"] == "true"
    curve = client.get_metric_history(children["b"].info.run_id, "held_out_loss")
    assert [(m.step, m.value) for m in curve] == [(1, 2.0)]
    curve = client.get_metric_history(children["a"].info.run_id, "by_progress/held_out_loss")
    assert [(m.step, m.value) for m in curve] == [(500, 2.0), (1000, 1.0)]
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "abc")
    assert [(t.key, t.value) for t in data.tags] == [("mlflow.data.context", "training")]
    assert a.metrics["accuracy"] == 0.5
    assert parent.data.params["recipe.weight_decay"] == "0.0005"
    assert parent.data.metrics["test_accuracy"] == 0.97
    assert parent.data.metrics["untuned/test_accuracy"] == 0.9
    assert parent.data.metrics["answer/max_lr"] == 0.1
    assert "system/load_average" in parent.data.metrics
    assert "0.95 is best." in parent.data.tags["mlflow.note.content"]
    kept = client.list_artifacts(parent.info.run_id, "figures")
    assert [f.path for f in kept] == ["figures/a.png"]
    assert (runs / ".mlartifacts").is_dir()
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_a_dead_server_does_not_hold_a_study(
    tmp_path: Path,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    hangs: bool,
) -> None:
    """One warning; the events wait in the spool, in order."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 1.0 if hangs else 120.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:
            server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        tracker = MlflowTracker("demo", tmp_path, tmp_path / "runs", uri=address)
        tracker.start(CONFIG, {"study": "demo"})
        train(tracker, "a", *[1.0] * 100)
        tracker.finish("complete", {}, [])
        assert len(warnings()) == 1
        lines = (tmp_path / "runs/demo/tracking.spool.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["do"] == "start"
    assert json.loads(lines[-1])["do"] == "finish"
    assert len(lines) == 104


def test_an_old_file_store_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    """./mlruns with content flips a bare `mlflow ui`, so the user is told."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    MlflowTracker("demo", tmp_path, tmp_path / "runs")
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in warnings()[0]


@pytest.mark.slow
def test_mlflow_is_silent(tmp_path: Path) -> None:
    """Making a database prints nothing, whatever MLflow and Alembic would like to say."""
    code = (
        "from pathlib import Path; from orchestrator.tracking.mlflow import MlflowTracker;"
        f"t = MlflowTracker('demo', Path('{tmp_path}'), Path('{tmp_path}/runs'));"
        "t.start({}, {}); t.finish('complete', {}, [])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout + done.stderr == ""


def test_a_folder_that_mlflow_refuses_is_named_with_the_cure(tmp_path: Path) -> None:
    """Its own sentence is long, and cut before what to do."""
    line = r"the tracking address \./mlruns is a folder, .* tracking\.uri=sqlite:///mlflow\.db, or"
    with pytest.raises(ValueError, match=line):
        Client.open("study", "./mlruns", tmp_path / "artifacts")


def test_a_long_reason_ends_at_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And says that it goes on."""

    def connect() -> Any:
        raise OSError("wordy " * 100)

    outbox = Outbox(connect, tmp_path / "spool.jsonl", period=0.01)
    outbox.put({"do": "start"})
    outbox.close(5)
    assert "wordy ...; unsent events are in" in caplog.text


def test_the_ending_names_no_curves_that_were_not_sent(here: Path) -> None:
    """Only where the tracking server has them, now or later."""
    (here / "config.yaml").write_text("tracking: {name: mlflow, uri: 'http://there'}")
    assert _tracked(StudyPaths(here)) == "in MLflow at http://there"
    StudyPaths(here).spool.touch()
    assert _tracked(StudyPaths(here)) == ""
