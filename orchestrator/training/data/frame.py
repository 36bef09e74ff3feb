"""Numbers that float32 cannot hold as they are: far from 0, tiny or huge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FAR = 1e4  # mean over standard deviation: beyond it float32 loses more than .0006 of the latter
RANGE = (1e-30, 1e30)  # standard deviations that float32 takes without a unit
EXACT = 2**24  # whole numbers up to it are float32's
ROUNDINGS = 8  # of a column's mean: what varies by less than so many is taken to be constant


class Frame(NamedTuple):
    """Where the float32 numbers x of a column stand among the source's: centre + unit * x.

    float64 of shape (columns,): of features one each, of signals and images one a channel.
    """

    centre: Tensor
    unit: Tensor

    def narrowed(self, x: Tensor) -> Tensor:
        """Return numbers (n, columns, ...) of the source as float32."""
        centre, unit = (of_columns(values, x.dim()) for values in self)
        return ((x.double() - centre) / unit).float()


def of_columns(values: Tensor, dims: int) -> Tensor:
    """Return (columns,) so that it broadcasts with examples (n, columns, ...) of `dims` in all."""
    return values.view(-1, *(1,) * (dims - 2))


def framed(x: Tensor) -> Frame | None:
    """Return the frame in which float32 keeps what `x` (n, columns, ...) says.

    None where it does as they are.
    """
    if not x.numel() or (not x.is_floating_point() and (x.element_size() < 4 or _exact(x))):
        return None
    dims = (0, *range(2, x.dim()))
    size = x.abs().amax(dims).double()  # measured by it, squares neither overflow nor vanish
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
    """Whether columns vary by no more than the rounding of numbers of this type, shape (columns,).

    Measured against their means, so that a unit (volts, mol/l) plays no part.
    """
    rounding = torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps
    return std <= ROUNDINGS * rounding * mean.abs()
