"""The data types: `Part` (examples), `Raw` (from a source), `Data` (of a study, with test data)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.training.data.rescale import Frame


class DataError(ConfigError):
    """The data, or their settings, cannot be used; one line with the reason."""


class Part(NamedTuple):
    """Examples: `x` (n, ...) of uint8, float32 or int64 (tokens); `y` (n, ...), int64 or float32.

    Classes are whole numbers of shape (n,).
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:  # of examples, not of the tuple
        return len(self.y)

    def take(self, index: NDArray[np.int64]) -> Part:
        """Return the examples at `index`, in that order."""
        at = torch.from_numpy(index)
        return Part(self.x[at], self.y[at])

    def digest(self) -> str:
        """Return the sha256 of shapes, types and contents."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class Raw(NamedTuple):
    """The data of a source: all its training and test examples.

    `source`: where they are from. `held_out`: None if it is to be split off the training examples.
    `groups`: shape (n,), equal for training examples of one group (a patient, a speaker), which a
    split keeps together. `notes`: notes for the report on assumptions. `frame`: scale of the
    inputs, if float32 cannot represent them without one.
    """

    train: Part
    test: Part
    source: str
    mirrored: bool = True  # whether a mirrored image has the same label
    held_out: Part | None = None
    groups: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    frame: Frame | None = None


@dataclass(frozen=True)
class Data:
    """The data of a study, on the CPU.

    `train`, `held_out`: images (n, channels, height, width) and volumes (n, channels, depth,
    height, width) as uint8 or float32, signals (n, channels, length) or features (n, d) as float32,
    or tokens (n, length) as int64; labels 0..`classes`-1, or targets of `classes` values. Tokens
    are not normalised. `held_out` has a fixed order in which every prefix is stratified, so its
    first n examples are the stratified subset of size n. `mean`, `std`: of the training part, shape
    (channels,) or (d,). `scale` multiplies the normalised inputs. `augment`: training images are
    shifted at random, and mirrored if `mirrored`. `source`: one sentence on the source and how much
    is used; `notes`: more notes. `frame`: scale of the inputs; `source_mean` and `source_std` are
    in the source's own numbers.
    """

    train: Part
    held_out: Part
    classes: int
    mean: Tensor
    std: Tensor
    source: str
    train_hash: str
    held_out_hash: str
    scale: float = 1.0
    augment: bool = False
    mirrored: bool = True
    notes: tuple[str, ...] = ()
    frame: Frame | None = None
    _test: Part = field(kw_only=True, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, as (channels, height, width), (channels, length) or (d,)."""
        return tuple(self.train.x.shape[1:])

    @property
    def tokens(self) -> bool:
        """Whether inputs are tokens: whole numbers that are not normalised."""
        return self.train.x.dtype == torch.int64

    @property
    def source_type(self) -> torch.dtype:
        """The type of inputs of the exported network: float32, unless they need float64."""
        if self.tokens:
            return torch.int64
        return torch.float32 if self.frame is None else torch.float64

    @property
    def source_mean(self) -> Tensor:
        """Mean of each column in the source's own numbers."""
        if self.frame is None:
            return self.mean
        return self.frame.centre + self.frame.unit * self.mean.double()

    @property
    def source_std(self) -> Tensor:
        """Standard deviation of each column in the source's own numbers."""
        return self.std if self.frame is None else self.frame.unit * self.std.double()

    def sample(self, count: int = 2) -> Part:
        """Return a copy of the first training examples in the network's layout, not normalised."""
        x, y = (t[:count].clone() for t in self.train)
        return Part(x if self.tokens else x.float(), y)

    def extreme_tokens(self) -> Tensor:
        """Return copies of two inputs: with the smallest and the largest token of all parts."""
        found = []
        for largest in (False, True):
            rows = [(row if largest else -row).flatten(1).amax(1) for row in self._inputs()]
            part = max(range(len(rows)), key=lambda i: int(rows[i].max()))
            found.append(self._inputs()[part][int(rows[part].argmax())])
        return torch.stack(found)

    def _inputs(self) -> list[Tensor]:
        return [part.x for part in (self.train, self.held_out, self._test)]

    def open_test(self) -> Part:
        """Return the sealed test data: only for a run with `opens_test`."""
        return self._test

    @property
    def test_examples(self) -> int:
        """The number of sealed test examples, which is no information on their content."""
        return len(self._test)

    @property
    def border(self) -> int:
        """The largest shift of training images in pixels, 0 without shifts."""
        shifted = self.augment and len(self.input_shape) == 3
        return max(1, self.input_shape[1] // 8) if shifted else 0

    @property
    def bytes_in_use(self) -> int:
        """The bytes of all examples on a device, with the sealed ones.

        Images that are shifted have a border there, about 5/4 as high and wide.
        """
        parts = (self.train, self.held_out, self._test)
        whole = sum(tensor.nbytes for part in parts for tensor in part)
        return whole + (self.train.x.nbytes * 9 // 16 if self.border else 0)

    def test_hash(self) -> str:
        """Return the content hash of the sealed test data: only for keys of runs that open it."""
        return self._test.digest()
