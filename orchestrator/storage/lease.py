"""The lease on a study in a database: one command at a time works on it, on whatever machine.

A row of a small table beside Optuna's has the owner, the end of its lease by the clock of the
database, and what a resumed study needs besides its trials. A command that dies does not renew its
lease, so another one can take the study over.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from orchestrator.errors import ConfigError, StorageError, storing
from orchestrator.storage.patient import Patience
from orchestrator.system import signals
from orchestrator.system.host import lives

log = logging.getLogger(__name__)
STUDIES = sa.Table(
    "orchestrator_studies",
    sa.MetaData(),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),  # seconds since 1970
    sa.Column("kept", sa.Text, nullable=False),
)
LOOK_SECONDS = 0.5


class Lease:
    """The lease of this process on a study. `seconds`: how long it lasts if it is not renewed."""

    def __init__(self, engine: sa.Engine, study: str, seconds: float, patience: Patience) -> None:
        self._engine, self._study, self._seconds = engine, study, seconds
        self._patience = patience
        self._owner = f"{os.getpid()}@{socket.gethostname()} {uuid.uuid4().hex[:8]}"
        self._until = 0.0  # by our own clock
        self._lost = False
        self._ended = threading.Event()
        self.kept: dict[str, Any] = {}

    def take(self, note: Callable[[str], object]) -> None:
        """Take the lease, from a dead owner too: this waits for its end, and says so by `note`.

        Raises ConfigError if its owner is alive.
        """
        STUDIES.create(self._engine, checkfirst=True)
        before: tuple[str, float] | None = None
        while not self._claim():
            holder = self._holder()
            if _died_here(holder[0]):
                self._claim(of=holder[0])
                continue
            if before is None:
                note(f"waits up to {self._seconds:g} s for the lease of process {holder[0]}")
            elif holder != before:  # it was renewed
                raise ConfigError(
                    f"study {self._study} is being run by process {holder[0].rpartition(' ')[0]}:"
                    " wait for it, end it, or choose another study_name"
                )
            before = holder
            signals.check()
            time.sleep(LOOK_SECONDS)
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(STUDIES.c.kept).where(self._row)).scalar_one()
        self.kept = json.loads(row)

    @property
    def _row(self) -> sa.ColumnElement[bool]:
        return STUDIES.c.name == self._study

    def _holder(self) -> tuple[str, float]:
        with self._engine.begin() as connection:
            columns = sa.select(STUDIES.c.owner, STUDIES.c.expires).where(self._row)
            found = connection.execute(columns).one()
        return str(found.owner), float(found.expires)

    def _claim(self, of: str | None = None) -> bool:
        """Take or renew the lease; `of`: from this owner, whose lease has not ended."""
        asked = time.monotonic()
        with self._engine.begin() as connection:
            now = _seconds(connection.execute(sa.select(sa.func.current_timestamp())).scalar_one())
            held = STUDIES.c.owner.in_([self._owner, "", *([of] if of else [])])
            claimed = connection.execute(
                sa.update(STUDIES)
                .where(self._row, sa.or_(held, STUDIES.c.expires < now))
                .values(owner=self._owner, expires=now + self._seconds)
            )
            if claimed.rowcount == 1:
                self._until = asked + self._seconds
                return True
            known = connection.execute(sa.select(STUDIES.c.name).where(self._row)).first()
        if known is None:
            with suppress(IntegrityError), self._engine.begin() as connection:  # another was first
                connection.execute(
                    sa.insert(STUDIES).values(name=self._study, owner="", expires=0.0, kept="{}")
                )
            return self._claim()
        return False

    def renew(self) -> None:
        """Renew the lease until it is released; runs in a thread of its own."""
        while not self._ended.wait(self._seconds / 3):
            with suppress(SQLAlchemyError):  # tried again; `check` says when it is too late
                if not self._claim():
                    self._lost = True
                    return

    def check(self) -> None:
        """Raise StorageError if another command has the lease, or may have it."""
        if not self._lost and time.monotonic() < self._until:
            return
        with storing("the lease on the study"):
            if self._lost or not self._patience.retry(lambda _: self._claim()):
                raise StorageError(
                    f"another command has taken over study {self._study}, as this one had not"
                    f" renewed its lease for {self._seconds:g} s: run the same command to resume"
                    " when that one has ended"
                )

    def keep(self, **values: Any) -> None:
        """Store values with the study; those under other names stay."""
        self.kept |= values
        self._write(kept=json.dumps(self.kept, default=str))

    def forget(self) -> None:
        """Drop all stored values: the study starts over."""
        self.kept = {}
        self.keep()

    def _write(self, **columns: str) -> None:
        mine = STUDIES.c.owner == self._owner

        def write(_: bool) -> None:
            with self._engine.begin() as connection:
                connection.execute(sa.update(STUDIES).where(self._row, mine).values(**columns))

        with storing("what is kept with the study"):
            self._patience.retry(write)

    def release(self) -> None:
        """Give the lease back; without the database it ends by itself."""
        self._ended.set()
        with suppress(SQLAlchemyError, StorageError):
            self._write(owner="")


@contextmanager
def leased(lease: Lease, note: Callable[[str], object]) -> Iterator[Lease]:
    """Return a context that holds a lease and renews it in the background."""
    with storing("the lease on the study"):
        lease.take(note)
    thread = threading.Thread(target=lease.renew, name="orchestrator-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.release()
        thread.join(LOOK_SECONDS)


def _seconds(value: Any) -> float:
    """Return a time of the database in seconds."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _died_here(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    pid, _, host = owner.partition(" ")[0].partition("@")
    return host == socket.gethostname() and pid.isdigit() and not lives(int(pid))
