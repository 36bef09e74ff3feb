"""The time of day, for records that must not end before they began."""

from __future__ import annotations

import time


class Steady:
    """Milliseconds since 1970 that never go back within a process.

    A clock that is set back stands still once and is ahead from then on, so that durations after
    it are right; `time.monotonic` would not count the hours that a laptop sleeps.
    """

    def __init__(self) -> None:
        self._last = self._ahead = 0

    def __call__(self) -> int:
        """Return the time now."""
        now = int(time.time() * 1000)
        self._ahead = max(self._ahead, self._last - now)
        self._last = now + self._ahead
        return self._last
