"""Detects silent errors of a user's own loss or metric: broadcasting, a sum, state, weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]  # of scores and targets


def broadcasts(function: Function, outputs: Any, y: Any) -> bool:
    """Whether a function broadcasts outputs against targets, pairing each with each.

    torch does so with shapes (n, 1) and (n,). `outputs`: only their shape is used; `y`: float
    targets (others never broadcast in this way).
    """
    if not (isinstance(outputs, Tensor) and isinstance(y, Tensor) and y.is_floating_point()):
        return False
    longer = outputs.shape[1:] == (*y.shape[1:], 1)
    if not longer and y.shape[1:] != (*outputs.shape[1:], 1):
        return False
    reshaped = partial(torch.unsqueeze if longer else torch.squeeze, dim=-1)
    # Some losses are not defined at negative numbers.
    return any(_pairs_all(function, reshaped(right), right) for right in (y, y.abs()))


def _pairs_all(function: Function, right: Tensor, y: Tensor) -> bool:
    """Whether the value of a function does not depend on the order of the outputs.

    `right`: outputs equal to `y`, in another shape. In the shape of `y` the value must differ;
    otherwise the function compares distributions, which is allowed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own losses warn about this
            given, rolled = float(function(right, y.clone())), float(function(right, y.roll(1, 0)))
            same = float(function(y, y.clone()))
    except Exception:  # a function that refuses one of the shapes: it raises later itself
        return False
    return _close(given, rolled) and not _close(given, same)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9)


def is_sum(function: Function, outputs: Any, y: Any) -> bool:
    """Whether a loss is a sum over examples: twice the batch, twice the loss."""
    if not (isinstance(outputs, Tensor) and isinstance(y, Tensor) and y.dim()):
        return False
    try:
        with torch.no_grad():
            one = float(function(outputs, y.clone()))
            two = float(function(torch.cat([outputs, outputs]), torch.cat([y, y])))
    except Exception:  # a loss that needs a batch of another size or kind
        return False
    return abs(one) > 1e-6 and math.isclose(two, 2 * one, rel_tol=1e-3)


def state_of(function: Function) -> dict[str, Tensor]:
    """Return copies of a loss module's tensors, by name; {} for a function."""
    module = _module(function)
    return {k: v.clone() for k, v in module.state_dict().items()} if module else {}


def trained_by(function: Function) -> Iterator[str]:
    """Yield the names of a loss's own trainable weights."""
    if module := _module(function):
        yield from (name for name, p in module.named_parameters() if p.requires_grad)


def _module(function: Function) -> nn.Module | None:
    inner = function.func if isinstance(function, partial) else function
    return inner if isinstance(inner, nn.Module) else None
