"""Checks and converts targets for the loss, and counts the scores that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from orchestrator.training.data.parts import DataError, Part, Raw
from orchestrator.training.task import LABELS, NUMBERS, Task

NAMED = 5  # absent classes in a note
FEW = 0.5  # share of the class numbers that are used, below which there is a note
SOME = 1000  # classes that may have no example


def prepared(raw: Raw, task: Task, classes: int | None = None) -> tuple[Raw, int]:
    """Return the data with targets for the loss, and the number of scores per target.

    cross_entropy: the number of classes. Others: the number of values of one target; for a user's
    own loss with whole numbers the number of classes too. `classes`: their number if it is set,
    None: the largest label plus one. Raises DataError, one line.
    """
    shapes = {tuple(part.y.shape[1:]) for part in _parts(raw)}
    if len(shapes) > 1:
        raise DataError(f"targets differ in shape: {' and '.join(map(str, sorted(shapes)))}")
    if task.kind == "cross_entropy":
        raw = _as_classes(raw)
        return _counted(raw, task.ignored, classes)
    if task.kind == LABELS:
        raw = _zero_and_one(_mapped(raw, Tensor.float))
        if not all(bool(((p.y >= 0) & (p.y <= 1)).all()) for p in _parts(raw)):
            raise DataError("y_train: loss bce_with_logits needs labels from 0 to 1")
        return raw, prod(raw.train.y.shape[1:])
    if task.kind in NUMBERS:
        raw = _mapped(raw, Tensor.float)
    values = torch.cat([torch.unique(part.y) for part in _parts(raw)])
    signs = bool((values.abs() == 1).all()) and bool((values < 0).any())
    if values.is_floating_point() or signs:
        return raw, prod(raw.train.y.shape[1:])
    return raw, classes or max(int(values.max()) + 1, 1)  # labels below 0 are marks, not classes


def _parts(raw: Raw) -> list[Part]:
    return [part for part in (raw.train, raw.held_out, raw.test) if part is not None]


def _mapped(raw: Raw, change: Callable[[Tensor], Tensor], note: str = "") -> Raw:
    """Return the data with changed targets, and a note on that."""
    train, test, held_out = (
        part and Part(part.x, change(part.y)) for part in (raw.train, raw.test, raw.held_out)
    )
    assert train is not None
    assert test is not None
    notes = (*raw.notes, note) if note else raw.notes
    return raw._replace(train=train, test=test, held_out=held_out, notes=notes)


def _zero_and_one(raw: Raw) -> Raw:
    """Return labels -1 and 1 as 0 and 1, others as they are."""
    values = set(torch.cat([torch.unique(part.y) for part in _parts(raw)]).tolist())
    if values != {-1, 1}:
        return raw
    return _mapped(raw, lambda y: (y > 0).to(y.dtype), "Labels -1 and 1 are used as 0 and 1.")


def _as_classes(raw: Raw) -> Raw:
    """Return labels as class numbers, from one-hot targets or floats that are whole numbers too."""
    parts, shape = _parts(raw), tuple(raw.train.y.shape)
    if len(shape) == 2 and shape[1] > 1 and all(_one_hot(part.y) for part in parts):
        note = f"Targets (n, {shape[1]}) are one-hot: used as classes 0 to {shape[1] - 1}."
        return _mapped(raw, lambda y: y.argmax(1), note)
    if not any(part.y.is_floating_point() for part in parts):
        return _zero_and_one(raw)
    if len(shape) <= 2 and prod(shape[1:]) == 1 and all(_whole(part.y) for part in parts):
        note = "Labels are floats that are whole numbers: used as class numbers."
        return _zero_and_one(_mapped(raw, lambda y: y.reshape(-1).long(), note))
    raise DataError(
        f"y_train: loss cross_entropy needs whole-number labels, got {raw.train.y.dtype} of"
        f" shape {shape}; for regression choose loss=mse, for labels"
        " that are 0 or 1 loss=bce_with_logits, for probabilities of classes"
        " loss._target_=torch.nn.CrossEntropyLoss"
    )


def _one_hot(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())


def _whole(y: Tensor) -> bool:
    return bool((y == y.round()).all())


def _counted(raw: Raw, ignored: int | None, given: int | None) -> tuple[Raw, int]:
    """Return the data with notes on their labels, and the number of classes."""
    seen = {name: _labels(part.y, ignored) for name, part in _named(raw)}
    if empty := [name for name, values in seen.items() if not values]:
        raise DataError(f"y_{empty[0]}: loss.ignore_index={ignored} leaves no label at all")
    values = sorted(set().union(*seen.values()))
    low, high = values[0], values[-1]
    if low < 0:
        raise DataError(
            f"labels must be whole numbers from 0, got {low} to {high}; if {low} marks targets"
            f" without a label: loss.ignore_index={low}"
        )
    count = given or high + 1
    if count <= high:
        raise DataError(f"data.classes={given}: labels go up to {high}, so it must be {high + 1}")
    if len(seen["train"]) == 1:
        raise DataError("training data of one class: there is nothing to learn, need 2 or more")
    if count > max(SOME, raw.train.y.numel()):
        raise DataError(
            f"labels go up to {high}, but there are only {raw.train.y.numel():,} training labels:"
            " number the classes 0 to C-1, as numpy.unique(y, return_inverse=True)[1] does"
        )
    if few := _few(values, count):
        raw = raw._replace(notes=(*raw.notes, few))
    return raw, count


def _named(raw: Raw) -> Iterator[tuple[str, Part]]:
    for name, part in (("train", raw.train), ("val", raw.held_out), ("test", raw.test)):
        if part is not None:
            yield name, part


def _labels(y: Tensor, ignored: int | None) -> set[int]:
    found = set(torch.unique(y).tolist())
    return found - {ignored}


def _few(values: Sequence[int], count: int) -> str:
    """Return a note if most of the class numbers are not used, "" otherwise."""
    if len(values) >= FEW * count:
        return ""
    some = ", ".join(map(str, values[:NAMED])) + (", ..." if len(values) > NAMED else "")
    return (
        f"Labels use {len(values)} of {count} class numbers ({some}). If {values[-1]} marks"
        f" targets without a label: loss.ignore_index={values[-1]}; else number classes without"
        " gaps."
    )


def absent(y: Tensor, task: Task, count: int) -> Iterator[str]:
    """Yield a note on classes, of `count`, that have no example in the training targets `y`.

    None if they are most of the classes: the note of `prepared` is on those.
    """
    if task.kind != "cross_entropy":
        return
    missing = sorted(set(range(count)) - _labels(y, task.ignored))
    if 0 < len(missing) <= (1 - FEW) * count:
        some = ", ".join(map(str, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        hint = " If labels begin at 1, subtract 1." if missing == [0] else ""
        classes = f"class{'es' if len(missing) > 1 else ''}"
        yield f"The training data have no example of {classes} {some} of {count}.{hint}"
