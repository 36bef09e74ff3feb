"""Targets as the loss wants them, checked, and how many scores they ask for."""

from __future__ import annotations

from itertools import filterfalse, islice
from math import prod

import torch

from orchestrator.training.data.parts import DataError, Part, Raw
from orchestrator.training.task import LABELS, NUMBERS

NAMED = 5  # absent classes


def prepared(raw: Raw, kind: str) -> tuple[Raw, int]:
    """Return the data with targets for a loss of this kind, and the number of scores per target.

    cross_entropy: the number of classes. Others: the values of one example's target; for a loss of
    the user's own with whole numbers, the largest plus one. Raises DataError, one line.
    """
    parts = [p for p in (raw.train, raw.held_out, raw.test) if p is not None]
    shapes = {tuple(p.y.shape[1:]) for p in parts}
    if len(shapes) > 1:
        raise DataError(f"targets differ in shape: {' and '.join(map(str, sorted(shapes)))}")
    floats = raw.train.y.is_floating_point()
    if kind == "cross_entropy":
        if floats or any(p.y.is_floating_point() for p in parts):
            raise DataError(
                f"y_train: loss cross_entropy needs whole-number labels, got {raw.train.y.dtype} of"
                f" shape {tuple(raw.train.y.shape)}; for regression choose loss=mse, for labels"
                " that are 0 or 1 loss=bce_with_logits"
            )
        return raw, _classes(raw) if raw.train.y.dim() == 1 else _vocabulary(parts)
    if kind in (*NUMBERS, LABELS):
        raw = _with_floats(raw)
        if kind == LABELS and not all(bool(((p.y >= 0) & (p.y <= 1)).all()) for p in parts):
            raise DataError("y_train: loss bce_with_logits needs labels from 0 to 1")
        return raw, prod(raw.train.y.shape[1:])
    if floats or min(int(p.y.min()) for p in parts) < 0:
        return raw, prod(raw.train.y.shape[1:])
    return raw, max(int(p.y.max()) for p in parts) + 1


def _with_floats(raw: Raw) -> Raw:
    train, test, held_out = (
        part and Part(part.x, part.y.float()) for part in (raw.train, raw.test, raw.held_out)
    )
    assert train is not None
    assert test is not None
    return raw._replace(train=train, test=test, held_out=held_out)


def _vocabulary(parts: list[Part]) -> int:
    """Return the class count of targets (n, ...), of which not every class need be present."""
    low, high = min(int(p.y.min()) for p in parts), max(int(p.y.max()) for p in parts)
    if low < 0 or high < 1:
        raise DataError(
            f"targets must be whole numbers from 0 on, two or more, got {low} to {high}"
        )
    return high + 1


def _classes(raw: Raw) -> int:
    """Return the class count. Raises DataError unless the training labels are 0..C-1, C > 1."""
    present = torch.unique(raw.train.y).tolist()
    if present != list(range(len(present))):
        absent = filterfalse(set(present).__contains__, range(present[-1]))
        named = list(map(str, islice(absent, NAMED)))
        rest = ", ..." if next(absent, None) is not None else ""
        missing = f", without {', '.join(named)}{rest}" if named else ""
        from_one = present == list(range(1, len(present) + 1))
        raise DataError(
            f"training labels must be 0..C-1 with every class present,"
            f" got {len(present)} labels from {present[0]} to {present[-1]}"
            + (": subtract 1" if from_one else missing)
        )
    if len(present) == 1:
        raise DataError("training data of one class: there is nothing to learn, need 2 or more")
    for name, part in (("test", raw.test), ("held-out", raw.held_out)):
        if part is None:
            continue
        low, high = int(part.y.min()), int(part.y.max())
        if low < 0 or high >= len(present):
            raise DataError(f"{name} labels must be 0..{len(present) - 1}, got {low} to {high}")
    return len(present)
