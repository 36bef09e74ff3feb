"""Waits for an idle machine: measures the load of other programs on its processors and GPU."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from orchestrator.system import nvml
from orchestrator.system.host import ProcessorTimes, processor_times

log = logging.getLogger(__name__)
SHARE = 0.05  # of all processor time: below this the others do not disturb a timed run
LOOK_SECONDS = 1.0  # one measurement of the load; Linux counts in hundredths of a second
MAX_SECONDS = 30.0  # the longest wait, until the machine has been idle again


class IdleWait:
    """Waits until the machine is idle, and gives up when that takes too long.

    Args:
        max_seconds: The longest wait; 0: it never waits.
        gpu: Returns the share of the last second in which the GPU was busy, while our own work
            waits. None: no GPU trains.
        look: Returns the processor time so far; tests replace it.
        sleep: Sleeps for some seconds; tests replace it.
    """

    def __init__(
        self,
        look: Callable[[], ProcessorTimes | None] = processor_times,
        sleep: Callable[[float], None] = time.sleep,
        max_seconds: float = MAX_SECONDS,
        gpu: Callable[[], float | None] | None = None,
    ) -> None:
        self._look = look
        self._sleep = sleep
        self._max_seconds = max_seconds
        self._gpu = gpu
        self._what = "its processors" if gpu is None else "its processors or its GPU"
        self._waited = 0.0  # since the machine was idle
        self._last: ProcessorTimes | None = None  # the last measurement

    def wait(self, label: str, worth: float = math.inf) -> bool:
        """Return once the machine is idle (True), or when that has taken too long (False).

        Too long is `max_seconds`, or `worth` if that is less: the seconds of the run that is to be
        repeated. After giving up, later calls measure the load once without waiting, until the
        machine is idle again: a round of repeats on a busy machine waits and warns once. If the
        machine has been idle since the last measurement, the call returns at once. True where the
        load is not known.
        """
        most = min(self._max_seconds, worth)
        if most <= 0:
            return True
        look = min(LOOK_SECONDS, most)
        share = self._since_last() if self._gpu is None else None  # a GPU's use has no such record
        if share is None or share > SHARE:  # the load may have been our own workers: measure
            share = self._share(look)
        while share is not None and share > SHARE and self._waited < most:
            if not self._waited:
                log.warning(
                    "%s: waits until the machine is idle (other programs use %.0f %% of %s),"
                    " %.2g s at most (executor.wait_seconds)",
                    label, 100 * share, self._what, most,
                )  # fmt: skip
            share = self._share(look)
            self._waited += look
        if share is not None and share > SHARE:
            self._waited = max(self._waited, most)
            log.info(
                "%s: the machine is not idle (other programs use %.0f %% of %s); not waiting any"
                " longer, its time may be wrong again", label, 100 * share, self._what,
            )  # fmt: skip
            return False
        if self._waited:
            log.info("%s: the machine is idle after %.2g s", label, self._waited)
        self._waited = 0.0
        return True

    def _since_last(self) -> float | None:
        """Return the share of other programs since the last measurement, None if just measured."""
        before, now = self._last, self._look()
        if before is None or now is None or now.total - before.total < LOOK_SECONDS:
            return None
        self._last = now
        return _others(before, now)

    def _share(self, seconds: float) -> float | None:
        """Measure the share of other programs, of the processors or of the GPU."""
        before = self._look()
        if before is None and self._gpu is None:
            return None
        self._sleep(seconds)
        self._last = self._look()
        shares = [_others(before, self._last) if before and self._last else None]
        if self._gpu is not None:
            shares.append(self._gpu())
        return max((share for share in shares if share is not None), default=None)


def _others(before: ProcessorTimes, after: ProcessorTimes) -> float | None:
    if after.total <= before.total:
        return None
    others = after.busy - before.busy - (after.ours - before.ours)
    return max(0.0, others / (after.total - before.total))


def use_of_gpu(device: str) -> Callable[[], float | None] | None:
    """Return a function that measures the use of the GPU, None without one (`auto`: the first)."""
    name, _, number = device.partition(":")
    found = nvml.gpus() if name in ("auto", "cuda") else []
    return found[int(number or 0)].utilisation if int(number or 0) < len(found) else None
