"""What the machine is doing: processor, memory and GPUs, from the standard library alone.

The names are those of MLflow's own system metrics, so that its user interface shows them in the
"System metrics" tab; MLflow's monitor itself needs psutil and nvidia-ml-py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.system import nvml
from orchestrator.system.host import processor_times

MEGABYTE = 1e6


class Machine:
    """Samples the machine.

    What a system does not offer (/proc outside Linux, a GPU driver) is left out, without an error.
    """

    def __init__(self) -> None:
        self._processor = processor_times()
        self._gpus = nvml.gpus()

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
        for gpu in self._gpus:
            if (use := gpu.utilisation()) is not None:
                found[f"system/gpu_{gpu.index}_utilization_percentage"] = 100 * use
            if (memory := gpu.memory()) is not None:
                used, total = memory
                name = f"system/gpu_{gpu.index}_memory_usage"
                found[f"{name}_megabytes"] = used / MEGABYTE
                found[f"{name}_percentage"] = 100 * used / max(1, total)
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
