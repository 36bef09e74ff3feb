"""Checks the user's loaders, and takes a fixed subset of the held-out batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from orchestrator.training.data.datasets import cure, described
from orchestrator.training.data.splits import order_of
from orchestrator.training.evaluate import PIECE
from orchestrator.training.nested import Batch, joined, size_of

# The attributes that a loader of other batches takes from the user's loader.
LIKE = ("collate_fn", "num_workers", "worker_init_fn", "multiprocessing_context", "timeout")


def check_repeatable(batches: object, name: str) -> None:
    """Raise ValueError, one line, unless `batches` can be iterated repeatedly."""
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
    """Return the random generators of a DataLoader and its samplers."""
    found = [getattr(holder, "generator", None) for holder in (loader, *samplers_of(loader))]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def samplers_of(loader: object) -> list[object]:
    """Return the samplers of a DataLoader, whose state may change with use."""
    batches = getattr(loader, "batch_sampler", None)
    found = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    return list({id(sampler): sampler for sampler in found if sampler is not None}.values())


def length_of(loader: object) -> int | None:
    """Return the number of batches, None if the loader has no length."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # also of a DataLoader over an IterableDataset
        return None


def pairs(batches: Iterable[Any], name: str) -> Iterator[Batch]:
    """Yield the batches (x, y). Raises ValueError, one line, if there are none or no pairs."""
    empty = True
    for batch in batches:
        empty = False
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            came = f"{described(batch)}{cure(batch)}"
            raise ValueError(f"batches of {name} must be pairs (x, y), got {came}")
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


def frozen_subset(held_out: Any, count: int, seed: int) -> list[Batch]:
    """Return a fixed subset of `count` held-out examples (all if there are fewer), in batches.

    From a pair of tensors, or a DataLoader that reads by index, it is a random sample, since data
    are often sorted by class; from other loaders the first examples. If targets are whole numbers
    of shape (n,) the order is stratified: every prefix has each class in its share. Batches whose
    inputs cannot be joined, and those of a custom batch_sampler, are not changed.
    """
    if is_pair_of_tensors(held_out):
        batches = [held_out]
    else:
        check_repeatable(held_out, "held_out")
        batches = _enough(pairs(_sampled(held_out, count, seed), "held_out"), count)
    whole = None if _composed(held_out) else joined(batches)
    if whole is None:
        return batches
    x, y = whole
    if not len(x) == len(y) > 0:
        raise ValueError(f"held_out has {len(x)} inputs for {len(y)} targets")
    order = torch.from_numpy(order_of(y.cpu(), seed)[:count]).to(y.device)
    parts = -(-len(order) // PIECE)  # of similar size: batch norm needs more than one example
    return [(x[part.to(x.device)], y[part]) for part in order.chunk(parts)]


def _composed(loader: Any) -> bool:
    """Whether the user composes batches by a batch_sampler."""
    batches = getattr(loader, "batch_sampler", None)
    return isinstance(loader, DataLoader) and type(batches) is not BatchSampler


def _sampled(loader: Iterable[Any], count: int, seed: int) -> Iterable[Any]:
    """Return a loader of the same batches in random order, limited to `count` examples if possible.

    The loader itself if it does not read by index, or has no length.
    """
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return loader
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or not (length := length_of(sampler)):
        return loader
    chosen = list(islice(sampler, length))
    generator = torch.Generator().manual_seed(seed)
    if not _composed(loader):
        chosen = [index for batch in chosen for index in batch]
        if len(chosen) <= count:
            return loader
    order = torch.randperm(len(chosen), generator=generator).tolist()
    picked = [chosen[i] for i in order]
    if not _composed(loader):
        parts = -(-count // (loader.batch_size or 1))  # of similar size
        picked = [picked[:count][k::parts] for k in range(parts)]
    given = {name: getattr(loader, name) for name in LIKE}
    if loader.batch_sampler is None:  # the dataset itself returns batches
        return DataLoader(loader.dataset, batch_size=None, sampler=picked, **given)
    return DataLoader(loader.dataset, batch_sampler=picked, **given)


def _enough(batches: Iterator[Batch], count: int) -> list[Batch]:
    found, examples = [], 0
    for batch in batches:
        found.append(batch)
        examples += size_of(batch)
        if examples >= count:
            break
    return found
