"""Timestamps for MLflow that never go back, even if the system clock is set back."""

from __future__ import annotations

import time


class SteadyClock:
    """Milliseconds since 1970 that never go back within a process.

    If the system clock is set back, this clock stops once and is then ahead by a constant, so later
    durations are right. `time.monotonic` would not count the hours that a laptop sleeps.
    """

    def __init__(self) -> None:
        self._last = self._ahead = 0

    def __call__(self) -> int:
        """Return the current time."""
        now = int(time.time() * 1000)
        self._ahead = max(self._ahead, self._last - now)
        self._last = now + self._ahead
        return self._last
