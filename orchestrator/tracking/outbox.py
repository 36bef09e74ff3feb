"""The queue of events for a tracking server, sent by one background thread.

The study never waits for the server. Events that could not be sent are written to a spool file as
JSON lines, except those with `keep` False, and are sent first by the next command.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from orchestrator.errors import one_line

Event = dict[str, Any]
log = logging.getLogger("orchestrator.tracking")


class Unavailable(Exception):
    """Tracking is not installed: events are dropped, not written to the spool."""


class Delivery(Protocol):
    """The receiver of events. Any exception means that the server has failed.

    Events must be idempotent: after a failure within a batch they are sent again.
    """

    def deliver(self, event: Event) -> None:
        """Receive one event; it may be written later, by `flush`."""

    def flush(self) -> None:
        """Write all events received so far."""

    def tick(self) -> None:
        """Called every few seconds between batches, to take measurements."""


class Outbox:
    """Sends events to what `connect` returns, from one daemon thread, every `period` seconds.

    `connect` is called in that thread. The first event opens the session; every spool file starts
    with it, since the later events depend on it. `rest_seconds`: the longest time that `pause`
    waits until the thread is idle.
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
        self._busy = self._paused = self._closing = self._over = False
        self._keep = True

    def put(self, event: Event) -> None:
        """Add an event and return at once; the first one starts the thread."""
        with self._changed:
            if self._over:
                self._write([event])
                return
            self._events.append(event)
            if self._thread is None:
                self._opening = event
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def pause(self) -> None:
        """Send nothing until `resume`; return once the thread is idle."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy, timeout=self._rest_seconds)

    def resume(self) -> None:
        """Send again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Send the rest and end the thread; after `timeout` seconds write the rest to the spool."""
        if self._thread is None:
            return
        with self._changed:
            self._closing, self._paused = True, False
            self._changed.notify_all()
        try:
            self._thread.join(timeout)
        finally:  # also after Ctrl-C
            if self._thread.is_alive():
                self._give_up(TimeoutError(f"no answer within {timeout:g} s"))

    def _work(self) -> None:
        try:
            if not self._awake(0):
                return
            delivery = self._connect()
            if self._over:  # given up meanwhile: the spool belongs to the next session
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
        """Send the queued events, then wait for the next period; return False at the end."""
        with self._changed:
            batch, last = list(self._events), self._closing
        sent = 0
        for event in batch:
            if self._paused or self._over:
                break
            delivery.deliver(event)
            sent += 1
        delivery.flush()
        if not (self._paused or self._over):
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
        """Wait for `period` seconds and while it is paused; return False at the end."""
        self._set_busy(False)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._over, timeout=period)
            self._changed.wait_for(lambda: not self._paused or self._over)
            self._busy = not self._over
            return self._busy

    def _set_busy(self, busy: bool) -> None:
        with self._changed:
            self._busy = busy
            self._changed.notify_all()

    def _send_spool(self, delivery: Delivery) -> None:
        """Send the spool of an earlier session, and delete it."""
        if not self._spool.is_file():
            return
        for line in self._spool.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # damaged by a full disk or a power loss
                continue
            delivery.deliver(event)
        delivery.flush()
        with self._changed:  # given up meanwhile: the file contains later events too
            if not self._over:
                self._spool.unlink()

    def _give_up(self, error: Exception, keep: bool = True) -> None:
        """Stop calling the server: warn once, write unsent events to the spool."""
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
        fate = f"; unsent events are in {self._spool}, the next command sends them" if keep else ""
        log.warning("tracking stopped, the study continues: %s%s", one_line(error), fate)

    def _write(self, events: list[Event]) -> None:
        if not self._keep:
            return
        try:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with self._spool.open("a+b") as file:
                kept = (event for event in events if event.get("keep", True))
                lines = [json.dumps(event, default=str).encode() + b"\n" for event in kept]
                if file.tell() and not _ends_in_a_line(file):  # torn: start a new line after it
                    lines.insert(0, b"\n")
                file.writelines(lines)
        except OSError as error:
            self._keep = False
            log.warning("tracking events are lost: %s", error)


def _ends_in_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
