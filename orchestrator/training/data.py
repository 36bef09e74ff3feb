"""Data as tensors: stratified splits that only the seed decides, and a sealed test part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config import DataConfig, OwnConfig
from orchestrator.errors import ConfigError


class DataError(ConfigError):
    """The data, or what the config asks of them, cannot be used; one line says why."""


class Part(NamedTuple):
    """Examples: `x` uint8 or float32 of shape (n, ...), `y` int64 of shape (n,)."""

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
    """What a source gives: all its training and test examples, and where they are from."""

    train: Part
    test: Part
    source: str
    mirrored: bool = True  # whether a mirrored image still shows the same thing


@dataclass(frozen=True)
class Data:
    """The data of a study, on the CPU.

    `train`, `held_out`: images (n, channels, height, width) as uint8 or float32, or features
    (n, d) as float32; labels 0..`classes`-1. `held_out` stands in a frozen order of which every
    prefix is as stratified as can be, so its first n examples are the frozen stratified subset of
    n. `mean`, `std`: of the training part, shape (channels,) or (d,). `scale` multiplies the
    normalised inputs. `augment`: training images are shifted at random, and mirrored if `mirrored`.
    `source`: one sentence on where the data are from and how much is used.
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
        """Shape of one example: (channels, height, width) or (d,)."""
        return tuple(self.train.x.shape[1:])

    def open_test(self) -> Part:
        """Return the sealed test data: only for a run with `opens_test`."""
        return self._test

    @property
    def test_examples(self) -> int:
        """How many sealed test examples there are; their number tells nothing."""
        return len(self._test)

    def test_hash(self) -> str:
        """Return the content hash of the sealed test data: only for keys of runs that open it."""
        return self._test.digest()


def load(config: DataConfig | OwnConfig, cache: Path) -> Data:
    """Load, split and check the data that `config` names; decoded images are kept under `cache`.

    Raises DataError, one line, when the data are not there, not usable, or fewer than asked for.
    """
    raw = _read(config, cache)
    options = config if isinstance(config, DataConfig) else DataConfig(name="arrays")
    classes = _classes(raw)
    raw = _resized(raw, options.image_size)
    train, held_out = _split(raw.train, options)
    test = raw.test.take(_first(options.test_examples, raw.test, "test_examples", options.seed))
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
    from orchestrator.training import cifar10, sources

    if isinstance(config, OwnConfig):
        return sources.own(config)
    if config.name == "cifar10":
        return cifar10.load(config, cache)
    return sources.arrays(config) if config.name == "arrays" else sources.digits()


def stratified_order(y: Tensor, seed: int) -> NDArray[np.int64]:
    """Return a random order of which every prefix holds each class in its share, within one.

    The i-th of the n examples of a class (shuffled) goes to the place (i + 1/2) / n of the whole;
    ties between classes are broken at random.
    """
    rng = np.random.default_rng(seed)
    labels = y.numpy()
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(labels)), place))


def _split(pool: Part, options: DataConfig) -> tuple[Part, Part]:
    """Return training and held-out part: the last and the first of one stratified order.

    From both ends, so that another size of one part neither moves the other nor reshuffles.
    """
    total, wanted, held = len(pool), options.train_examples, options.held_out_examples
    if held is None:  # a sixth of the data used
        held = max(1, round((wanted / 5) if wanted else (total / 6)))
        held = min(held, max(1, total - (wanted or 1)))
    if held >= total:
        raise DataError(f"data.held_out_examples={held}: choose 1 to {total - 1}, of {total:,}")
    count = total - held if wanted is None else wanted
    if count > total - held:
        raise DataError(
            f"data.train_examples={count}: choose 1 to {total - held:,}"
            f" ({total:,} are there, {held:,} of them held out)"
        )
    order = stratified_order(pool.y, options.seed)
    return pool.take(order[total - count :]), pool.take(order[:held])


def _first(wanted: int | None, part: Part, key: str, seed: int) -> NDArray[np.int64]:
    if wanted is not None and wanted > len(part):
        raise DataError(f"data.{key}={wanted}: choose 1 to {len(part):,}, there are no more")
    return stratified_order(part.y, seed)[:wanted]


def _classes(raw: Raw) -> int:
    """Return the class count. Raises DataError unless the training labels are 0..C-1, C > 1."""
    present = torch.unique(raw.train.y).tolist()
    if present != list(range(len(present))):
        raise DataError(
            f"training labels must be 0..C-1 with every class present,"
            f" got {len(present)} labels from {present[0]} to {present[-1]}"
        )
    if len(present) == 1:
        raise DataError("training data of one class: there is nothing to learn, need 2 or more")
    low, high = int(raw.test.y.min()), int(raw.test.y.max())
    if low < 0 or high >= len(present):
        raise DataError(f"test labels must be 0..{len(present) - 1}, got {low} to {high}")
    return len(present)


def _resized(raw: Raw, size: int | None) -> Raw:
    if size is None:
        return raw
    shape = tuple(raw.train.x.shape[1:])
    if len(shape) != 3:
        raise DataError(f"data.image_size={size}: these data are no images, leave it out")
    allowed = [s for s in range(4, min(shape[1:]) + 1) if shape[1] % s == 0 == shape[2] % s]
    if size not in allowed:
        raise DataError(
            f"data.image_size={size}: images of {shape[1]}x{shape[2]} can be mean-pooled to"
            f" {', '.join(map(str, allowed)) or 'no other size'}"
        )
    train, test = (Part(_pool(part.x, size), part.y) for part in (raw.train, raw.test))
    return raw._replace(train=train, test=test)


def _pool(x: Tensor, size: int) -> Tensor:
    """Mean-pool images to `size` x `size`, in pieces, since floats take four times the room."""
    channels, height, width = x.shape[1:]
    cells = (-1, channels, size, height // size, size, width // size)
    pieces = (x[start : start + 4096] for start in range(0, len(x), 4096))
    means = (piece.reshape(cells).float().mean((3, 5)) for piece in pieces)
    return torch.cat([m if x.is_floating_point() else m.round().to(x.dtype) for m in means])


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel (or feature), 1 where it is constant."""
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
    return (
        f"{raw.source}, {len(train):,} of {len(raw.train):,} training {kind}{pooled};"
        f" {len(held_out):,} others held out; {len(test):,} of {len(raw.test):,} test {kind}."
    )
