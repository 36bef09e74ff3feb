"""Loads data: reads them from their source, checks, pools and splits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.config.sections import AnyData, DataUse, OwnDataConfig
from orchestrator.recipe import run_seed
from orchestrator.training.data import cifar10, images, sources, splits, targets
from orchestrator.training.data.parts import Data, DataError, Part, Raw
from orchestrator.training.data.rescale import is_constant
from orchestrator.training.randomness import restoring_randomness, seed_all
from orchestrator.training.task import CLASSIFY, Task

MOST_NAMED = 5  # columns in a message
ENOUGH = 10  # examples, for a note
UNLIKELY = 20.0  # standard deviations, or a factor: not by chance of a split
SAID = {"held_out": "held-out", "test": "test"}


def load(config: AnyData, cache: Path, task: Task = CLASSIFY) -> Data:
    """Load, split and check the data that `config` names; decoded images are cached in `cache`.

    `task`: its loss determines which targets are allowed. Raises DataError, one line, if the data
    are missing, not usable, or fewer than set.
    """
    read, options = _read(config, cache)
    raw, classes = targets.prepared(read, task, options.classes)
    raw = _resized(raw, options.image_size)
    train, held_out = splits.split(raw, options)
    test = splits.some(raw.test, options.test_examples, "test_examples", options.seed)
    mean, std = _statistics(train.x)
    if not task.count(held_out.y):
        raise DataError("no held-out target has a label: set data.held_out_examples higher")
    given = {"test": test} if raw.held_out is None else {"held_out": held_out, "test": test}
    told = (
        *targets.absent(train.y, task, classes),
        *_near_constant(train.x, mean, std),
        *_on_another_scale(mean, std, given),
    )
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
        notes=(*raw.notes, *told),
        frame=raw.frame,
        _test=test,
    )


def _read(config: AnyData, cache: Path) -> tuple[Raw, DataUse]:
    """Return the data of the source, and the settings on how to use them."""
    if isinstance(config, OwnDataConfig):
        called, use = sources.divided(config)
        with restoring_randomness(torch.device("cpu")):  # a user's own split is often random
            seed_all(run_seed(use.seed, 0, "data"))
            return sources.own(called), use
    if config.name == "cifar10":
        return cifar10.load(config, cache), config
    files = {"arrays": sources.arrays, "folder": images.folder, "torchvision": images.named}
    return files[config.name](config) if config.name in files else sources.digits(), config


def _resized(raw: Raw, size: int | None) -> Raw:
    if size is None:
        return raw
    shape = tuple(raw.train.x.shape[1:])
    if len(shape) != 3:
        raise DataError(f"data.image_size={size}: these data are not images, leave it out")
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
    """Mean-pool images to `size` x `size`, in pieces, since floats need four times the memory."""
    channels, height, width = x.shape[1:]
    cells = (-1, channels, size, height // size, size, width // size)
    pieces = (x[start : start + 4096] for start in range(0, len(x), 4096))
    means = (piece.reshape(cells).float().mean((3, 5)) for piece in pieces)
    return torch.cat([m if x.is_floating_point() else m.round().to(x.dtype) for m in means])


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel or feature; the latter is 1 if constant.

    For tokens 0 and 1: they are not normalised.
    """
    if x.dtype == torch.int64:
        return torch.zeros(1), torch.ones(1)
    mean, std = _moments(x)
    return mean.float(), torch.where(is_constant(mean, std, x.dtype), 1.0, std).float()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel or feature in float64."""
    if x.dtype == torch.uint8:  # exact, and without a float copy: by counting 256 values
        value = torch.arange(256, dtype=torch.float64)
        planes = x.transpose(0, 1).flatten(1)
        share = torch.stack([torch.bincount(p, minlength=256).double() / len(p) for p in planes])
        mean = share @ value
        variance = share @ value**2 - mean**2
    else:
        columns = x.transpose(0, 1).flatten(1).double()
        mean, variance = columns.mean(1), columns.var(1, unbiased=False)
    return mean, variance.clamp(min=0).sqrt()


def _near_constant(x: Tensor, mean: Tensor, std: Tensor) -> Iterator[str]:
    """Yield a note on columns that vary so little that they are treated as constant."""
    if x.dtype != torch.float32 or not (taken := (std == 1.0).nonzero()[:, 0].tolist()):
        return
    varying = [i for i in taken if not bool((x[:, i] == x[0, i].flatten()[0]).all())]
    varying = [i for i in varying if bool((x[:, i] - mean[i]).abs().max() <= 1e-5 * mean[i].abs())]
    if varying:
        what = "feature" if x.dim() == 2 else "channel"
        yield (
            f"Inputs hardly vary in {what} {', '.join(map(str, varying[:MOST_NAMED]))}, by no more"
            " than float32 rounding errors, and are treated as constant there: if these"
            " differences matter, subtract the mean in float64."
        )


def _on_another_scale(mean: Tensor, std: Tensor, parts: Mapping[str, Part]) -> Iterator[str]:
    """Yield a note on a part whose inputs were probably prepared in another way."""
    for name, part in parts.items():
        if part.x.dtype == torch.int64 or len(part) < ENOUGH:
            continue
        other_mean, other_std = _moments(part.x)
        distance = float(((other_mean - mean) / std).abs().median())
        ratio = float((other_std / std).median())
        if distance > UNLIKELY or not 1 / UNLIKELY < ratio < UNLIKELY:
            yield (
                f"The {SAID[name]} inputs are on another scale than the training ones: {ratio:.2g}"
                f" times their standard deviation, and {distance:.2g} of these from their mean."
                " Were both prepared in the same way?"
            )


def _sentence(raw: Raw, train: Part, held_out: Part, test: Part, size: int | None) -> str:
    kind = "images" if raw.train.x.dim() == 4 else "examples"
    pooled = f", pooled to {size}x{size}" if size else ""
    others = "others" if raw.held_out is None else f"of {len(raw.held_out):,} given ones"
    return (
        f"{raw.source}, {len(train):,} of {len(raw.train):,} training {kind}{pooled};"
        f" {len(held_out):,} {others} held out; {len(test):,} of {len(raw.test):,} test {kind}."
    )
