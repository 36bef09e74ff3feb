"""Rescales numbers that float32 cannot represent well: far from 0, tiny or huge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FAR = 1e4  # mean / standard deviation: above it float32 loses more than .0006 of the latter
RANGE = (1e-30, 1e30)  # standard deviations that float32 can represent
EXACT = 2**24  # whole numbers up to it are exact in float32
ROUNDINGS = 8  # rounding errors of a column's mean: a column that varies by less is constant


class Frame(NamedTuple):
    """The scale of a column's float32 numbers x: the source's numbers are centre + unit * x.

    float64 of shape (columns,): one per feature, or one per channel of signals and images.
    """

    centre: Tensor
    unit: Tensor

    def narrowed(self, x: Tensor) -> Tensor:
        """Return the source's numbers (n, columns, ...) as rescaled float32."""
        centre, unit = (of_columns(values, x.dim()) for values in self)
        return ((x.double() - centre) / unit).float()


def of_columns(values: Tensor, dims: int) -> Tensor:
    """Return values (columns,) in a shape that broadcasts with examples of `dims` dimensions."""
    return values.view(-1, *(1,) * (dims - 2))


def framed(x: Tensor) -> Frame | None:
    """Return the frame in which float32 can represent `x` (n, columns, ...).

    None if float32 can without one.
    """
    if not x.numel() or (not x.is_floating_point() and (x.element_size() < 4 or _exact(x))):
        return None
    dims = (0, *range(2, x.dim()))
    size = x.abs().amax(dims).double()  # the unit, so that squares neither overflow nor vanish
    wide = x.dtype == torch.float64 or not x.is_floating_point()
    if not wide and bool(((size == 0) | ((size > RANGE[0]) & (size < RANGE[1]))).all()):
        return None
    values = x.double() / of_columns(torch.where(size > 0, size, 1.0), x.dim())
    mean, std = values.mean(dims), values.std(dims, correction=0)
    far, out = mean.abs() > FAR * std, (std * size < RANGE[0]) | (std * size > RANGE[1])
    lost = (far & wide | out) & ~is_constant(mean, std, x.dtype)
    if not lost.any():
        return None
    return Frame(torch.where(lost, mean * size, 0.0), torch.where(lost, std * size, 1.0))


def _exact(x: Tensor) -> bool:
    return int(x.abs().max()) <= EXACT


def is_constant(mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether columns vary by no more than rounding errors of this type, shape (columns,).

    Relative to their means, so that it does not depend on the unit.
    """
    rounding = torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps
    return std <= ROUNDINGS * rounding * mean.abs()
