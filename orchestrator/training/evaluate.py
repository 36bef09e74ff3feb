"""Loss and metric on data that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.training.batches import Inputs
from orchestrator.training.data.parts import Part
from orchestrator.training.task import CLASSIFY, Task

PIECE = 512  # examples at once


@torch.no_grad()
def evaluate(
    model: nn.Module,
    inputs: Inputs,
    part: Part,
    *,
    task: Task = CLASSIFY,
    batch_statistics: bool = False,
    autocast: AbstractContextManager[object] | None = None,
) -> tuple[float, float]:
    """Return mean loss and metric (NaN: there is none) on `part`, as `inputs.placed` gave it.

    The network is in eval mode, and back in training mode afterwards. `batch_statistics`: batch
    norm uses the statistics of what it sees, as the running ones lag behind a fast ramp. Raises
    ValueError for a loss below 0.
    """
    pieces = -(-len(part) // PIECE)
    total = torch.zeros(2, device=inputs.device)
    own, kept = task.own_metric, []
    if not task.metric_name:
        total[1] = math.nan
    model.eval()
    statistics = using_batch_statistics(model) if batch_statistics else nullcontext()
    with autocast or nullcontext(), statistics:
        for x, y in inputs.pieces(part, pieces):
            scores = model(inputs.normalised(x)).float()
            total[0] += task.total(scores, y)
            if own:
                kept.append(scores)
            elif task.metric_name:
                total[1] += task.hits(scores, y)
    model.train()
    loss, right = (value / int(task.count(part.y)) for value in total.tolist())
    if loss < 0:
        raise ValueError(f"loss {task.name} is {loss:.3g}: it must not fall below 0")
    return loss, task.measured(torch.cat(kept), part.y.to(inputs.device)) if own else right


@contextmanager
def using_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Take the running statistics away, so that batch norm uses the batch's even in eval mode."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    kept = [(m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance
