"""Stratified splits that depend on the seed alone, by group where there are groups."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config.sections import DataUse
from orchestrator.training.data.parts import DataError, Part, Raw


def stratified_order(y: Tensor, seed: int) -> NDArray[np.int64]:
    """Return a random order in which every prefix has each class in its share, within one example.

    The i-th of the n examples of a class (shuffled) goes to the place (i + 1/2) / n of the whole;
    ties between classes are broken at random.
    """
    rng = np.random.default_rng(seed)
    labels = y.numpy()
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(labels)), place))


def split(raw: Raw, options: DataUse) -> tuple[Part, Part]:
    """Return training and held-out part: the last and the first of one stratified order.

    From both ends, so that another size of one part does not change the other. Raises DataError for
    more examples than there are.
    """
    if raw.held_out is not None:
        return _split_given(raw, raw.held_out, options)
    pool = raw.train
    total, wanted, held = len(pool), options.train_examples, options.held_out_examples
    if held is None:  # a sixth of the data used
        held = max(1, round((wanted / 5) if wanted else (total / 6)))
        held = min(held, max(1, total - (wanted or 1)))
    if held >= total:
        raise DataError(f"data.held_out_examples={held}: choose 1 to {total - 1}, of {total:,}")
    count = total - held if wanted is None else wanted
    if count > total - held:
        raise DataError(
            f"data.train_examples={count}: choose 1 to {total - held:,}"
            f" ({total:,} are there, {held:,} of them held out)"
        )
    order = order_of(pool.y, options.seed)
    if raw.groups is not None:
        return _split_groups(pool, raw.groups, order, held, wanted)
    return pool.take(order[total - count :]), pool.take(order[:held])


def _split_given(raw: Raw, held_out: Part, options: DataUse) -> tuple[Part, Part]:
    """Return training and held-out part as the user split them, or a subset of each."""
    return (
        some(raw.train, options.train_examples, "train_examples", options.seed),
        some(held_out, options.held_out_examples, "held_out_examples", options.seed),
    )


def _split_groups(
    pool: Part, groups: NDArray[np.int64], order: NDArray[np.int64], held: int, wanted: int | None
) -> tuple[Part, Part]:
    """Return training and held-out part with no group in both.

    Groups come in the order of their first example in `order`, and are held out, each whole, until
    there are `held` examples; the rest is in neither part.
    """
    kind = np.unique(groups, return_inverse=True)[1][order]
    first = np.unique(kind, return_index=True)[1]
    kinds = np.argsort(first)
    sizes = np.cumsum(np.bincount(kind)[kinds])
    out = kinds[: int(np.searchsorted(sizes, held)) + 1]
    inside = np.isin(kind, out)
    rest = order[~inside]
    if len(rest) < (wanted or 1):
        raise DataError(
            f"groups: with {len(out)} of {len(kinds)} groups held out, {len(rest):,} examples are"
            f" left to train on, {wanted or 1:,} are needed"
        )
    return pool.take(rest[len(rest) - wanted if wanted else 0 :]), pool.take(order[inside][:held])


def order_of(y: Tensor, seed: int) -> NDArray[np.int64]:
    """Return the order in which examples are taken, of targets on the CPU.

    Stratified by class if targets are classes: whole numbers of shape (n,).
    """
    classes = y.dim() == 1 and not y.is_floating_point() and not y.is_complex()
    return stratified_order(y if classes else torch.zeros(len(y)), seed)


def some(part: Part, wanted: int | None, key: str, seed: int) -> Part:
    """Return `wanted` examples of a part (None: all), in order; `data.key` is their setting."""
    if wanted is not None and wanted > len(part):
        raise DataError(f"data.{key}={wanted}: choose 1 to {len(part):,}, there are no more")
    return part.take(order_of(part.y, seed)[:wanted])
