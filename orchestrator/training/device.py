"""The device that trains: CPU or GPU, number of threads, random state."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
import torch.utils.deterministic
from torch import Tensor

from orchestrator.errors import ConfigError


def find(name: str, deterministic: bool = True) -> torch.device:
    """Return the device; "auto" is CUDA if there is one, else the CPU.

    `deterministic` False: cuDNN times its kernels and uses the fastest, deterministic or not. On a
    CPU kernels are deterministic anyway. Raises ConfigError, one line, for a device that is not
    available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        problem = str(error).splitlines()[0]
        raise ConfigError(f"device={name} is not there ({problem}): use auto or cpu") from error
    if name.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        # A kernel that is not deterministic warns: a network that needs it trains anyway.
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


def describe(device: torch.device, threads: int) -> str:
    """Return the name of the GPU, or "cpu (2 threads)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})"


def use_threads(count: int | None) -> int:
    """Set torch's number of threads (None: unchanged); return the number."""
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def seed_random(device: torch.device, seed: int) -> None:
    """Seed the parts of torch's global random state that `device` uses."""
    if device.type == "cpu":  # torch.manual_seed stores a stack trace for each possible device
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def private_random(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that restores torch's global random states at its end.

    With CUDA those of all devices, since `torch.manual_seed` sets them all.
    """
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return torch.random.fork_rng(range(count))


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return the values on the device; the copy to CUDA is asynchronous."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
