"""Data that stay on the host: the same bits as on the device, and no thread left behind."""

import logging
import threading
import traceback
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import DataConfig, OwnDataConfig, TrainingConfig
from orchestrator.objectives import StopRun
from orchestrator.testing import FakeSession
from orchestrator.training import batches, checkpoint, memory, stream
from orchestrator.training.data.load import load
from orchestrator.training.objective import TrainingObjective
from tests.trainings import DIGITS, a_run, objective, train

HARD = OwnConfig(_target_="tests.trainings.Hard")
CROPPED = DataConfig(**{**DIGITS.model_dump(), "augment": True})


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a chunk: several are on their way at once, and epochs end within one."""
    monkeypatch.setattr(batches, "CHUNK_BYTES", {"cpu": 2 * 4 * 32 * 100})


def reading() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("orchestrator-stream")]


def made(resident: Any, data: Any = CROPPED, model: Any = HARD) -> TrainingObjective:
    return objective(data, model, objective=TrainingConfig(resident=resident))


def bits(session: FakeSession) -> list[tuple[float, float, float]]:
    return [(p.train_loss, p.held_out_loss, p.metric) for p in session.points]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_streamed_runs_are_those_of_resident_data_bit_for_bit(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm, dropout, crops, a held-out subset: curve, weights and test result."""
    monkeypatch.setattr(stream, "WORKERS", workers)
    run = a_run(opens_test=True, held_out_examples=30)
    expected, tested = train(made(True), run)
    session, result = train(made(False), run)
    assert bits(session) == bits(expected)
    assert session.model == expected.model
    assert (result.test_loss, result.test_metric) == (tested.test_loss, tested.test_metric)


def a_table() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 12)), rng.integers(0, 3, 400)
    return x[:300], y[:300], x[300:], y[300:]


@pytest.mark.parametrize("data", [DIGITS, OwnDataConfig(_target_="tests.test_stream.a_table")])
def test_images_without_crops_and_features_are_streamed_too(data: Any) -> None:
    """The same losses again."""
    runs = [train(made(resident, data, None), a_run())[0] for resident in (True, False)]
    assert bits(runs[0]) == bits(runs[1])


@pytest.mark.parametrize("steps", [3, 16])
def test_a_streamed_run_resumes_within_a_chunk(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between two reports: not a bit is lost, also if it goes on resident."""
    step, made_steps = torch.optim.SGD.step, list[None]()
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: made_steps.append(step(self)))
    whole, _ = train(made(True), a_run())
    from_the_start = len(made_steps)
    asked = iter(range(1000))
    cut = FakeSession(a_run())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Keeper, "is_due", lambda self: next(asked) == steps)
        patch.setattr("orchestrator.system.signals.check", stop)
        with pytest.raises(KeyboardInterrupt):
            made(False)(a_run(), cut)
    assert cut.checkpoint is not None
    done = torch.load(BytesIO(cut.checkpoint), weights_only=True)["step"]
    assert done >= steps
    for resident in (False, True):
        made_steps.clear()
        again = FakeSession(a_run(), cut.checkpoint)
        made(resident)(a_run(), again)
        assert bits(again) == bits(whole)
        assert len(made_steps) == from_the_start - done


def stop() -> None:
    raise KeyboardInterrupt


def test_data_are_streamed_where_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Into half of free memory; one line in the log says so, run keys are the same."""
    data = load(CROPPED, Path("unused"))
    contexts = []
    for room, chosen in ((2.01, "on the device"), (1.99, "streamed")):
        monkeypatch.setattr(memory, "_available", lambda _: room * data.bytes_in_use)  # noqa: B023
        with caplog.at_level(logging.INFO):
            contexts.append(made("auto").context(a_run()))
        (line,) = [r.getMessage() for r in caplog.records if "The data are" in r.getMessage()]
        assert line.startswith(f"The data are {chosen}: 0.0")
        caplog.clear()
    assert contexts[0] == contexts[1] == made(False).context(a_run())


def test_what_lies_on_the_device_is_what_was_counted() -> None:
    """The border of cropped images too, about."""
    data = load(CROPPED, Path("unused"))
    inputs = batches.Inputs(data, torch.device("cpu"))
    parts = (inputs.train, inputs.held_out, inputs.on_device(data.open_test()))
    assert data.bytes_in_use == sum(t.nbytes for part in parts for t in part)


@pytest.mark.parametrize("kind", ["probe", "calibrate"])
def test_measurements_work_on_streamed_data(kind: str) -> None:
    """The estimate of memory holds what is read ahead; several loops share the threads."""
    run = a_run(kind=kind, batch_sizes=(16, 64))
    _, resident = train(made(True), run)
    _, streamed = train(made(False), run)
    assert resident.measured.keys() == streamed.measured.keys()
    if kind == "probe":
        ahead = (stream.AHEAD + 1) * 64 * 64  # of one byte
        assert streamed.measured["bytes"]["64"] == resident.measured["bytes"]["64"] + ahead


@pytest.mark.parametrize("end", [StopRun("pruned", pruned=True), KeyboardInterrupt(), OSError()])
def test_no_thread_is_left_however_a_run_ends(end: BaseException) -> None:
    """Pruned, interrupted, failed; and the next run is as if nothing had been."""
    objective = made(False)
    seen: list[str] = []
    session = FakeSession(a_run(), stop_at=2, stop=end)
    report = session.report
    session.report = lambda point: (seen.extend(reading()), report(point))[1]  # type: ignore[method-assign]
    with pytest.raises(type(end)):
        objective(a_run(), session)
    assert seen
    assert not reading()
    assert bits(train(objective, a_run())[0]) == bits(train(made(True), a_run())[0])


def test_what_fails_in_a_thread_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the traceback of the place where it happened; nothing hangs."""
    objective = made(False)

    def broken(self: Any, *_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(stream.Streamed, "_rows", broken)
    with pytest.raises(OSError, match="the disk is gone") as error:
        train(objective, a_run())
    assert "broken" in [frame.name for frame in traceback.extract_tb(error.tb)]
    assert not reading()


def test_only_a_few_pieces_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the training is."""
    inputs = stream.Streamed(load(CROPPED, Path("unused")), torch.device("cpu"))
    read: list[int] = []
    picked = inputs._picked
    monkeypatch.setattr(inputs, "_picked", lambda chunk: (read.append(1), picked(chunk))[1])
    feed = batches.batches(inputs, 32, seed=0)
    for _ in range(9):  # an epoch: four chunks of two steps, one of one
        next(feed)
    inputs.close()
    assert 5 <= len(read) <= 5 + stream.AHEAD
