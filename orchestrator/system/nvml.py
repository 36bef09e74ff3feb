"""NVIDIA GPUs: utilisation and memory, from the management library of the driver (NVML).

It needs no CUDA context. Without a driver the list of GPUs is empty.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU. `index`: its number in the machine, not in CUDA_VISIBLE_DEVICES."""

    index: int
    handle: Any  # of the library

    def name(self) -> str:
        """Return its model, "GPU" if the driver has no name for it."""
        import pynvml

        with suppress(pynvml.NVMLError):
            return str(pynvml.nvmlDeviceGetName(self.handle))
        return "GPU"

    def utilisation(self) -> float | None:
        """Return the share (0 to 1) of the last second or less in which a kernel ran."""
        import pynvml

        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetUtilizationRates(self.handle).gpu) / 100
        return None

    def memory(self) -> tuple[float, float] | None:
        """Return the bytes in use by all programs, and the total."""
        import pynvml

        with suppress(pynvml.NVMLError):
            found = pynvml.nvmlDeviceGetMemoryInfo(self.handle)
            return float(found.used), float(found.total)
        return None


def gpus() -> list[Gpu]:
    """Return the GPUs that this process may see, none without a driver."""
    import pynvml  # only here: .05 s

    found = []
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in _visible(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):  # a GPU that this user or container may not open
                found.append(Gpu(index, pynvml.nvmlDeviceGetHandleByIndex(index)))
    return found


def _visible(count: int) -> list[int]:
    """Return the GPU indices that CUDA_VISIBLE_DEVICES allows (all where it names UUIDs)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(count))
    parts = [part.strip() for part in named.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        return list(range(count))
    return [int(part) for part in parts if int(part) < count]
