"""Converts arrays, data frames, sparse matrices and text labels to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.training.data.datasets import several
from orchestrator.training.data.parts import DataError

MOST_DENSE = 2**28  # the largest dense size of a sparse matrix
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # types with few operations in torch
NAMED = 10  # text labels, or columns, that a message lists


def tensor(value: Any, name: str) -> Tensor:
    """Return a tensor on the CPU, in the source's own type. Raises DataError, one line."""
    if isinstance(value, Mapping):
        raise DataError(f"{name}: must be one array, got {several(value)}")
    if isinstance(value, Tensor):
        if value.is_nested:
            raise DataError(
                f"{name}: its examples differ in length: use torch.nested.to_padded_tensor(x, 0.0)"
            )
        sparse = value.layout != torch.strided
        dense = (_dense(value, value.to_dense, name) if sparse else value).detach().cpu()
        dense = dense.dequantize() if dense.is_quantized else dense
        return dense.long() if dense.dtype in UNSIGNED else dense
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(f"{name}: has masked values: fill them in, or remove their examples")
    if hasattr(value, "toarray"):  # of SciPy
        value = _dense(value, value.toarray, name)
    try:
        return torch.from_numpy(_native(np.array(value)))  # a copy, as the array may be read-only
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: not an array of numbers: {_problem(value, error)}") from error


def _dense(value: Any, densely: Any, name: str) -> Any:
    if (count := int(np.prod(value.shape, dtype=float))) > MOST_DENSE:
        raise DataError(
            f"{name}: sparse, and too large as a dense array ({count:,} numbers): choose fewer"
            " columns, or reduce them (sklearn.decomposition.TruncatedSVD)"
        )
    return densely()


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in a type that torch supports, in this machine's byte order."""
    if array.dtype.kind == "O":  # for example numbers of mixed types in a data frame
        array = array.astype(np.float64)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _problem(value: Any, error: Exception) -> str:
    """Return what is wrong with a value that is not an array of numbers, and what to do."""
    if hasattr(value, "dtypes") and hasattr(value, "columns"):  # a data frame
        columns = [str(c) for c in value.columns if not _numeric(np.asarray(value[c]))]
        if columns:
            some = ", ".join(columns[:NAMED])
            return f"columns {some} are not numbers: encode them, or remove them"
    if isinstance(value, list | tuple) and len(shapes := _shapes(value)) > 1:
        return f"its examples have shapes {' and '.join(shapes[:2])}: pad or cut them to one"
    found = np.asarray(value)
    if _is_text(found):
        return "it holds texts: give numbers, for example tokens (n, length)"
    if found.dtype.kind == "O" and any(isinstance(v, str) for v in found.ravel()):
        other = next(v for v in found.ravel() if not isinstance(v, str))
        return f"it holds texts and {other!r}: is that a missing value? Leave its example out"
    kind = getattr(value, "dtype", None)
    if isinstance(kind, np.dtype) and kind.kind == "M":
        return f"it has dates ({kind}): give numbers, as .astype('datetime64[s]').astype(float)"
    return " ".join(str(error).split())[:200]


def _numeric(column: NDArray[Any]) -> bool:
    return column.dtype.kind in "biuf"


def _shapes(values: Any) -> list[str]:
    return list(dict.fromkeys(str(tuple(np.shape(value))) for value in values))


def coded(labels: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return text labels as indices into all sorted texts, and a note on that.

    Other labels are not changed. `labels`: of each part, by name.
    """
    arrays = {name: None if isinstance(v, Tensor) else np.asarray(v) for name, v in labels.items()}
    texts = [a for a in arrays.values() if a is not None and _is_text(a)]
    if not texts or len(texts) < len(arrays):
        return dict(labels), []
    known = np.unique(np.concatenate([a.astype(str).ravel() for a in texts]))
    places = {n: np.searchsorted(known, np.asarray(v).astype(str)) for n, v in labels.items()}
    told = ", ".join(f"{i} is {text}" for i, text in enumerate(known[:NAMED]))
    more = ", ..." if len(known) > NAMED else ""
    return places, [f"Labels are texts: {told}{more}."]


def _is_text(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return array.size > 0 and all(isinstance(value, str) for value in array.ravel())
    return array.dtype.kind in "US"
