"""Events on their way to a tracking server: queued by the study, sent by one background thread.

The study never waits for the server. Events that could not be sent are kept as JSON lines, in
order, and are sent first the next time; but for those with `keep` False.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import IO, Any, Protocol

Event = dict[str, Any]
log = logging.getLogger("orchestrator.tracking")


class Unavailable(Exception):
    """There is no tracking at all (it is not installed): events are dropped, not kept."""


class Delivery(Protocol):
    """Where events go. Any exception means that the server is gone.

    Delivering an event twice must do no harm: after a failure in mid-batch it is sent again.
    """

    def deliver(self, event: Event) -> None:
        """Take one event; it may be written later, by `flush`."""

    def flush(self) -> None:
        """Write everything taken so far."""

    def tick(self) -> None:
        """Called every few seconds between batches: room for measurements of its own."""


class Outbox:
    """Hands events to what `connect` returns, from one daemon thread, about every `period` seconds.

    `connect` runs in that thread. The first event of an outbox opens the session: it heads every
    spool, so that the lines after it can be understood. `rest_seconds` bounds how long
    `quiet(True)` waits for the thread to come to rest.
    """

    def __init__(
        self,
        connect: Callable[[], Delivery],
        spool: Path,
        *,
        period: float = 2.0,
        rest_seconds: float = 3.0,
    ) -> None:
        self._connect, self._spool = connect, spool
        self._period, self._rest_seconds = period, rest_seconds
        self._events: deque[Event] = deque()  # an event leaves only after it was written
        self._opening: Event | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._busy = self._silent = self._closing = self._over = False
        self._keep = True

    def put(self, event: Event) -> None:
        """Take an event and return at once; the first one starts the thread."""
        with self._changed:
            if self._over:
                self._write([event])
                return
            self._events.append(event)
            if self._thread is None:
                self._opening = event
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def quiet(self, silent: bool) -> None:
        """Stop (True) or go on (False); True returns once the thread does nothing."""
        with self._changed:
            self._silent = silent
            self._changed.notify_all()
            if silent:
                self._changed.wait_for(lambda: not self._busy, timeout=self._rest_seconds)

    def close(self, timeout: float) -> None:
        """Send what is left and end the thread; after `timeout` seconds keep the rest instead."""
        if self._thread is None:
            return
        with self._changed:
            self._closing, self._silent = True, False
            self._changed.notify_all()
        try:
            self._thread.join(timeout)
        finally:  # also when the user is tired of waiting
            if self._thread.is_alive():
                self._give_up(TimeoutError(f"no answer within {timeout:g} s"))

    def _work(self) -> None:
        try:
            if not self._awake(0):
                return
            delivery = self._connect()
            if self._over:  # given up meanwhile: what is kept is the next session's
                return
            self._send_spool(delivery)
            while self._send(delivery):
                pass
        except Unavailable as error:
            self._give_up(error, keep=False)
        except Exception as error:
            self._give_up(error)
        finally:
            self._set_busy(False)

    def _send(self, delivery: Delivery) -> bool:
        """Send what has come in, then wait for the next time; False when there is no next time."""
        with self._changed:
            batch, last = list(self._events), self._closing
        sent = 0
        for event in batch:
            if self._silent or self._over:
                break
            delivery.deliver(event)
            sent += 1
        delivery.flush()
        if not (self._silent or self._over):
            delivery.tick()
        with self._changed:
            if self._over:
                return False
            for _ in range(sent):
                self._events.popleft()
            if last and not self._events:
                self._over, self._keep = True, False
                return False
        return self._awake(self._period)

    def _awake(self, period: float) -> bool:
        """Wait for `period` seconds and as long as silence is asked for; False: it is all over."""
        self._set_busy(False)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._over, timeout=period)
            self._changed.wait_for(lambda: not self._silent or self._over)
            self._busy = not self._over
            return self._busy

    def _set_busy(self, busy: bool) -> None:
        with self._changed:
            self._busy = busy
            self._changed.notify_all()

    def _send_spool(self, delivery: Delivery) -> None:
        """Send what an earlier session could not, and remove it."""
        if not self._spool.is_file():
            return
        for line in self._spool.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # torn by a full disk or a power cut, perhaps no text any more
                continue
            delivery.deliver(event)
        delivery.flush()
        with self._changed:  # given up meanwhile: the file holds what came since, too
            if not self._over:
                self._spool.unlink()

    def _give_up(self, error: Exception, keep: bool = True) -> None:
        """Call the server no more: warn once, keep what is unsent."""
        with self._changed:
            if self._over:
                return
            self._over, self._keep = True, keep
            rest = list(self._events)
            self._events.clear()
            if self._opening is not None and (not rest or rest[0] is not self._opening):
                rest.insert(0, self._opening)
            self._write(rest)
            self._changed.notify_all()
        reason = shorten(str(error), 300, placeholder=" ...") or type(error).__name__
        fate = f"; what is not sent is kept in {self._spool} for the next run" if keep else ""
        log.warning("tracking stopped, the study goes on: %s%s", reason, fate)

    def _write(self, events: list[Event]) -> None:
        if not self._keep:
            return
        try:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with self._spool.open("a+b") as file:
                kept = (event for event in events if event.get("keep", True))
                lines = [json.dumps(event, default=str).encode() + b"\n" for event in kept]
                if file.tell() and not _ends_in_a_line(file):  # torn: it must take no other along
                    lines.insert(0, b"\n")
                file.writelines(lines)
        except OSError as error:
            self._keep = False
            log.warning("tracking events are lost: %s", error)


def _ends_in_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
