"""The lock of a study: one process at a time, by flock on a file in the study's folder.

The kernel releases the lock when its process ends. The file names the process; without the lock its
content has no meaning.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.storage.paths import StudyPaths
from orchestrator.system.files import try_lock
from orchestrator.system.host import lives

ORPHANS_SECONDS = 10.0  # how long worker processes may outlive the owner that was killed
_held: set[int] = set()  # file descriptors


def _let_go() -> None:
    """Close the inherited lock file in a forked child, which would otherwise keep the lock."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Return a context that holds the lock of the study in `folder`, which must exist.

    Raises ConfigError, with the process that holds it, its host and since when, if another process
    has the lock; OSError if the folder cannot be written. If the named process is dead, its workers
    may still hold the lock: this waits for them, 10 s at most. On a network disk it needs a file
    system with flock (NFS 4 has it).
    """
    handle = _locked(StudyPaths(folder).lock)
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _locked(file: Path) -> int:
    """Lock the file, write our name into it, and return its descriptor."""
    end = time.monotonic() + ORPHANS_SECONDS
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if try_lock(handle) and _is(handle, file):
                _sign(handle)
                return handle
            holder = _read(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if _lives(holder) or time.monotonic() > end:
            raise ConfigError(_refusal(file, holder))
        time.sleep(0.1)


def _is(handle: int, file: Path) -> bool:
    """Whether the open file still has its name: fresh=true may have renamed the folder."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, text.encode() + b"\n")


def _read(handle: int) -> dict[str, Any]:
    """Return what the holder wrote; {} while it is writing."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 1000))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process named in the lock is alive; assumed so for one on another host."""
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    return lives(int(holder["pid"]))


def _refusal(file: Path, holder: dict[str, Any]) -> str:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
    name = file.parent.name
    return (
        f"study {name} is being run by {who} (it holds {file}):"
        " wait for it, end it, or choose another study_name"
    )
