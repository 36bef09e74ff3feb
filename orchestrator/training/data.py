"""Data as tensors: what a source gives, what a study has of it, and a sealed test part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.options import OwnConfig
from orchestrator.sections import DataConfig


class DataError(ConfigError):
    """The data, or what the config asks of them, cannot be used; one line says why."""


class Part(NamedTuple):
    """Examples: `x` (n, ...) of uint8 or float32, or int64 tokens; `y` (n, ...), int64 or float32.

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
    """What a source gives: all its training and test examples, and where they are from.

    `held_out`: None where it is to be split off the training examples. `groups`: shape (n,), equal
    for training examples of one group (a patient, a speaker), which a split keeps together.
    """

    train: Part
    test: Part
    source: str
    mirrored: bool = True  # whether a mirrored image still shows the same thing
    held_out: Part | None = None
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Data:
    """The data of a study, on the CPU.

    `train`, `held_out`: images (n, channels, height, width) as uint8 or float32, signals (n,
    channels, length) or features (n, d) as float32, or tokens (n, length) as int64; labels
    0..`classes`-1, or targets of `classes` values. Tokens are not normalised. `held_out` stands in
    a frozen order of which every prefix is as stratified as can be, so its first n examples are the
    frozen stratified subset of n. `mean`, `std`: of the training part, shape (channels,) or (d,).
    `scale` multiplies the normalised inputs. `augment`: training images are shifted at random, and
    mirrored if `mirrored`. `source`: one sentence on where the data are from and how much is used.
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
    _test: Part = field(kw_only=True, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (channels, height, width), (channels, length) or (d,)."""
        return tuple(self.train.x.shape[1:])

    @property
    def tokens(self) -> bool:
        """Whether inputs are whole numbers that the network gets as they are."""
        return self.train.x.dtype == torch.int64

    def sample(self, count: int = 2) -> Part:
        """Return the first training examples, not normalised, as the network takes them."""
        x, y = (t[:count] for t in self.train)
        return Part(x if self.tokens else x.float(), y)

    def open_test(self) -> Part:
        """Return the sealed test data: only for a run with `opens_test`."""
        return self._test

    @property
    def test_examples(self) -> int:
        """How many sealed test examples there are; their number tells nothing."""
        return len(self._test)

    @property
    def border(self) -> int:
        """By how many pixels training images are shifted at most, 0 where they are not."""
        shifted = self.augment and len(self.input_shape) == 3
        return max(1, self.input_shape[1] // 8) if shifted else 0

    @property
    def bytes_in_use(self) -> int:
        """How many bytes all the examples take on a device, the sealed ones too.

        Images that are shifted lie there with a border, about 5/4 as high and wide.
        """
        parts = (self.train, self.held_out, self._test)
        whole = sum(tensor.nbytes for part in parts for tensor in part)
        return whole + (self.train.x.nbytes * 9 // 16 if self.border else 0)

    def test_hash(self) -> str:
        """Return the content hash of the sealed test data: only for keys of runs that open it."""
        return self._test.digest()


def load(config: DataConfig | OwnConfig, cache: Path, loss: str = "cross_entropy") -> Data:
    """Load, split and check the data that `config` names; decoded images are kept under `cache`.

    `loss`: its name, or "own", decides what targets may be. Raises DataError, one line, when the
    data are not there, not usable, or fewer than asked for.
    """
    from orchestrator.training import splits, targets

    options = config if isinstance(config, DataConfig) else DataConfig(name="arrays")
    raw, classes = targets.prepared(_read(config, cache), loss)
    raw = _resized(raw, options.image_size)
    train, held_out = splits.split(raw, options)
    test = splits.some(raw.test, options.test_examples, "test_examples", options.seed)
    mean, std = _statistics(train.x)
    return Data(
        train=train,
        held_out=held_out,
        classes=classes,
        mean=mean,
        std=std,
        source=_sentence(raw, train, held_out, test, options.image_size),
        train_hash=train.digest(),
        held_out_hash=held_out.digest(),
        scale=options.scale,
        augment=options.augment,
        mirrored=raw.mirrored,
        _test=test,
    )


def _read(config: DataConfig | OwnConfig, cache: Path) -> Raw:
    from orchestrator.training import cifar10, pictures, sources

    if isinstance(config, OwnConfig):
        return sources.own(config)
    if config.name == "cifar10":
        return cifar10.load(config, cache)
    files = {"arrays": sources.arrays, "folder": pictures.folder, "torchvision": pictures.named}
    return files[config.name](config) if config.name in files else sources.digits()


def _resized(raw: Raw, size: int | None) -> Raw:
    if size is None:
        return raw
    shape = tuple(raw.train.x.shape[1:])
    if len(shape) != 3:
        raise DataError(f"data.image_size={size}: these data are no images, leave it out")
    allowed = [s for s in range(4, min(shape[1:]) + 1) if shape[1] % s == 0 == shape[2] % s]
    if size == shape[1] == shape[2]:
        return raw
    if size not in allowed:
        raise DataError(
            f"data.image_size={size}: images of {shape[1]}x{shape[2]} can be mean-pooled to"
            f" {', '.join(map(str, allowed)) or 'no other size'}"
        )
    train, test = (Part(_pool(part.x, size), part.y) for part in (raw.train, raw.test))
    held_out = raw.held_out and Part(_pool(raw.held_out.x, size), raw.held_out.y)
    return raw._replace(train=train, test=test, held_out=held_out)


def _pool(x: Tensor, size: int) -> Tensor:
    """Mean-pool images to `size` x `size`, in pieces, since floats take four times the room."""
    channels, height, width = x.shape[1:]
    cells = (-1, channels, size, height // size, size, width // size)
    pieces = (x[start : start + 4096] for start in range(0, len(x), 4096))
    means = (piece.reshape(cells).float().mean((3, 5)) for piece in pieces)
    return torch.cat([m if x.is_floating_point() else m.round().to(x.dtype) for m in means])


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel (or feature), 1 where it is constant.

    Of tokens 0 and 1: they are no amounts.
    """
    if x.dtype == torch.int64:
        return torch.zeros(1), torch.ones(1)
    if x.dtype == torch.uint8:  # exact, and without a float copy: 256 values, counted
        value = torch.arange(256, dtype=torch.float64)
        planes = x.transpose(0, 1).flatten(1)
        share = torch.stack([torch.bincount(p, minlength=256).double() / len(p) for p in planes])
        mean = share @ value
        variance = share @ value**2 - mean**2
    else:
        columns = x.transpose(0, 1).flatten(1).double()
        mean, variance = columns.mean(1), columns.var(1, unbiased=False)
    std = variance.clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()


def _sentence(raw: Raw, train: Part, held_out: Part, test: Part, size: int | None) -> str:
    kind = "images" if raw.train.x.dim() == 4 else "examples"
    pooled = f", pooled to {size}x{size}" if size else ""
    others = "others" if raw.held_out is None else f"of {len(raw.held_out):,} given ones"
    return (
        f"{raw.source}, {len(train):,} of {len(raw.train):,} training {kind}{pooled};"
        f" {len(held_out):,} {others} held out; {len(test):,} of {len(raw.test):,} test {kind}."
    )
