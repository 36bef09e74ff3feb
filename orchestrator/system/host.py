"""What systems do differently: locks of files, whether a process lives, how busy a machine is."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TextIO


def try_lock(handle: int) -> bool:
    """Lock the open file for this process alone; False if another one holds it.

    The kernel drops the lock with the last descriptor. Windows has no flock: always True there, so
    nothing keeps two commands on one study apart.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lives(pid: int) -> bool:
    """Whether there is a process of this number on this machine; unknown on Windows: False."""
    if sys.platform == "win32":  # there `os.kill` would end it, whatever the signal
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    return True


def silence(stream: TextIO) -> None:
    """Let a stream whose reader has gone lead nowhere, so that no later write or flush fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def processor() -> str:
    """Return the name of the processor."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: what platform knows must do
    return name


def machine() -> str:
    """Return processor, number of cores and system as one line."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def processor_times(stat: Path = Path("/proc/stat")) -> tuple[float, float] | None:
    """Return (busy, total) seconds of all processors since boot, None where unknown (not Linux).

    Time that a hypervisor took away (steal) is busy time: it disturbs as much.
    """
    try:
        ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
        _, _, _, idle, iowait, *_ = ticks  # user, nice, system, idle, iowait, irq, softirq, steal
    except (OSError, ValueError):
        return None
    return (sum(ticks) - idle - iowait) / 100, sum(ticks) / 100
