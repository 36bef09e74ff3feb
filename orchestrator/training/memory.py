"""Memory: whether data fit on the device, and batches (measured on CUDA, estimated elsewhere)."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from orchestrator.curve import Result
from orchestrator.errors import out_of_memory
from orchestrator.recipe import Run
from orchestrator.system import host
from orchestrator.training.batches import Inputs
from orchestrator.training.data.parts import Data
from orchestrator.training.stream import Streamed
from orchestrator.training.trainer import Setup, Trainer

HEAD_ROOM = 1.1  # for evaluation, fragmentation and other programs
RESIDENT_SHARE = 0.5  # of free memory for the data; the rest is for the network
SAMPLE = 8  # examples in the batch from which memory is estimated

log = logging.getLogger(__name__)


def place(data: Data, device: torch.device, resident: bool | Literal["auto"]) -> Inputs:
    """Return the data on the device, or streamed; "auto": on it if they fit into half its memory.

    Logs which of the two it is.
    """
    need, have = data.bytes_in_use, _available(device)
    if resident == "auto":
        resident = need <= RESIDENT_SHARE * have
    log.info(
        "The data are %s: %.3g MiB, %.3g MiB of memory free on %s.",
        "on the device" if resident else "streamed",
        need / 2**20,
        have / 2**20,
        device,
    )
    return Inputs(data, device) if resident else Streamed(data, device)


def probe(setup: Setup, run: Run) -> Result:
    """Return for each of `run.batch_sizes` whether it fits, and the bytes that training needs.

    A batch larger than the training data never fits. `estimated`: whether the bytes were estimated
    and not measured.
    """
    have, cuda = _available(setup.device), setup.device.type == "cuda"
    fits, sizes = {}, {}
    for size in sorted(run.batch_sizes):
        sizes[str(size)] = need = _needed(setup, run, size, have)
        fits[str(size)] = 0 < need * HEAD_ROOM <= have
    return Result(measured={"fits": fits, "bytes": sizes, "estimated": not cuda})


def _needed(setup: Setup, run: Run, size: int, have: int) -> int:
    """Return the bytes that training needs: 0 if data are too few, more than `have` if too large.

    On CUDA everything is freed afterwards.
    """
    if size > len(setup.data.train):
        return 0
    cuda, need = setup.device.type == "cuda", have + 1
    try:
        need = _allocated(setup, run, size) if cuda else _estimated(setup, run, size)
    except Exception as error:
        if not out_of_memory(error):
            raise
    # Only here is the error deleted, and with its traceback the frames with the step's tensors.
    if cuda:
        gc.collect()  # tensors in reference cycles
        torch.cuda.empty_cache()
    return need


def _allocated(setup: Setup, run: Run, size: int) -> int:
    """Return the peak memory of real training steps on CUDA. Raises torch's out-of-memory error."""
    before = torch.cuda.memory_allocated(setup.device)
    torch.cuda.reset_peak_memory_stats(setup.device)
    trainer = Trainer(setup, replace(run, kind="train", batch_size=size, steps=10**9))
    trainer.advance(2)  # the second step has the momentum buffers too
    return torch.cuda.max_memory_allocated(setup.device) - before


def _estimated(setup: Setup, run: Run, size: int) -> int:
    """Estimate parameters, gradients, optimiser state, and activations from a small batch.

    Counts the tensors that autograd saves for the backward pass, which itself needs at most about
    as much again for gradients of activations.
    """
    waiting = setup.inputs.bytes_ahead(size)
    size = min(size, setup.micro_batch_size or size)  # examples in one forward pass
    sample = min(SAMPLE, size)
    trainer = Trainer(setup, replace(run, kind="train", batch_size=sample, steps=10**9))
    parameters = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x, y = next(trainer.batches)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), setup.autocast():
        loss = setup.task.mean(trainer.model(x.clone()), y.clone())
    activations = sum(kept.values()) * size // sample
    del loss
    fixed = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    state = 1 if setup.optimizer.name == "sgd" else 2  # Adam keeps two moments
    return (2 + state + bool(trainer.average)) * fixed + 2 * activations + waiting


def _available(device: torch.device) -> int:
    """Return free bytes: of the GPU, or of the machine within the limit of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    return host.available_memory()
