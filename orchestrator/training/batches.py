"""Batches on the device: examples are gathered, cropped, flipped and normalised in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.recipe import run_seed
from orchestrator.training.data.parts import Data, Part
from orchestrator.training.device import send

# Floats gathered at once: few calls per step. On a CPU small enough to stay in the cache, on a GPU
# so large that waiting for a chunk's indices is rare.
CHUNK_BYTES = {"cpu": 4 * 2**20, "cuda": 128 * 2**20}


class Chunk(NamedTuple):
    """The training examples of `steps` steps, in their order, gathered at once.

    `seed`: of their crops. `skip`: how many of the steps were made before the run was resumed.
    """

    examples: Tensor
    seed: int
    steps: int
    skip: int


class Inputs:
    """The data on the device, uint8 where the source is, and how to normalise them.

    Images are channels last, the fastest layout for convolutions (1.3-2.2 times on a CPU). With
    augmentation the training images have a reflected border of an eighth of their height.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        self.images = len(data.input_shape) == 3
        self.device = device
        self.channels_last = self.images
        self.border = data.border
        self.augment = self.border > 0
        self.mirrored = data.mirrored
        self.size = data.input_shape[-2:]
        sides = [n + 2 * self.border for n in self.size] if self.images else self.size
        self.values = math.prod((*data.input_shape[:-2], *sides))  # of an example with its border
        # Images are (n, h, w, c) in memory, so that statistics broadcast over the last dimension.
        after = 0 if self.images or data.tokens else len(data.input_shape) - 1
        shape = (-1, *(1,) * after)  # of signals (-1, 1), of volumes (-1, 1, 1, 1)
        self._mean = data.mean.reshape(shape).to(device)
        self._factor = (data.scale / data.std).reshape(shape).to(device)
        self.train = self._placed_for_training(data.train)
        self.held_out = self.placed(data.held_out)

    def placed(self, part: Part) -> Part:
        """Return the examples where they are kept during use: on the device."""
        return self.on_device(part)

    def _placed_for_training(self, part: Part) -> Part:
        return self.on_device(part, for_training=True)

    def close(self) -> None:
        """End background threads; they start again when needed."""

    def bytes_ahead(self, batch_size: int) -> int:
        """Return the bytes of prefetched examples."""
        return 0

    def on_device(self, part: Part, for_training: bool = False) -> Part:
        """Return the examples on the device, images (n, c, h, w) as (n, h, w, c).

        With `for_training` and augmentation, images have the border for crops.
        """
        x, y = self.sent(part)
        if self.augment and for_training:
            x = _bordered(x, self.border)
        return Part(x.permute(0, 2, 3, 1).contiguous() if self.images else x, y)

    def sent(self, part: Part) -> Part:
        """Return the examples on the device as they are."""
        return Part(part.x.to(self.device), part.y.to(self.device))

    def normalised(self, x: Tensor) -> Tensor:
        """Return normalised floats, images as (n, c, h, w), of examples from `on_device`."""
        if x.dtype == torch.int64:  # tokens, and a copy: a network may change its inputs
            return x.clone()
        x = (x.float() - self._mean).mul_(self._factor)
        if self.images:
            x = x.permute(0, 3, 1, 2)
        return x if self.channels_last else x.contiguous()

    def pieces(self, part: Part, count: int) -> Iterator[Part]:
        """Yield a part from `placed` in about `count` pieces, each on the device."""
        yield from map(Part, part.x.chunk(count), part.y.chunk(count))

    def gathered(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
        """Yield each chunk with its normalised inputs and labels."""
        generator = torch.Generator()
        for chunk in chunks:
            generator.manual_seed(chunk.seed)
            yield chunk, *self.gather(self.train, chunk.examples, generator)

    def gather(
        self, part: Part, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return normalised inputs and labels of the training examples at `index` of `part`."""
        x, y = part
        picked = self._crops(x, index, generator) if self.augment else x.index_select(0, index)
        return self.normalised(picked), y.index_select(0, index)

    def _crops(self, x: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random window of each image, mirrored or not."""
        n, (height, width) = len(index), self.size
        # Drawn on the CPU, so that every device sees the same crops.
        tops_lefts = torch.randint(2 * self.border + 1, (2, n), generator=generator)
        top, left = send(tops_lefts, self.device)
        mirror = send(torch.rand(n, generator=generator) < self.mirrored / 2, self.device)
        windows = x.unfold(1, height, 1).unfold(2, width, 1)  # (n, tops, lefts, c, h, w), a view
        picked = windows[index, top, left]
        picked = torch.where(mirror[:, None, None, None], picked.flip(3), picked)
        return picked.permute(0, 2, 3, 1)


def _bordered(x: Tensor, border: int) -> Tensor:
    """Return images with a reflected border; uint8 via float, in pieces to save memory."""
    pieces = (x[start : start + 4096] for start in range(0, len(x), 4096))
    return torch.cat([F.pad(p.float(), (border,) * 4, mode="reflect").to(x.dtype) for p in pieces])


def batches(
    inputs: Inputs, batch_size: int, seed: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of steps `first`, `first` + 1, ... without end, epoch after epoch.

    Each batch is a pure function of `seed` and its step: an epoch's order depends on (seed, epoch),
    crops on (seed, first step of the chunk). An incomplete last batch is dropped.
    """
    return chain.from_iterable(gathered(inputs, batch_size, seed, first))


def gathered(
    inputs: Inputs, batch_size: int, seed: int, first: int = 0
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the same batches in lists, one list per chunk."""
    for chunk, x, y in inputs.gathered(_chunks(inputs, batch_size, seed, first)):
        parts = zip(x.chunk(chunk.steps), y.chunk(chunk.steps), strict=True)
        yield list(parts)[chunk.skip :]


def chunk_steps(inputs: Inputs, batch_size: int) -> int:
    """Return the number of steps in a chunk."""
    floats = 4 * batch_size * inputs.values
    most = max(1, CHUNK_BYTES.get(inputs.device.type, 2**24) // floats)
    return min(len(inputs.train) // batch_size, most)


def _chunks(inputs: Inputs, batch_size: int, seed: int, first: int) -> Iterator[Chunk]:
    count = len(inputs.train)
    per_epoch, per_chunk = count // batch_size, chunk_steps(inputs, batch_size)
    epoch, at = divmod(first, per_epoch)
    generator = torch.Generator()
    while True:
        generator.manual_seed(run_seed(seed, epoch, "order"))
        order = send(torch.randperm(count, generator=generator), inputs.train.y.device)
        skip = at % per_chunk  # only after a resume in the middle of a chunk
        for start in range(at - skip, per_epoch, per_chunk):
            stop = min(start + per_chunk, per_epoch)
            index = order[start * batch_size : stop * batch_size]
            yield Chunk(index, run_seed(seed, epoch, f"crops {start}"), stop - start, skip)
            skip = 0
        epoch, at = epoch + 1, 0
