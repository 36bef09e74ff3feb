"""Makes checked data parts from arrays and from torch Datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config.problems import one_of, shown
from orchestrator.training.data import convert, datasets
from orchestrator.training.data.parts import DataError, Part, Raw
from orchestrator.training.data.rescale import Frame, framed

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MORE = ("x_val", "y_val", "groups")  # the held-out part; groups of training examples
PARTS = ("train", "test", "val")
SAID = {"train": "training", "test": "test", "val": "validation"}
COLOURS = (1, 3, 4)


def raw(given: Mapping[str, Any], source: str, **more: Any) -> Raw:
    """Return checked parts from named arrays, or from torch Datasets named train, test and val."""
    values = dict(given)
    for name in [n for n in PARTS if n in values]:
        dataset = values.pop(name)
        values[f"x_{name}"], values[f"y_{name}"] = datasets.columns(dataset, name, source)
    known = (*ARRAYS, *MORE)
    if unknown := [name for name in values if name not in known]:
        raise DataError(f"data {source}: {shown(unknown[0])}: {one_of(known, unknown[0])}")
    if missing := [name for name in ARRAYS if name not in values]:
        raise DataError(f"data {source}: lacks {', '.join(missing)}")
    if ("x_val" in values) != ("y_val" in values):
        raise DataError(f"data {source}: x_val and y_val go together, one of them is missing")
    names = [name for name in PARTS if f"x_{name}" in values]
    _check_columns({name: values[f"x_{name}"] for name in names})
    for name in names:
        _check_one(values[f"x_{name}"], values[f"y_{name}"], name)
    x = {name: convert.tensor(values[f"x_{name}"], f"x_{name}") for name in names}
    y, notes = convert.coded({name: values[f"y_{name}"] for name in names})
    frame = _frame(x["train"])
    parts = {name: part(x[name], y[name], name, frame) for name in names}
    _check_shapes(parts)
    _check_alike(x)
    held_out = parts.get("val")
    groups = _groups(values.get("groups"), parts["train"], held_out)
    how = _layout_said(x["train"])
    return Raw(
        parts["train"],
        parts["test"],
        source + how,
        held_out=held_out,
        groups=groups,
        notes=tuple(notes),
        frame=frame,
        **more,
    )


def part(x: Any, y: Any, name: str, frame: Frame | None = None) -> Part:
    """Return checked inputs and targets.

    Inputs: volumes (n, c, d, h, w), images (n, c, h, w), signals (n, c, length), features (n, d) or
    tokens (n, t). Images may be channels last, (n, h, w, c). With three dimensions whole numbers
    are grey images (n, h, w), which get a channel, and floats are signals. uint8 images and volumes
    stay uint8; whole numbers with two dimensions, except uint8, are tokens; everything else becomes
    float32, in `frame` if there is one. Raises DataError for what cannot be trained on.
    """
    inputs = convert.tensor(x, f"x_{name}")
    targets = _targets(convert.tensor(y, f"y_{name}"), name)
    if inputs.dim() not in (2, 3, 4, 5):
        cure = "; for a single feature use x[:, None]" * (inputs.dim() == 1)
        raise DataError(
            f"x_{name}: need volumes (n, c, d, h, w), images (n, c, h, w), signals (n, c, length),"
            f" features (n, d) or tokens (n, t), got {tuple(inputs.shape)}{cure}"
        )
    if inputs.is_complex():
        raise DataError(
            f"x_{name}: need real numbers, got {inputs.dtype}: give real and imaginary parts as"
            " two channels"
        )
    if len(inputs) != len(targets):
        raise DataError(f"{name}: {len(inputs):,} inputs but {len(targets):,} labels")
    if not inputs.numel():
        raise DataError(f"{name}: there are no examples, x has shape {tuple(inputs.shape)}")
    return Part(_inputs(inputs, name, frame), targets)


def _check_columns(x: Mapping[str, Any]) -> None:
    """Raise DataError for data frames with the same columns in another order."""
    columns = {name: list(map(str, v.columns)) for name, v in x.items() if hasattr(v, "columns")}
    for name, found in columns.items():
        wanted = columns.get("train", found)
        if found != wanted and sorted(found) == sorted(wanted):
            raise DataError(
                f"x_{name}: its columns are in another order than those of x_train:"
                f" use x_{name}[x_train.columns]"
            )


def _check_one(x: Any, y: Any, name: str) -> None:
    """Raise DataError for a tuple of arrays that are several inputs, not examples."""
    count = np.shape(y)[:1]
    if isinstance(x, tuple | list) and x and (len(x),) != count == np.shape(x[0])[:1]:
        raise DataError(f"x_{name}: must be one array, got {datasets.several(x)}")


def _check_alike(x: Mapping[str, Tensor]) -> None:
    """Raise DataError unless all parts hold whole numbers, or all hold floats.

    uint8 pixels and the same pixels divided by 255 cannot share one normalisation.
    """
    train = x["train"]
    for name, other in x.items():
        floats = train.is_floating_point() == other.is_floating_point()
        if not floats or _features(train) != _features(other):
            raise DataError(
                f"x_train is {train.dtype} and x_{name} is {other.dtype}: give all parts in one"
                " type and on one scale"
            )


def _check_shapes(parts: Mapping[str, Part]) -> None:
    train = parts["train"].x
    for name, other in parts.items():
        if train.shape[1:] != other.x.shape[1:]:
            shapes = f"{tuple(train.shape[1:])} and {tuple(other.x.shape[1:])}"
            raise DataError(f"training and {SAID[name]} inputs differ in shape: {shapes}")
    if all(torch.equal(row, train[0]) for row in train):  # stops at the first different one
        raise DataError(
            f"x_train: all {len(train):,} training inputs are the same: there is nothing to learn"
            " from"
        )


def _groups(given: Any, train: Part, held_out: Part | None) -> NDArray[np.int64] | None:
    """Return groups as numbers, from names or numbers of shape (n,)."""
    if given is None:
        return None
    if held_out is not None:
        raise DataError("groups: not used with x_val and y_val, which are your own split: give one")
    names = np.asarray(given)
    if names.shape != (len(train),):
        raise DataError(
            f"groups: need one per training example, shape ({len(train)},), got {names.shape}"
        )
    numbers: NDArray[np.int64] = np.unique(names, return_inverse=True)[1].astype(np.int64)
    if numbers.max() == 0:
        raise DataError("groups: there is only one group, so none can be held out: need 2 or more")
    return numbers


def _targets(y: Tensor, name: str) -> Tensor:
    """Return whole numbers as int64 and all others as float32; labels (n, 1) become (n,)."""
    if y.dim() == 0 or y.is_complex():
        shape = tuple(y.shape)
        raise DataError(f"y_{name}: need targets of shape (n, ...), got {y.dtype} of shape {shape}")
    if y.is_floating_point():
        return _told_apart(_finite(y, f"y_{name}"), f"y_{name}")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    return y.long().contiguous()


def _told_apart(y: Tensor, name: str) -> Tensor:
    """Return float32. Raises DataError if that makes different targets equal."""
    narrow = y.float()
    if y.dtype == torch.float64 and len(y) > 1:
        spread, lost = y.std(), (narrow.double() - y).abs().max()
        if spread > 0 and not lost <= 1e-3 * spread:
            raise DataError(
                f"{name}: these targets are equal in float32 (their mean is {y.mean():.4g}, their"
                f" standard deviation {spread:.2g}): subtract the mean, divide by the deviation"
            )
    return narrow


def _layout(x: Tensor) -> Tensor:
    """Return inputs with channels first; grey images get a channel."""
    if x.dim() == 3 and not x.is_floating_point():
        return x.unsqueeze(1)
    if x.dim() == 4 and x.shape[3] in COLOURS and x.shape[1] not in COLOURS:
        return x.permute(0, 3, 1, 2)
    return x


def _layout_said(x: Tensor) -> str:
    """Return a note on the assumed layout of images, "" if it is not ambiguous."""
    if x.dim() == 3 and not x.is_floating_point():
        return " (grey images, given a dimension for their channel)"
    if x.dim() != 4:
        return ""
    first, *_, last = (side in COLOURS for side in x.shape[1:])
    c, h, w = x.shape[1:]
    if last and not first:
        return f" (channels last: taken as {w} of {c}x{h})"
    if (first and last) or w < c:
        move = "if they are last, numpy.moveaxis(x, -1, 1)"
        return f" (channels first: taken as {c} of {h}x{w}; {move})"
    return ""


def _frame(x: Tensor) -> Frame | None:
    return None if x.dim() == 2 and not _features(x) else framed(_layout(x))


def _features(x: Tensor) -> bool:
    return x.dim() == 2 and (x.is_floating_point() or x.dtype in (torch.uint8, torch.bool))


def _inputs(x: Tensor, name: str, frame: Frame | None) -> Tensor:
    if x.dim() == 2 and not _features(x):
        return x.long().contiguous()
    x = _layout(x)
    if x.dtype == torch.uint8 and x.dim() != 2:
        return x.contiguous()
    _finite(x, f"x_{name}")
    return (frame.narrowed(x) if frame else _finite(x.float(), f"x_{name}")).contiguous()


def _finite(values: Tensor, name: str) -> Tensor:
    """Return the values of shape (n, ...). Raises DataError for NaN and inf among them."""
    bad = ~torch.isfinite(values)
    if bad.any():
        example, *at = bad.nonzero()[0].tolist()
        column = f", column {at[0]}" if len(at) == 1 else ""
        raise DataError(f"{name}: NaN or infinite values, first in example {example}{column}")
    return values.contiguous()
