"""Nested batches: tuples, lists and dicts of tensors, for networks with several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = "tuple[Any, Any]"  # inputs and targets: tensors, or nested tensors


def fresh(tree: Any, device: torch.device) -> Any:
    """Return a copy on `device` of a tensor, or of a nest of tuples, lists and dicts of them.

    A copy, since a model may change its inputs. Other objects are moved by their own `to`.
    """
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True, copy=True)
    if callable(getattr(tree, "to", None)):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: fresh(part, device) for key, part in tree.items()}
    if not isinstance(tree, tuple | list):
        return tree
    parts = [fresh(part, device) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return the tensors of a nest."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    inner = parts if isinstance(tree, dict | tuple | list) else []
    return [tensor for part in inner for tensor in tensors_of(part)]


def size_of(batch: Batch) -> int:
    """Return the number of examples: the first dimension of the first tensor that has one."""
    for tensor in (*tensors_of(batch[1]), *tensors_of(batch[0])):
        if tensor.dim():
            return len(tensor)
    raise ValueError("batches need tensors, with examples along their first dimension")


def joined(batches: Sequence[Batch]) -> tuple[Tensor, Tensor] | None:
    """Return the batches as one, None unless all are tensors with examples of one shape."""
    inputs, targets = zip(*batches, strict=True)
    if not (_joinable(inputs) and _joinable(targets)):
        return None
    return torch.cat(inputs), torch.cat(targets)


def _joinable(parts: tuple[Any, ...]) -> bool:
    return all(
        isinstance(p, Tensor) and p.dim() and p.shape[1:] == parts[0].shape[1:] for p in parts
    )
