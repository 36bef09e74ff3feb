"""NVIDIA's management library by the standard library alone: how busy a GPU is, and how full.

It comes with the driver and needs no CUDA context. Where there is no driver there are no GPUs.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass


class _Utilisation(ctypes.Structure):  # nvmlUtilization_t
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):  # nvmlMemory_t
    _fields_ = tuple((name, ctypes.c_ulonglong) for name in ("total", "free", "used"))


@dataclass(frozen=True)
class Gpu:
    """One GPU. `index`: its number in the machine, whatever CUDA_VISIBLE_DEVICES calls it."""

    index: int
    handle: ctypes.c_void_p

    def utilisation(self) -> float | None:
        """Return the share (0 to 1) of the last second or less in which a kernel ran."""
        found = _Utilisation()
        if _library().nvmlDeviceGetUtilizationRates(self.handle, ctypes.byref(found)) != 0:
            return None
        return float(found.gpu) / 100

    def memory(self) -> tuple[float, float] | None:
        """Return the bytes in use, by all programs, and all there are."""
        found = _Memory()
        if _library().nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(found)) != 0:
            return None
        return float(found.used), float(found.total)


def gpus() -> list[Gpu]:
    """Return the GPUs that this process may see, none without a driver."""
    try:
        nvml, count = _library(), ctypes.c_uint()
        if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = []
        for index in _visible(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                found.append(Gpu(index, handle))
    except (OSError, AttributeError):
        return []
    return found


def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libnvidia-ml.so.1")


def _visible(count: int) -> list[int]:
    """Return the GPU indices that CUDA_VISIBLE_DEVICES allows (all where it names UUIDs)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(count))
    parts = [part.strip() for part in named.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        return list(range(count))
    return [int(part) for part in parts if int(part) < count]
