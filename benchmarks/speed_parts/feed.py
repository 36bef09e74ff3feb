"""Batches by hand, for all contenders but ours: nothing slower left in.

Data lie on the device as bytes and channels last; an epoch's order is drawn at once, batches are
gathered, cropped, flipped and normalised as many at a time as stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.recipe import Run
from orchestrator.training.trainer import Setup

CACHE_FLOATS = {"cpu": 2**20, "cuda": 2**25}
PIECE = 512  # held-out examples at once


class Feed:
    """Training batches and held-out pieces of a study's data, ready for a network."""

    def __init__(self, setup: Setup, batch_size: int) -> None:
        data, device = setup.data, setup.device
        self.device, self.batch_size = device, batch_size
        self.images = len(data.input_shape) == 3
        self.mean = data.mean.to(device)
        self.factor = (data.scale / data.std).to(device)
        self.size = data.input_shape[-1]
        self.border = self.size // 8 if data.augment else 0
        self.mirrored = data.mirrored
        x = data.train.x
        if self.border:
            x = F.pad(x.float(), (self.border,) * 4, mode="reflect").to(x.dtype)
        self.x, self.y = self._placed(x), data.train.y.to(device)
        self.held_x, self.held_y = self._placed(data.held_out.x), data.held_out.y.to(device)

    def _placed(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1).contiguous() if self.images else x).to(self.device)

    def _ready(self, x: Tensor) -> Tensor:
        x = x.float().sub_(self.mean).mul_(self.factor)
        return x.permute(0, 3, 1, 2) if self.images else x

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches without end; an epoch's incomplete last batch is dropped."""
        size, count = self.batch_size, len(self.y)
        per_epoch = count // size
        floats = size * self.held_x[0].numel()
        many = size * min(per_epoch, max(1, CACHE_FLOATS.get(self.device.type, 2**22) // floats))
        while True:
            order = torch.randperm(count, device=self.device)[: per_epoch * size]
            for index in order.split(many):
                x = self._ready(self._cropped(index) if self.border else self.x[index])
                yield from zip(x.split(size), self.y[index].split(size), strict=True)

    def _cropped(self, index: Tensor) -> Tensor:
        n, wide = len(index), 2 * self.border + 1
        top, left = torch.randint(wide, (2, n), device=self.device)
        windows = self.x.unfold(1, self.size, 1).unfold(2, self.size, 1)
        picked = windows[index, top, left].permute(0, 2, 3, 1)  # n, height, width, channels
        if not self.mirrored:
            return picked
        mirror = torch.rand(n, device=self.device) < 0.5
        return torch.where(mirror[:, None, None, None], picked.flip(2), picked)

    def held_out(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first `count` held-out examples in pieces."""
        pieces = -(-count // PIECE)
        parts = zip(
            self.held_x[:count].chunk(pieces), self.held_y[:count].chunk(pieces), strict=True
        )
        for x, y in parts:
            yield self._ready(x), y

    def held_out_counts(self, run: Run) -> list[int]:
        """Return how many held-out examples each report of a run uses; the last one uses all."""
        whole = len(self.held_y)
        early = min(run.held_out_examples or whole, whole)
        return [early] * (len(run.report_steps()) - 1) + [whole]
