"""Arrays and torch Datasets as checked parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config.problems import one_of, shown
from orchestrator.training.data.parts import DataError, Part, Raw

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MORE = ("x_val", "y_val", "groups")  # held out as they are; which training examples belong together
PARTS = ("train", "test", "val")


def raw(given: Mapping[str, Any], source: str, **more: Any) -> Raw:
    """Return checked parts from named arrays, or from torch Datasets named train, test and val."""
    values = dict(given)
    for name in [n for n in PARTS if n in values]:
        values[f"x_{name}"], values[f"y_{name}"] = _columns(values.pop(name), source)
    known = (*ARRAYS, *MORE)
    if unknown := [name for name in values if name not in known]:
        raise DataError(f"data {source}: {shown(unknown[0])}: {one_of(known, unknown[0])}")
    if missing := [name for name in ARRAYS if name not in values]:
        raise DataError(f"data {source}: lacks {', '.join(missing)}")
    if ("x_val" in values) != ("y_val" in values):
        raise DataError(f"data {source}: x_val and y_val go together, one of them is missing")
    train, test = (part(values[f"x_{n}"], values[f"y_{n}"], n) for n in ("train", "test"))
    if train.x.dim() > np.ndim(values["x_train"]):
        source += " (grey images, given a dimension for their channel)"
    held_out = part(values["x_val"], values["y_val"], "val") if "x_val" in values else None
    for other, name in ((test, "test"), (held_out, "validation")):
        if other is not None and train.x.shape[1:] != other.x.shape[1:]:
            shapes = f"{tuple(train.x.shape[1:])} and {tuple(other.x.shape[1:])}"
            raise DataError(f"training and {name} inputs differ in shape: {shapes}")
    groups = _groups(values.get("groups"), train, held_out)
    return Raw(train, test, source, held_out=held_out, groups=groups, **more)


def _groups(given: Any, train: Part, held_out: Part | None) -> NDArray[np.int64] | None:
    """Return numbers of groups, from names or numbers of shape (n,)."""
    if given is None:
        return None
    if held_out is not None:
        raise DataError("groups: are for a split of ours; with x_val, y_val the split is yours")
    names = np.asarray(given)
    if names.shape != (len(train),):
        raise DataError(
            f"groups: need one per training example, shape ({len(train)},), got {names.shape}"
        )
    numbers: NDArray[np.int64] = np.unique(names, return_inverse=True)[1].astype(np.int64)
    if numbers.max() == 0:
        raise DataError("groups: there is one group only, none could be held out")
    return numbers


def _columns(dataset: Any, source: str) -> tuple[Any, Any]:
    try:
        pairs = [dataset[i] for i in range(len(dataset))]
        if others := {len(pair) for pair in pairs} - {2}:
            raise ValueError(f"one has {min(others)} parts")
        inputs, targets = zip(*pairs, strict=True)
        return np.stack(list(map(np.asarray, inputs))), np.stack(list(map(np.asarray, targets)))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data {source}: its Datasets must give (input, target) pairs of one shape ({error})"
        ) from error


def part(x: Any, y: Any, name: str) -> Part:
    """Return checked inputs and targets.

    Inputs: images (n, c, h, w), signals (n, c, length), features (n, d) or tokens (n, t). Colours
    may come last, as (n, h, w, c). Of three dimensions whole numbers are grey images (n, h, w),
    which get a channel, and floats are signals, which stay. Bytes stay bytes in images; whole
    numbers of two dimensions, but for bytes, are tokens; all else becomes float32. Raises DataError
    for what no training can use.
    """
    inputs, targets = _tensor(x, f"x_{name}"), _targets(_tensor(y, f"y_{name}"), name)
    if inputs.dim() not in (2, 3, 4):
        shape = tuple(inputs.shape)
        raise DataError(
            f"x_{name}: need images (n, c, h, w), signals (n, c, length), features (n, d) or"
            f" tokens (n, t), got {shape}"
        )
    if inputs.is_complex():
        raise DataError(f"x_{name}: need real numbers, got {inputs.dtype}")
    if len(inputs) != len(targets):
        raise DataError(f"{name}: {len(inputs):,} inputs but {len(targets):,} labels")
    if not inputs.numel():
        raise DataError(f"{name}: there are no examples, x has shape {tuple(inputs.shape)}")
    return Part(_inputs(inputs, name), targets)


def _targets(y: Tensor, name: str) -> Tensor:
    """Return whole numbers as int64 and all others as float32; labels (n, 1) become (n,)."""
    if y.dim() == 0 or y.is_complex():
        shape = tuple(y.shape)
        raise DataError(f"y_{name}: need targets of shape (n, ...), got {y.dtype} of shape {shape}")
    if y.is_floating_point():
        return _finite(y.float(), f"y_{name}")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    return y.long().contiguous()


def _tensor(value: Any, name: str) -> Tensor:
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        return torch.from_numpy(np.array(value))  # copied: a read-only array would be shared
    except (TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: not an array of numbers ({problem})") from error


def _inputs(x: Tensor, name: str) -> Tensor:
    colours = (1, 3, 4)
    if x.dim() == 3 and not x.is_floating_point():
        x = x.unsqueeze(1)
    elif x.dim() == 4 and x.shape[3] in colours and x.shape[1] not in colours:
        x = x.permute(0, 3, 1, 2)
    whole = not x.is_floating_point() and x.dtype not in (torch.uint8, torch.bool)
    if whole and x.dim() == 2:
        return x.long().contiguous()
    if x.dtype != torch.uint8 or x.dim() == 2:
        return _finite(x.float(), f"x_{name}")
    return x.contiguous()


def _finite(values: Tensor, name: str) -> Tensor:
    """Return the values of shape (n, ...). Raises DataError for NaN and inf among them."""
    bad = ~torch.isfinite(values)
    if bad.any():
        example, *at = bad.nonzero()[0].tolist()
        column = f", column {at[0]}" if len(at) == 1 else ""
        raise DataError(f"{name}: NaN or infinite values, first in example {example}{column}")
    return values.contiguous()
