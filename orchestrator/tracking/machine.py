"""What the machine is doing: processor, memory and GPUs, from the standard library alone.

The names are those of MLflow's own system metrics, so that its user interface shows them in the
"System metrics" tab; MLflow's monitor itself needs psutil and nvidia-ml-py.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.system import processor_times

MEGABYTE = 1e6


class Machine:
    """Samples the machine.

    What a system does not offer (/proc outside Linux, a GPU driver) is left out, without an error.
    """

    def __init__(self) -> None:
        self._processor = processor_times()
        self._gpus = _gpu_handles()

    def sample(self) -> dict[str, float]:
        """Return metrics by name; percentages are those since the last sample."""
        found: dict[str, float] = {}
        sources: tuple[Callable[[], dict[str, float]], ...] = (
            self._cpu,
            _memory,
            self._gpu,
        )
        for source in sources:
            try:
                found |= source()
            except (OSError, ValueError, LookupError, AttributeError, ImportError):
                continue
        return found

    def _cpu(self) -> dict[str, float]:
        found = {"system/load_average": os.getloadavg()[0]}
        before, self._processor = self._processor, processor_times()
        if before and self._processor:
            busy, total = (now - then for now, then in zip(self._processor, before, strict=True))
            if total > 0:
                found["system/cpu_utilization_percentage"] = 100 * busy / total
        return found

    def _gpu(self) -> dict[str, float]:
        found = {}
        for index, handle in self._gpus:
            use, memory = _Utilisation(), _GpuMemory()
            if _nvml().nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)) == 0:
                found[f"system/gpu_{index}_utilization_percentage"] = float(use.gpu)
            if _nvml().nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                name = f"system/gpu_{index}_memory_usage"
                found[f"{name}_megabytes"] = memory.used / MEGABYTE
                found[f"{name}_percentage"] = 100 * memory.used / max(1, memory.total)
        return found


def _memory() -> dict[str, float]:
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    found = {"system/process_peak_memory_megabytes": peak * unit / MEGABYTE}
    lines = Path("/proc/meminfo").read_text().splitlines()
    kibibytes = {name: int(rest.split()[0]) for name, rest in (x.split(":") for x in lines)}
    total, free = kibibytes["MemTotal"], kibibytes["MemAvailable"]
    found["system/system_memory_usage_megabytes"] = (total - free) * 1024 / MEGABYTE
    found["system/system_memory_usage_percentage"] = 100 * (total - free) / total
    return found


class _Utilisation(ctypes.Structure):  # nvmlUtilization_t
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _GpuMemory(ctypes.Structure):  # nvmlMemory_t
    _fields_ = tuple((name, ctypes.c_ulonglong) for name in ("total", "free", "used"))


def _nvml() -> ctypes.CDLL:
    """Return NVIDIA's management library. It comes with the driver; needs no CUDA context."""
    return ctypes.CDLL("libnvidia-ml.so.1")


def _gpu_handles() -> list[tuple[int, ctypes.c_void_p]]:
    """Return (index, handle) of the GPUs this process may see, none without a driver."""
    try:
        nvml, count = _nvml(), ctypes.c_uint()
        if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = []
        for index in _visible(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                found.append((index, handle))
    except (OSError, AttributeError):
        return []
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
