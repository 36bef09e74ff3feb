"""Reads torch Datasets, or lists of pairs, into inputs and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from orchestrator.config.user_code import raised
from orchestrator.training.data.parts import DataError


def columns(dataset: Any, name: str, source: str) -> tuple[Any, Any]:
    """Return inputs and targets, stacked, of a Dataset of pairs, or of a list of them.

    A pair of arrays is returned as it is. Raises DataError, one line with the value and what is
    needed.
    """
    where = f"data {source}: {name}"
    if isinstance(dataset, tuple | list) and len(dataset) == 2 and all(map(_is_array, dataset)):
        return dataset[0], dataset[1]
    if isinstance(dataset, DataLoader):
        plain = isinstance(dataset.sampler, SequentialSampler | RandomSampler)
        what = "its .dataset" if plain else "Subset(loader.dataset, list(loader.sampler))"
        raise DataError(f"{where} is a DataLoader: return {what}")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise DataError(f"{where} is a stream ({kind}), which has no length: return list() of it")
    inputs, targets = [], []
    for i in range(len(dataset)):
        try:
            row = dataset[i]
        except (Exception, SystemExit) as error:  # any error of the user's own class
            raise DataError(f"{where}[{i}] raised {raised(error)}") from error
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise DataError(
                f"{where}: rows must be (input, target), got {described(row)}{cure(row)}"
            )
        inputs.append(row[0])
        targets.append(row[1])
    return _stacked(inputs, "inputs", where), _stacked(targets, "targets", where)


def _stacked(values: list[Any], what: str, where: str) -> Any:
    """Return the values as one array; texts are allowed, since they may be labels."""
    if not values:
        raise DataError(f"{where}: there are no rows")
    if isinstance(values[0], dict | tuple) or values[0] is None:
        raise DataError(f"{where}: {what} must be arrays or tensors, got {several(values[0])}")
    try:
        arrays = [np.asarray(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {what} are not arrays ({error})") from error
    shapes = {array.shape: i for i, array in reversed(list(enumerate(arrays)))}
    if len(shapes) > 1:
        (a, i), (b, j) = sorted(shapes.items(), key=lambda item: item[1])[:2]
        raise DataError(
            f"{where}: {what} differ in shape, {a} in row {i} and {b} in row {j}: pad or cut them"
            " to one"
        )
    return np.stack(arrays)


def _is_array(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0  # of NumPy, torch, pandas or SciPy


def several(value: Any) -> str:
    """Describe a value that is not an array, and say what to do for several inputs."""
    if type(value).__name__ == "PackedSequence":
        return "a PackedSequence: pad sequences to one length, and pack them in the model's forward"
    if value is None:
        return "None"
    return (
        f"{described(value)}: return one array, which the model or your own loss splits, or write"
        " your own objective (docs/own.md); lr_range_test takes several inputs"
    )


def cure(row: Any) -> str:
    """Return how to make a pair of a row or a batch, "" if that is not known."""
    if isinstance(row, dict) and len(row) == 2:
        first, second = row
        return f": return (row[{first!r}], row[{second!r}])"
    if isinstance(row, tuple | list) and len(row) > 2:
        return ": return two of them"
    return ""


def described(value: Any) -> str:
    """Return a description of a value that is not a row."""
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values ({', '.join(type(v).__name__ for v in value)})"
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"{type(value).__name__}{shape}"
