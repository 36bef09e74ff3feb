"""The machine: its processors, its memory, and whether a process is alive.

psutil is used where it can; a comment gives the reason where it cannot.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

import psutil

NO_LIMIT = 2**62  # bytes


class ProcessorTimes(NamedTuple):
    """Processor time so far, in seconds, over all processors; `ours`: that of this process."""

    busy: float
    total: float
    ours: float


def processor_times() -> ProcessorTimes | None:
    """Return the processor time since boot, None where the system hides it.

    Time that a hypervisor takes (steal) counts as busy: it disturbs a timed run as much.
    """
    try:
        times = psutil.cpu_times()._asdict()
    except OSError:
        return None
    # Linux counts the time of guests in `user` and `nice` too.
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    busy = total - times["idle"] - times.get("iowait", 0.0)
    return ProcessorTimes(busy, total, time.process_time())


def load_average() -> float:
    """Return the number of processes that ran or waited to run, over the last minute."""
    return float(psutil.getloadavg()[0])


def cores(folder: Path = Path("/sys")) -> int:
    """Return the number of physical cores that this process may use, at least 1.

    Two threads of one core share its arithmetic units. `folder`: where Linux describes its
    processors. Not psutil: it counts the cores of the machine, not those that this process may use.
    """
    try:
        mine = os.sched_getaffinity(0)
        topology = folder / "devices/system/cpu"
        siblings = {(topology / f"cpu{i}/topology/thread_siblings_list").read_text() for i in mine}
        count = float(len(siblings))
    except (AttributeError, OSError):  # not Linux
        count = float(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)
    with suppress(OSError, ValueError):  # no control group (version 2), or "max": no limit
        quota, period = (folder / "fs/cgroup/cpu.max").read_text().split()
        count = min(count, int(quota) / int(period))
    return max(1, int(count))


def processor() -> str:
    """Return the name of the processor, which psutil does not have."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: use the platform module
    return name


def machine() -> str:
    """Return processor, number of cores and system as one line."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


class Memory(NamedTuple):
    """Memory of the machine in bytes; `available`: without swapping."""

    total: int
    available: int


def memory() -> Memory:
    """Return the memory of the machine."""
    found = psutil.virtual_memory()
    return Memory(found.total, found.available)


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process may still use, of the machine and of its container.

    `group`: the control group of the container (version 2), which psutil does not read.
    """
    left = NO_LIMIT
    with suppress(OSError, ValueError):  # no control group, or "max": no limit
        limit = int((group / "memory.max").read_text())
        left = limit - int((group / "memory.current").read_text())
    return min(memory().available, left)


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes, None on Windows.

    Not psutil: it has the current size only.
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux kibibytes


def lives(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of another user
        return True


def silence(stream: TextIO) -> None:
    """Redirect a stream whose reader has gone to nowhere, so that no later write or flush fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
