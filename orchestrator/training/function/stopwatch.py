"""A clock that can be stopped."""

from __future__ import annotations

import time


class Stopwatch:
    """Adds up the seconds between `go` and `stop`; both do nothing where nothing changes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def go(self) -> None:
        """Run."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None
