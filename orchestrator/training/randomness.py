"""The random states of Python, NumPy and torch: seeds, saves and restores them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from orchestrator.training.device import private_random, seed_random

# NumPy's global state: our own code never uses it, but a user's code may.


@contextmanager
def restoring_randomness(
    device: torch.device, generators: Iterable[torch.Generator] = ()
) -> Iterator[None]:
    """Return a context that restores all random states at its end.

    Python's, NumPy's, torch's on the CPU and on `device`, and those of `generators`.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    kept = [(generator, generator.get_state()) for generator in generators]
    try:
        with private_random(device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for generator, state in kept:
            generator.set_state(state)


def seed_all(
    seed: int,
    device: torch.device | None = None,
    generators: Iterable[torch.Generator] = (),
) -> None:
    """Seed (31 bits) what `restoring_randomness` restores; `device` None: all of torch's."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed) if device is None else seed_random(device, seed)
    for generator in generators:
        generator.manual_seed(seed)


def state_dict(device: torch.device) -> dict[str, Any]:
    """Return the random states of a run, as `torch.load(weights_only=True)` reads them."""
    name, keys, *rest = tuple[Any, ...](np.random.get_state())  # noqa: NPY002
    return {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "random_python": random.getstate(),
        "random_numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }


def load_state_dict(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `state_dict` returned; older checkpoints may lack a part."""
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random_cuda"], device)
    if "random_python" in state:
        random.setstate(state["random_python"])
        name, keys, *rest = state["random_numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
