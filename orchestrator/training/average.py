"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A copy of `model` whose weights are an average of the model's: `update` after each step.

    Trained parameters and batch norm's running statistics are averaged, all else is copied. In step
    t (from 0) the decay is min(`decay`, (1 + t) / (10 + t)), so the initial weights soon have no
    influence, even in a short run. Source: TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay
        pairs = list(zip(_values(self.model), _values(model), strict=True))
        numbers = [(mine, its) for mine, its in pairs if _is_averaged(its)]
        self._mine, self._its = [m for m, _ in numbers], [i for _, i in numbers]
        self._counts = [(mine, its) for mine, its in pairs if not _is_averaged(its)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the model's weights after `step` (the first is 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine, self._its, 1 - decay)
        for mine, its in self._counts:
            mine.copy_(its)


def _is_averaged(values: torch.Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()


def _values(model: nn.Module) -> list[torch.Tensor]:
    return [*(p for p in model.parameters() if p.requires_grad), *model.buffers()]
