"""One owner a study: a lock on a file in the study's folder, which the kernel drops with its owner.

The file says who holds it. It stays behind when the owner ends, and then means nothing.
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
    """Close in a forked child what it inherited: else it would hold the lock for its parent."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the study in `folder` (it must exist) within the context.

    Raises ConfigError, which says who holds it, where and since when, if another process does;
    OSError if the folder cannot be written. A lock that is not said to be held by a living process
    is waited for, 10 s at most. On a network disk this needs a file system with flock (NFS 4 has).
    """
    handle = _locked(StudyPaths(folder).lock)
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _locked(file: Path) -> int:
    """Return the descriptor of the locked file, with our name in it."""
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
    """Return what the holder wrote; nothing while it is just writing."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 1000))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process named in the lock lives; one on another host is taken to live."""
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
