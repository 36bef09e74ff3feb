"""The random states of Python, NumPy and torch: left as they were found, seeded all at once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from orchestrator.training.device import private_random


@contextmanager
def randomness_as_found(
    device: torch.device, generators: Iterable[torch.Generator] = ()
) -> Iterator[None]:
    """Return a context after which all random states are what they were before.

    Python's, numpy's, torch's on the CPU and on `device`, and those of `generators`.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the user's, not ours)
    kept = [(generator, generator.get_state()) for generator in generators]
    try:
        with private_random(device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for generator, state in kept:
            generator.set_state(state)


def seed_all(seed: int, generators: Iterable[torch.Generator] = ()) -> None:
    """Seed (31 bits) everything that `randomness_as_found` keeps."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    for generator in generators:
        generator.manual_seed(seed)
