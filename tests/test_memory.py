"""What fits, on a pretended GPU: its allocator counts tensors that lie on the processor."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trainings import a_run

from orchestrator.training import memory

MIB = 2**20


class FakeCuda:
    """An allocator that keeps what was freed in its cache, as torch's does."""

    def __init__(self, total: int, error: Exception) -> None:
        self.total, self.error = total, error
        self.allocated = self.reserved = self.peak = 0

    def tensor(self, size: int) -> Tensor:
        """Allocate: out of the cache, then anew. Raises the error where both are too little."""
        if self.allocated + size > self.total:
            raise type(self.error)(*self.error.args)  # a new one, that nobody else holds
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak = max(self.peak, self.allocated)
        made = torch.empty(1)
        weakref.finalize(made, self._free, size)
        return made

    def _free(self, size: int) -> None:
        self.allocated -= size

    def empty_cache(self) -> None:
        """Give back what is not in use."""
        self.reserved = self.allocated

    def reset_peak(self, device: object) -> None:
        """Begin to look for a peak."""
        self.peak = self.allocated


class FakeTrainer:
    """10 MiB of weights, as many of gradients, and before them activations, 1 MiB an example."""

    cuda: FakeCuda

    def __init__(self, setup: Any, run: Any) -> None:
        self.size = run.batch_size
        self.weights = self.cuda.tensor(10 * MIB)

    def advance(self, count: int) -> None:
        """Hold activations layer by layer, then gradients."""
        self._layers(4)
        self.gradients = self.cuda.tensor(10 * MIB)

    def _layers(self, left: int) -> Tensor | None:
        kept = self.cuda.tensor(self.size * MIB // 4)
        return self._layers(left - 1) if left > 1 else kept


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a setup on a pretended GPU of 1,000 MiB; 100 of them are in use."""

    def make(error: Exception) -> tuple[FakeCuda, Any]:
        fake = FakeCuda(1000 * MIB, error)
        monkeypatch.setattr(gc, "collect", int)  # slow, and no cycles here
        monkeypatch.setattr(FakeTrainer, "cuda", fake, raising=False)
        monkeypatch.setattr(memory, "Trainer", FakeTrainer)
        functions = {
            "mem_get_info": lambda device: (fake.total - fake.reserved, fake.total),
            "memory_allocated": lambda device: fake.allocated,
            "memory_reserved": lambda device: fake.reserved,
            "max_memory_allocated": lambda device: fake.peak,
            "reset_peak_memory_stats": fake.reset_peak,
            "empty_cache": fake.empty_cache,
        }
        for name, function in functions.items():
            monkeypatch.setattr(torch.cuda, name, function)
        data = SimpleNamespace(train=range(2000))
        return fake, SimpleNamespace(device=torch.device("cuda"), data=data)

    return make


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "runtime", "cublas", "cudnn"],
)
def test_a_size_that_runs_out_of_memory_does_not_fit_and_leaves_nothing_behind(
    error: Exception, pretended: Any
) -> None:
    """However it is said; what fails late holds most of the memory while its error is alive."""
    fake, setup = pretended(error)
    used = fake.tensor(100 * MIB)
    run = a_run(kind="probe", batch_sizes=(100, 840, 1500, 200))
    found = memory.probe(setup, run).measured
    assert found["fits"] == {"100": True, "200": True, "840": False, "1500": False}
    assert found["bytes"]["200"] == 210 * MIB  # above what there was, measured in a clean place
    assert found["bytes"]["840"] == 850 * MIB  # without the head-room that it needs
    assert found["bytes"]["1500"] == 900 * MIB + 1
    assert found["estimated"] is False
    assert fake.reserved == fake.allocated == 100 * MIB
    del used


def test_what_is_no_lack_of_memory_is_no_answer(pretended: Any) -> None:
    """An error of another kind is the run's."""
    _, setup = pretended(RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        memory.probe(setup, a_run(kind="probe", batch_sizes=(1500,)))


def test_more_than_there_are_examples_never_fits(pretended: Any) -> None:
    """It is not tried."""
    _, setup = pretended(AssertionError("tried"))
    found = memory.probe(setup, a_run(kind="probe", batch_sizes=(2001,))).measured
    assert found["fits"] == {"2001": False}
