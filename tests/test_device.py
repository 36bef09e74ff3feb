"""What must hold on every device: each test runs on the CPU, and on a GPU under the mark `gpu`."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainings import a_run, objective, train

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import DataConfig, ModelConfig, TrainingConfig
from orchestrator.testing import FakeSession
from orchestrator.training import memory
from orchestrator.training.objective import TrainingObjective

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DATA = DataConfig(train_examples=300, held_out_examples=100, test_examples=50, augment=True)
NET = ModelConfig(name="resnet9", width=0.0625, dropout=0.1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])])
def made(request: pytest.FixtureRequest) -> Any:
    """Return what makes an objective of a network with batch norm and dropout on this device."""

    def make(**options: Any) -> TrainingObjective:
        return objective(DATA, NET, device=request.param, **options)

    return make


def end(session: FakeSession) -> tuple[list[float], str]:
    assert session.model is not None
    losses = [point.held_out_loss for point in session.points]
    return losses, hashlib.sha256(session.model).hexdigest()


def test_one_seed_gives_the_same_bits_twice(made: Any) -> None:
    """Two objectives made anew, the same curve and the same weights: kernels are deterministic."""
    first, second = (end(train(made(), a_run(opens_test=True))[0]) for _ in range(2))
    assert first == second


def test_streamed_data_give_the_bits_of_resident_data(made: Any) -> None:
    """Crops, held-out and sealed examples included; a GPU gets them out of pinned memory."""
    resident, streamed = (
        end(train(made(objective=TrainingConfig(resident=choice)), a_run(opens_test=True))[0])
        for choice in (True, False)
    )
    assert streamed == resident


def test_a_run_goes_on_where_it_was_cut_as_if_undisturbed(made: Any) -> None:
    """Weights, momentum buffers, batch-norm statistics and the device's random state come back."""
    run = a_run(opens_test=True)
    whole = end(train(made(), run)[0])
    cut = FakeSession(run, stop_at=2, stop=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        made()(run, cut)
    assert cut.checkpoint is not None
    resumed = FakeSession(run, cut.checkpoint)
    made()(run, resumed)
    assert resumed.points[:1] == cut.points[:1]  # their seconds, too: not trained again
    assert end(resumed) == whole


def test_the_random_state_of_the_device_is_left_alone(made: Any) -> None:
    """Whatever the user drew before and draws after a run is not moved by it."""
    ours = made()
    device = ours._setup.device
    state = torch.cuda.get_rng_state if device.type == "cuda" else torch.get_rng_state
    before = state()
    train(ours, a_run(steps=4))
    assert torch.equal(state(), before)


class Greedy(nn.Module):
    """Keeps 1 MiB of activations twice for each of the digits, in next to no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        many = (x.flatten(1).repeat(1, 4096) * self.scale).relu()
        scores: Tensor = self.head(many.unflatten(1, (4096, 64)).mean(1))
        return scores


@contextmanager
def little_memory(device: torch.device, rest: int) -> Iterator[None]:
    """Leave this device `rest` bytes for a while: a GPU really, by one tensor in all the others."""
    if device.type == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "_available", lambda device: rest)
            yield
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    taken = torch.empty(free - rest, dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit_is_told_and_leaves_the_device_usable(made: Any) -> None:
    """With 1 GiB left, of which 1,024 digits need over 2: on a GPU by a real out-of-memory."""
    data = DataConfig(train_examples=1100, held_out_examples=20, test_examples=20)
    greedy = OwnConfig(_target_="tests.test_device.Greedy")
    tried = objective(data, greedy, device=made()._setup.device.type)
    small = a_run(batch_size=4, steps=2, points=1)
    train(tried, small)  # a GPU's libraries take their own memory before it becomes little
    with little_memory(tried._setup.device, 2**30):
        probe = a_run(kind="probe", batch_size=1024, batch_sizes=(4, 1024))
        found = tried(probe, FakeSession(probe)).measured
        assert found["fits"] == {"4": True, "1024": False}
        assert found["bytes"]["1024"] > 2**29 > 2**28 > found["bytes"]["4"] > 0
        train(tried, small)


def test_half_precision_trains_to_about_the_same_loss(made: Any) -> None:
    """bfloat16 has three digits; 40 steps on the digits end within a tenth of float32's loss."""
    losses = [
        train(made(precision=precision), a_run())[0].points[-1].held_out_loss
        for precision in ("float32", "bfloat16")
    ]
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


def test_faster_kernels_that_do_not_repeat_are_asked_for(made: Any) -> None:
    """`deterministic: false` is in the key, and trains as well."""
    free = made(objective=TrainingConfig(deterministic=False))
    assert free.context(a_run())["deterministic"] is False
    exact = train(made(), a_run())[0].points[-1].held_out_loss
    assert train(free, a_run())[0].points[-1].held_out_loss == pytest.approx(exact, rel=0.1)
