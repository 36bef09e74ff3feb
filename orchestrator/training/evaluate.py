"""Loss and accuracy on data that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.training.batches import Inputs
from orchestrator.training.data import Part

PIECE = 512  # examples at once


@torch.no_grad()
def evaluate(
    model: nn.Module,
    inputs: Inputs,
    part: Part,
    *,
    batch_statistics: bool = False,
    autocast: AbstractContextManager[object] | None = None,
) -> tuple[float, float]:
    """Return mean loss and accuracy (a fraction) on `part`, which is on the device.

    The network is in eval mode, and back in training mode afterwards. `batch_statistics`: batch
    norm uses the statistics of what it sees, as the running ones lag behind a fast ramp.
    """
    pieces = -(-len(part) // PIECE)
    total = torch.zeros(2, device=inputs.device)
    model.eval()
    statistics = using_batch_statistics(model) if batch_statistics else nullcontext()
    with autocast or nullcontext(), statistics:
        for x, y in zip(part.x.chunk(pieces), part.y.chunk(pieces), strict=True):
            scores = model(inputs.normalised(x)).float()
            total[0] += F.cross_entropy(scores, y, reduction="sum")
            total[1] += (scores.argmax(1) == y).sum()
    model.train()
    loss, right = total.tolist()
    return loss / len(part), right / len(part)


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
