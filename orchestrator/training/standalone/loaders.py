"""Batches of the user's own: what they must be, and a frozen subset of the held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from orchestrator.training.data.splits import order_of
from orchestrator.training.evaluate import PIECE

Batch: TypeAlias = "tuple[Any, Any]"  # inputs and targets: tensors, or nests of them


def check_repeatable(batches: object, name: str) -> None:
    """Raise ValueError, one line, unless `batches` can be gone through again and again."""
    if isinstance(batches, Iterator):
        kind = type(batches).__name__
        raise ValueError(f"{name} can be read only once ({kind}): give a DataLoader or a list")
    if not isinstance(batches, Iterable) or is_pair_of_tensors(batches):
        raise ValueError(
            f"{name} must give batches (x, y), as a DataLoader or a list of pairs does,"
            f" got a {'pair of tensors' if is_pair_of_tensors(batches) else type(batches).__name__}"
        )


def is_pair_of_tensors(value: object) -> bool:
    """Whether `value` is (x, y), two tensors: a batch, or all data at once."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor)


def generators_of(loader: object) -> list[torch.Generator]:
    """Return the random generators that a DataLoader has of its own."""
    sampler = getattr(loader, "sampler", None)
    holders = (loader, sampler, getattr(getattr(loader, "batch_sampler", None), "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def length_of(loader: object) -> int | None:
    """Return the number of batches, None where it is not known before the last."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # also a DataLoader's over a stream
        return None


def pairs(batches: Iterable[Any], name: str) -> Iterator[Batch]:
    """Yield the batches (x, y). Raises ValueError, one line, where there are none or no pairs."""
    empty = True
    for batch in batches:
        empty = False
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"batches of {name} must be pairs (x, y), got {_described(batch)}")
        yield batch[0], batch[1]
    if empty:
        raise ValueError(f"{name} has no batches")


def forever(train: Iterable[Any]) -> Iterator[Batch]:
    """Yield batches without end, those of a list in a new random order each time."""
    while True:
        if isinstance(train, Sequence) and train:
            yield from pairs((train[i] for i in torch.randperm(len(train)).tolist()), "train")
        else:
            yield from pairs(train, "train")


def size_of(batch: Batch) -> int:
    """Return the number of examples: the first dimension of the first tensor that has one."""
    for tensor in (*_tensors(batch[1]), *_tensors(batch[0])):
        if tensor.dim():
            return len(tensor)
    raise ValueError("batches need tensors, with examples along their first dimension")


def moved(tree: Any, device: torch.device) -> Any:
    """Return a tensor, or a nest of tuples, lists and dicts of them, on `device`."""
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True)
    if isinstance(tree, dict):
        return {key: moved(part, device) for key, part in tree.items()}
    return type(tree)(moved(p, device) for p in tree) if type(tree) in (tuple, list) else tree


def frozen_subset(held_out: Any, count: int, seed: int) -> list[Batch]:
    """Return `count` held-out examples, or all if there are fewer, in batches; never others.

    From a pair of tensors and from a DataLoader whose dataset has a length they are a random
    sample, since such data often lie sorted by class; from other loaders the first ones. Where
    targets are whole numbers of shape (n,) the order is stratified: every part of it holds each
    class in its share. Batches whose inputs cannot be joined stay as the loader made them.
    """
    if is_pair_of_tensors(held_out):
        batches = [held_out]
    else:
        check_repeatable(held_out, "held_out")
        batches = _enough(pairs(_sampled(held_out, count, seed), "held_out"), count)
    columns = list(zip(*batches, strict=True))
    if not all(_joinable(column) for column in columns):
        return batches
    x, y = (torch.cat(column) for column in columns)
    if not len(x) == len(y) > 0:
        raise ValueError(f"held_out has {len(x)} inputs for {len(y)} targets")
    order = torch.from_numpy(order_of(y.cpu(), seed)[:count]).to(y.device)
    parts = -(-len(order) // PIECE)  # of about one size: batch norm wants more than one example
    return [(x[part.to(x.device)], y[part]) for part in order.chunk(parts)]


def _sampled(loader: Iterable[Any], count: int, seed: int) -> Iterable[Any]:
    """Return a loader of `count` random examples, where the dataset can be asked for them."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    total = length_of(loader.dataset)
    if not total or total <= count:
        return loader
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return DataLoader(
        Subset(loader.dataset, order[:count].tolist()),
        batch_size=loader.batch_size or 1,
        collate_fn=loader.collate_fn,
    )


def _enough(batches: Iterator[Batch], count: int) -> list[Batch]:
    found, examples = [], 0
    for batch in batches:
        found.append(batch)
        examples += size_of(batch)
        if examples >= count:
            break
    return found


def _joinable(parts: Sequence[Any]) -> bool:
    return all(
        isinstance(p, Tensor) and p.dim() and p.shape[1:] == parts[0].shape[1:] for p in parts
    )


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [t for p in parts for t in _tensors(p)] if isinstance(tree, dict | tuple | list) else []


def _described(batch: object) -> str:
    return (
        f"{type(batch).__name__} of {len(batch)}"
        if isinstance(batch, tuple | list)
        else (type(batch).__name__)
    )
