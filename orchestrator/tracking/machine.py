"""System metrics for MLflow: load of processor, memory and GPUs.

They have the names of MLflow's own system metrics, so its user interface shows them in the "System
metrics" tab. MLflow's own monitor is a thread that cannot be paused during a timed run.
"""

from __future__ import annotations

from orchestrator.system import host, nvml

MEGABYTE = 1e6


class Machine:
    """Samples the machine. Metrics that a system does not have, such as a GPU's, are left out."""

    def __init__(self) -> None:
        self._processor = host.processor_times()
        self._gpus = nvml.gpus()

    def sample(self) -> dict[str, float]:
        """Return metrics by name; percentages are averages since the last sample."""
        return self._cpu() | _memory() | self._gpu()

    def _cpu(self) -> dict[str, float]:
        found = {"system/load_average": host.load_average()}
        before, self._processor = self._processor, host.processor_times()
        if before and self._processor and (total := self._processor.total - before.total) > 0:
            busy = self._processor.busy - before.busy
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
    memory = host.memory()
    used = memory.total - memory.available
    found = {
        "system/system_memory_usage_megabytes": used / MEGABYTE,
        "system/system_memory_usage_percentage": 100 * used / memory.total,
    }
    if (peak := host.peak_memory()) is not None:
        found["system/process_peak_memory_megabytes"] = peak / MEGABYTE
    return found
