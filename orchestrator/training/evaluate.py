"""Evaluation: loss and metric on held-out or test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.training.batches import Inputs
from orchestrator.training.data.parts import Part
from orchestrator.training.task import CLASSIFY, Task

BLOCKS = 64  # of held-out examples, whose losses say how sure their mean is
PIECE = 512  # examples at once
RESOLUTION = 1e-7  # of a loss, as a share of the chance loss: float32 resolves nothing smaller
ONE_VALUE = "Expected more than 1 value per channel"  # torch's message for a batch of one


@torch.no_grad()
def evaluate(
    model: nn.Module,
    inputs: Inputs,
    part: Part,
    *,
    task: Task = CLASSIFY,
    batch_statistics: bool = False,
    autocast: AbstractContextManager[object] | None = None,
    blocks: list[float] | None = None,
) -> tuple[float, float]:
    """Return mean loss and metric (NaN without one) on `part`, which is from `inputs.placed`.

    `batch_statistics`: see `evaluating`. `blocks`: gets the mean losses of blocks of examples, of
    `BLOCKS` to twice as many if there are as many examples, in the order of `part`; without a rest,
    and without blocks of ignored labels alone. Blocks, not examples, since a user's own loss may
    give means only. Raises ValueError for a loss below 0.
    """
    size = min(PIECE, max(1, len(part) // BLOCKS))
    pieces = -(-len(part) // PIECE)
    total = torch.zeros(2, device=inputs.device)
    own, kept = task.own_metric, []
    if not task.metric_name:
        total[1] = math.nan
    with autocast or nullcontext(), evaluating(model, batch_statistics) as outputs_of:
        for x, y in inputs.pieces(part, pieces):
            scores = outputs_of(partial(inputs.normalised, x)).float()
            total[0] += task.total(scores, y)
            if blocks is not None:
                blocks += _means(scores, y, size, task)
            if own:
                kept.append(scores)
            elif task.metric_name:
                total[1] += task.hits(scores, y)
    while blocks and len(blocks) >= 2 * BLOCKS:  # no block is larger than a piece
        blocks[:] = [(a + b) / 2 for a, b in zip(blocks[::2], blocks[1::2], strict=False)]
    loss, right = (value / int(task.count(part.y)) for value in total.tolist())
    if loss < 0:
        raise ValueError(f"loss {task.name} is {loss:.3g}: it must not be negative")
    return loss, task.measured(torch.cat(kept), part.y.to(inputs.device)) if own else right


def _means(scores: Tensor, y: Tensor, size: int, task: Task) -> list[float]:
    """Return the mean losses of blocks of `size` examples."""
    pairs = zip(torch.split(scores, size), torch.split(y, size), strict=True)
    whole = [(block, targets) for block, targets in pairs if len(targets) == size]
    means = [task.total(block, targets) / task.count(targets) for block, targets in whole]
    return [loss for loss in torch.stack(means).tolist() if math.isfinite(loss)] if means else []


@contextmanager
def evaluating(
    model: nn.Module, batch_statistics: bool = False
) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Return a context with the model in eval mode; each module's mode is restored at its end.

    Buffers are restored too, so evaluation never changes what is trained or saved, even if a module
    counts or averages in eval mode.

    Yields a function that returns the outputs for the inputs that its argument makes.
    `batch_statistics`: batch norm uses the statistics of the batch, since running ones lag behind
    in a fast ramp; except in frozen layers (in eval mode while the model trains), and for a batch
    with one value per channel, which has no variance.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [kept for module, _ in modes for kept in _kept(module)]
    layers = [m for m, trains in modes if trains and isinstance(m, _BatchNorm)]
    model.eval()

    def outputs_of(inputs: Callable[[], Any]) -> Any:
        if not batch_statistics:
            return model(inputs())
        try:
            with _without_running_statistics(layers):
                return model(inputs())
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
        return model(inputs())

    try:
        yield outputs_of
    finally:
        model.train(modes[0][1])  # a module's train() may do more than set its flag
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, version, value in buffers:
            if buffer._version != version:
                buffer.copy_(value)
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)


def _kept(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor, int, Tensor]]:
    """Yield the buffers of a module itself, how often they were changed, and copies."""
    for name, buffer in module.named_buffers(recurse=False):
        yield module, name, buffer, buffer._version, buffer.clone()


@contextmanager
def _without_running_statistics(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Remove the running statistics: batch norm then uses the batch's even in eval mode."""
    kept = [(m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance
