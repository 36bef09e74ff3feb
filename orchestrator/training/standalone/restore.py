"""Saves and restores the user's objects: modules, optimiser and other attributes."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SavedAttributes:
    """The saved attributes of objects, with the content of dicts, lists and sets among them.

    For a module these include its parameters, buffers, submodules, hooks and training mode.
    """

    def __init__(self, objects: Iterable[object]) -> None:
        own = [vars(thing) for thing in objects if hasattr(thing, "__dict__")]
        inner = [value for table in own for value in table.values()]
        tables: list[dict[Any, Any]] = [*own, *(v for v in inner if isinstance(v, dict))]
        self._tables = [(table, dict(table)) for table in tables]
        others = [value for value in inner if isinstance(value, list | set | deque)]
        self._others = [(other, list(other)) for other in others]

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among the attributes."""
        values = chain(*(kept.values() for _, kept in self._tables), *(k for _, k in self._others))
        return (value for value in values if isinstance(value, Tensor))

    def put_back(self) -> None:
        """Restore attributes that have changed."""
        for table, kept in self._tables:
            for key in table.keys() - kept.keys():
                del table[key]
            table.update({k: v for k, v in kept.items() if k not in table or table[k] is not v})
        for other, values in self._others:
            if len(other) != len(values) or any(map(is_not, other, values)):
                other.clear()
                (other.update if isinstance(other, set) else other.extend)(values)


class SavedModules:
    """The saved state of modules and trained tensors: values, gradients, attributes.

    `restart` restores the values, `put_back` everything, in place. Needs memory for one more copy
    of the weights. `others`: objects whose attributes are saved too.
    """

    def __init__(
        self, modules: Iterable[nn.Module], trained: Iterable[Tensor], others: Iterable[object]
    ) -> None:
        every = list(dict.fromkeys(m for module in modules for m in module.modules()))
        self._modes = [(module, module.training) for module in every]
        self._attributes = SavedAttributes([*every, *others])
        owned = [t for m in every for t in (*m.parameters(), *m.buffers())]  # of TorchScript too
        tensors = {id(t): t for t in (*owned, *trained, *self._attributes.tensors())}.values()
        leaves = [t for t in tensors if t.is_leaf and not _overlaps(t)]
        self._values = [(tensor, tensor.detach().clone()) for tensor in leaves]
        self._grads = [(tensor, tensor.grad) for tensor in leaves]

    @torch.no_grad()
    def restart(self) -> None:
        """Restore values and attributes, but not modes and gradients."""
        modes = [(module, module.training) for module, _ in self._modes]
        self._attributes.put_back()
        for tensor, value in self._values:
            tensor.copy_(value)
        self.clear_gradients()
        for module, mode in modes:
            module.training = mode

    def clear_gradients(self) -> None:
        """Remove all gradients."""
        for tensor, _ in self._grads:
            tensor.grad = None

    def put_back(self) -> None:
        """Restore everything."""
        self.restart()
        for tensor, grad in self._grads:
            tensor.grad = grad
        for module, mode in self._modes:
            module.training = mode


def _overlaps(tensor: Tensor) -> bool:
    """Whether elements share memory, as after `expand`: such a tensor cannot be copied into."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


class SavedOptimizer:
    """The saved state and param groups of an optimiser.

    `restart` restores a copy of the state, `put_back` the original objects.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._state = dict(optimizer.state)
        self._groups = [dict(group) for group in optimizer.param_groups]

    def restart(self) -> None:
        """Restore a copy of the state, and the groups."""
        self._bring({key: copy.deepcopy(value) for key, value in self._state.items()})

    def put_back(self) -> None:
        """Restore everything."""
        self._bring(self._state)

    def _bring(self, state: dict[Any, Any]) -> None:
        self._optimizer.state.clear()
        self._optimizer.state.update(state)
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.clear()
            group.update(kept)


Saved = tuple[SavedModules, SavedOptimizer]


@contextmanager
def restoring(
    modules: Sequence[nn.Module], optimizer: Optimizer, others: Iterable[object] = ()
) -> Iterator[Saved]:
    """Return a context that restores modules, optimiser and `others` at its end."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    kept = SavedModules(modules, trained, others), SavedOptimizer(optimizer)
    try:
        yield kept
    finally:
        for part in reversed(kept):
            part.put_back()


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Return a context in which the logger `name` logs errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
