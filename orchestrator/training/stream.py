"""Streams data from host memory: threads gather and copy a few chunks ahead to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from orchestrator.training.batches import Chunk, Inputs, chunk_steps
from orchestrator.training.data.parts import Data, Part

AHEAD = 3  # chunks read in advance: more need more memory, and cover longer delays
WORKERS = 2
T = TypeVar("T")


class Streamed(Inputs):
    """The same batches as `Inputs`, bit for bit, from data in host memory.

    Threads gather the examples (in pinned memory for a GPU); the training thread copies them to the
    device and draws the crops. An exception in a thread is raised where its chunk is used. Threads
    start when first needed; `close` ends them.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._pinned = device.type == "cuda"
        self._copies: torch.cuda.Stream | None = None
        if self._pinned:
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        super().__init__(data, device)

    def placed(self, part: Part) -> Part:
        """Return the examples, on the host."""
        return part

    _placed_for_training = placed

    def close(self) -> None:
        """End the threads; iterators of batches cannot be continued."""
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        self._threads = None

    def bytes_ahead(self, batch_size: int) -> int:
        """Return the bytes of prefetched examples and of those in use."""
        examples = (AHEAD + 1) * chunk_steps(self, batch_size) * batch_size
        return examples * self.train.x[0].nbytes

    def sent(self, part: Part) -> Part:
        """Return the examples on the device, copied while it trains on others."""
        if self._copies is None:
            return super().sent(part)
        with torch.cuda.stream(self._copies):
            x, y = (values.to(self.device, non_blocking=True) for values in part)
        training = torch.cuda.current_stream(self.device)
        training.wait_stream(self._copies)
        for values in (x, y):  # otherwise their memory is reused while training still reads it
            values.record_stream(training)
        return Part(x, y)

    def pieces(self, part: Part, count: int) -> Iterator[Part]:
        """Yield the examples in about `count` pieces, each on the device."""
        pieces = map(Part, part.x.chunk(count), part.y.chunk(count))
        yield from (self.on_device(read) for _, read in self._ahead(pieces, self._copied))

    def gathered(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
        """Yield each chunk with its normalised inputs and labels."""
        generator = torch.Generator()
        for chunk, read in self._ahead(chunks, self._picked):
            part = self.on_device(read, for_training=True)
            every = torch.arange(len(part), device=self.device)
            yield chunk, *self.gather(part, every, generator.manual_seed(chunk.seed))

    def _ahead(self, items: Iterable[T], read: Callable[[T], Part]) -> Iterator[tuple[T, Part]]:
        """Yield each item with what was read for it, while threads read the next ones."""
        waiting: deque[tuple[T, Future[Part]]] = deque()
        for item in items:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(WORKERS, "orchestrator-stream")
            waiting.append((item, self._threads.submit(read, item)))
            if len(waiting) > AHEAD:
                item, future = waiting.popleft()
                yield item, future.result()
        for item, future in waiting:
            yield item, future.result()

    def _picked(self, chunk: Chunk) -> Part:
        return Part(*(self._rows(values, chunk.examples) for values in self.train))

    def _rows(self, values: Tensor, index: Tensor) -> Tensor:
        shape = (len(index), *values.shape[1:])
        rows = torch.empty(shape, dtype=values.dtype, pin_memory=self._pinned)
        # NumPy gathers in this one thread; torch would start more, which slow down the training.
        np.take(values.numpy(), index.numpy(), axis=0, out=rows.numpy(), mode="clip")
        return rows

    def _copied(self, part: Part) -> Part:
        return Part(*(values.pin_memory() for values in part)) if self._pinned else part
