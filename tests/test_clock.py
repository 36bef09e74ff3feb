"""What the training clock counts, on a clock that moves only where a test says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import a_run, objective, train

from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import TrainingConfig
from orchestrator.curve import Point
from orchestrator.testing import FakeSession
from orchestrator.training import batches, checkpoint, trainer
from orchestrator.training.trainer import Trainer


class Clock:
    """Seconds that pass while named functions are called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds, self._patch = 0.0, patch
        patch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: self.seconds))

    def passes(self, where: Any, name: str, seconds: Any) -> None:
        """Let every call of `where.name` take so long; a function is asked with its arguments."""
        real = getattr(where, name)

        def taking(*args: Any, **options: Any) -> Any:
            self.seconds += seconds(*args) if callable(seconds) else seconds
            return real(*args, **options)

        self._patch.setattr(where, name, taking)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that stands still."""
    return Clock(monkeypatch)


def test_only_training_steps_are_inside_the_clock(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not evaluation, checkpoints, reports or the steps that warm up; evaluation is told apart."""
    monkeypatch.setattr(checkpoint.Keeper, "is_due", lambda self: True)
    clock.passes(torch.optim.SGD, "step", 1)
    clock.passes(trainer, "evaluate", 1e2)
    clock.passes(FakeSession, "save", 1e4)
    clock.passes(FakeSession, "report", 1e6)
    clock.passes(trainer.Setup, "warm_up", 1e8)
    session, result = train(objective(), a_run(opens_test=True))
    assert session.checkpoint is not None
    assert [p.seconds for p in session.points] == [10, 20, 30, 40]
    assert [p.evaluation_seconds for p in session.points] == [1e2, 2e2, 3e2, 4e2]
    assert (result.seconds, result.evaluation_seconds) == (40, 5e2)


def test_a_batch_size_is_warmed_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps before its first run, none before the next ones."""
    made, steps = objective(), []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(step(self)))
    counts = []
    for size in (24, 24, 32, 24):
        train(made, a_run(batch_size=size, steps=10, points=1))
        counts.append(len(steps))
        steps.clear()
    assert counts == [12, 10, 12, 10]


@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        (OptimizerConfig(), TrainingConfig()),
        (
            OptimizerConfig(label_smoothing=0.1, ema=0.9, max_grad_norm=1.0),
            TrainingConfig(micro_batch_size=16),
        ),
    ],
    ids=["plain", "with everything"],
)
def test_a_step_never_waits_for_the_device(optimizer: OptimizerConfig, how: TrainingConfig) -> None:
    """No number is read out of a tensor within steps; losses are read at report points."""
    asked: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = operator.overloadpacket.__name__
            if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
                asked.append(name)
            return operator(*args, **(kwargs or {}))

    hard = OwnConfig(_target_="tests.trainings.Hard")
    setup = objective(model=hard, optimizer=optimizer, objective=how)._setup
    trainer = Trainer(setup, a_run())
    with Watch():
        trainer.advance(12)  # over the end of an epoch
        assert asked == []
        assert isinstance(trainer.to(20), Point)
    assert asked


def test_a_calibration_counts_gathering_at_its_share(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 6, 3 and 1 steps at once, which fall into half of the rounds of 3 steps, or into all."""
    monkeypatch.setattr(batches, "CHUNK_BYTES", {"cpu": 4 * 64 * 96})
    clock.passes(torch.optim.SGD, "step", 0.05)
    clock.passes(batches.Inputs, "gather", lambda self, part, index, generator: 0.01 * len(index))
    run = a_run(kind="calibrate", batch_sizes=(16, 32, 96))
    _, result = train(objective(), run)
    seconds = {"16": 0.05 + 0.16, "32": 0.05 + 0.32, "96": 0.05 + 0.96}
    assert result.measured["seconds_per_step"] == pytest.approx(seconds)
    assert result.measured["spread"] == pytest.approx(dict.fromkeys(seconds, 0), abs=1e-9)
