"""Use what belongs to somebody else, and leave it as it was found."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class ModelAsFound:
    """What a model was: parameters, buffers, gradients, and each module's training mode.

    `restart` brings the weights back, `put_back` everything, into the very same tensors. Costs the
    memory of one more copy of the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modes = [(module, module.training) for module in model.modules()]
        # A module may put another tensor in a buffer's place: the places are kept, and the values.
        tables = [t for m in model.modules() for t in (m._parameters, m._buffers)]
        self._places: list[tuple[dict[str, Any], dict[str, Any]]] = [(t, dict(t)) for t in tables]
        tensors = [*model.parameters(), *model.buffers()]
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._grads = [(parameter, parameter.grad) for parameter in model.parameters()]

    @torch.no_grad()
    def restart(self) -> None:
        """Bring back parameters and buffers; there are no gradients."""
        for table, kept in self._places:
            table.clear()
            table.update(kept)
        for tensor, value in self._values:
            tensor.copy_(value)
        for parameter, _ in self._grads:
            parameter.grad = None

    def put_back(self) -> None:
        """Bring back everything."""
        self.restart()
        for parameter, grad in self._grads:
            parameter.grad = grad
        for module, mode in self._modes:
            module.training = mode


class OptimizerAsFound:
    """What an optimiser was: its state and its param groups.

    `restart` gives it a copy of the state it had, `put_back` the very state itself.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._state = dict(optimizer.state)
        self._groups = [dict(group) for group in optimizer.param_groups]

    def restart(self) -> None:
        """Bring back a copy of the state, and the groups."""
        self._bring({key: copy.deepcopy(value) for key, value in self._state.items()})

    def put_back(self) -> None:
        """Bring back everything."""
        self._bring(self._state)

    def _bring(self, state: dict[Any, Any]) -> None:
        self._optimizer.state.clear()
        self._optimizer.state.update(state)
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.clear()
            group.update(kept)


@contextmanager
def as_found(
    model: nn.Module, optimizer: Optimizer
) -> Iterator[tuple[ModelAsFound, OptimizerAsFound]]:
    """Return a context after which both are what they were before."""
    kept = ModelAsFound(model), OptimizerAsFound(optimizer)
    try:
        yield kept
    finally:
        for part in reversed(kept):
            part.put_back()
