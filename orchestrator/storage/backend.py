"""Optuna's storage: opened, locked, repaired, set aside. What it holds is the ledger's affair."""

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
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from orchestrator.errors import storing
from orchestrator.storage.paths import StudyPaths
from orchestrator.system.files import try_lock, write_atomically

log = logging.getLogger(__name__)
Storage = BaseStorage  # for those who only hand it on
SET_STATE = 6  # the journal's code for it, SET_TRIAL_STATE_VALUES: part of its file format
LOCK_SECONDS = 60.0  # a write takes milliseconds: who holds the lock longer has stopped or hangs


def open_storage(name: str, url: str | None, folder: Path) -> BaseStorage:
    """Return the storage that the config names: "journal" (in `folder`), "memory" or "url"."""
    if name == "memory":
        return optuna.storages.InMemoryStorage()
    if name == "url":
        with storing("storage.url"):
            database = optuna.storages.get_storage(url)
            optuna.get_all_study_names(database)  # opening asks little: a locked one says so here
            return database
    with storing():
        return journal(StudyPaths(folder).journal)


def disconnect(database: BaseStorage) -> None:
    """Give a database's connections back now, not when Python happens to collect them."""
    engine = getattr(getattr(database, "_backend", database), "engine", None)
    if engine is not None:
        with suppress(Exception):  # a server that has gone takes nothing back
            database.remove_session()
        engine.dispose()


def set_aside(storage: BaseStorage, study: str, suffix: str) -> None:
    """Rename the Optuna studies of `study` by `suffix`; nothing is deleted but the old names."""
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
    """Optuna's journal file, which waits for the disk (fsync) only when a trial's state is set.

    All other lines are with the system at once: other processes see them, and a killed process
    loses none. A power loss costs what came after the last trial's end: that run starts again.
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
    """A lock for Optuna's journal that ends with its process.

    Optuna's own leaves a symlink behind when killed, and the next writer then waits 30 seconds.
    filelock takes ten times as long (.2 to .4 ms), and every report takes the lock.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".flock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock, waiting for it. Raises TimeoutError after `LOCK_SECONDS`."""
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
        """Give the lock back."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _repair(path: Path) -> None:
    """Take damaged lines out of a journal; the file as it was is kept beside it.

    One torn line (full disk, power loss) is glued to the next write, and Optuna then reads nothing.
    What the lost lines said of a trial is missing, so that it is trained again; outcomes are sealed
    with their key, so none can end up with another trial.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    good = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if len(good) == len(lines):
        return
    if len(good) == len(lines) - 1 and not lines[-1].endswith(b"\n"):
        os.truncate(path, sum(map(len, good)))  # the last write was cut off: nothing else is lost
        return
    aside = path.with_name(f"{path.name}.broken")
    shutil.copyfile(path, aside)
    write_atomically(path, b"".join(good))
    log.warning(
        "%d of %d lines of %s are damaged and left out; as it was it is kept as %s",
        len(lines) - len(good), len(lines), path, aside.name,
    )  # fmt: skip


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
