"""Writes files atomically, with a checksum if wanted, and locks them."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)
MAGIC = b"orchestrator\x01\n"
HEAD = len(MAGIC) + hashlib.sha256().digest_size
UNFINISHED = ".tmp"  # suffix of a file that is being written, or whose writer was killed


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` at the end, atomically and with fsync.

    Several processes may write the same `path` at once: the last one wins. After an exception
    `path` is unchanged, and the new file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not with `tempfile`, whose files only their owner can read.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{UNFINISHED}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # on a full disk the new file takes space that is needed
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, with fsync."""
    with replacing(path) as file:
        file.write(data)


def sealed(data: bytes) -> bytes:
    """Return the SHA-256 of `data` and `data`."""
    return MAGIC + hashlib.sha256(data).digest() + data


def unsealed(found: bytes) -> bytes | None:
    """Return what `sealed` was given, None if the checksum is wrong or the format another one."""
    seal, data = found[:HEAD], found[HEAD:]
    return data if seal == MAGIC + hashlib.sha256(data).digest() else None


def write_sealed(path: Path, data: bytes) -> None:
    """Write `data` with a checksum, atomically."""
    write_atomically(path, sealed(data))


def read_sealed(path: Path) -> bytes | None:
    """Return what `write_sealed` wrote, None without a file.

    A file that is damaged or of another format is renamed, with a warning; None too.
    """
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    data = unsealed(found)
    if data is None:
        aside = set_aside(path)
        log.warning("%s is damaged; it is renamed to %s and not used", path, aside.name)
        return None
    return data


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used, instead of deleting it; return its new path."""
    aside = path.with_name(f"{path.name}.broken")
    with suppress(FileNotFoundError):  # another process was first
        os.replace(path, aside)
    return aside


def try_lock(handle: int) -> bool:
    """Lock the open file for this process; return False if another process holds the lock.

    The kernel releases the lock with the last descriptor. Windows has no flock: always True there,
    so two commands on one study are possible.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
