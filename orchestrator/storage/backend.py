"""Optuna's storage: opens, locks and repairs it. `ledger.py` reads and writes its content."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from orchestrator.errors import storing
from orchestrator.storage.paths import StudyPaths
from orchestrator.system.files import try_lock, write_atomically

log = logging.getLogger(__name__)
Storage = BaseStorage  # for modules that must not import optuna
SET_STATE = 6  # SET_TRIAL_STATE_VALUES in the journal's file format
# How PostgreSQL's client notices within half a minute that a server is not reached any more.
REACHING = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
LOCK_SECONDS = 60.0  # a write takes milliseconds: a process that holds the lock longer hangs


def open_storage(name: str, url: str | None, folder: Path) -> BaseStorage:
    """Return the storage that the config names: "journal" (in `folder`), "memory" or "url"."""
    if name == "memory":
        return optuna.storages.InMemoryStorage()
    if name == "url":
        with storing("storage.url"):
            database = _database(str(url))
            optuna.get_all_study_names(database)  # a locked database fails here, not on opening
            return database
    with storing():
        return journal(StudyPaths(folder).journal)


def _database(url: str) -> BaseStorage:
    """Return Optuna's storage in a database; connections that broke are replaced."""
    more: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        more["connect_args"] = REACHING
    return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=more))


def engine_of(database: BaseStorage) -> Any:
    """Return SQLAlchemy's engine of a database."""
    return getattr(getattr(database, "_backend", database), "engine", None)


def is_server(url: str | None) -> bool:
    """Whether a database is a server, which other machines reach too, and not a file."""
    return url is not None and not url.startswith("sqlite")


def disconnect(database: BaseStorage) -> None:
    """Close a database's connections now, not when Python collects them."""
    engine = engine_of(database)
    if engine is not None:
        with suppress(Exception):  # the server may be gone
            database.remove_session()
        engine.dispose()


def set_aside(storage: BaseStorage, study: str, suffix: str) -> None:
    """Rename the Optuna studies of `study` by `suffix`; no trial is deleted."""
    for name in optuna.get_all_study_names(storage):
        if name.startswith(f"{study}/"):
            stage = name.removeprefix(f"{study}/")
            optuna.copy_study(
                from_study_name=name,
                from_storage=storage,
                to_storage=storage,
                to_study_name=f"{study}{suffix}/{stage}",
            )
            optuna.delete_study(study_name=name, storage=storage)


def journal(path: Path) -> BaseStorage:
    """Open the journal file at `path`, made if missing, repaired if damaged."""
    if path.exists():
        _repair(path)
    return JournalStorage(JournalFile(str(path)))


class JournalFile(JournalFileBackend):
    """Optuna's journal file, with fsync only when a trial's state is set.

    All other lines are written to the operating system at once: other processes see them, and a
    killed process loses none. After a power loss, what came after the last trial's end is missing,
    and that run starts again.
    """

    def __init__(self, path: str) -> None:
        lock: Any = FlockLock if os.name == "posix" else JournalFileOpenLock
        self._path, self._guard = path, lock(path)
        super().__init__(path, lock_obj=self._guard)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line for each of `logs`."""
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        self._guard.acquire()
        try:
            with open(self._path, "ab") as file:
                file.write(lines.encode())
                file.flush()
                if any(entry["op_code"] == SET_STATE for entry in logs):
                    os.fsync(file.fileno())
        finally:
            self._guard.release()


class FlockLock:
    """A lock for Optuna's journal that the kernel releases when its process ends.

    Optuna's own lock leaves a symlink when its process is killed, and the next writer waits 30
    seconds. filelock is ten times slower (.2 to .4 ms), and every report takes the lock.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".flock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock. Raises TimeoutError after `LOCK_SECONDS`."""
        file, end = open(self._path, "a"), time.monotonic() + LOCK_SECONDS  # noqa: SIM115
        while True:
            if try_lock(file.fileno()):
                self._file = file  # closed by release
                return True
            if time.monotonic() > end:
                file.close()
                raise TimeoutError(f"another process has held {self._path} for {LOCK_SECONDS:g} s")
            time.sleep(0.002)

    def release(self) -> None:
        """Release the lock."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _repair(path: Path) -> None:
    """Remove damaged lines from a journal; a copy of the damaged file stays beside it.

    One torn line (full disk, power loss) joins the next write, and Optuna then cannot read the
    file. A trial with missing lines is trained again. Outcomes have a checksum with their key, so
    none can be assigned to another trial.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    good = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if len(good) == len(lines):
        return
    if len(good) == len(lines) - 1 and not lines[-1].endswith(b"\n"):
        os.truncate(path, sum(map(len, good)))  # only the last write was cut off
        return
    aside = path.with_name(f"{path.name}.broken")
    shutil.copyfile(path, aside)
    write_atomically(path, b"".join(good))
    log.warning(
        "%d of %d lines of %s are damaged and left out; the damaged file is kept as %s",
        len(lines) - len(good), len(lines), path, aside.name,
    )  # fmt: skip


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
