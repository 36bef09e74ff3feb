"""Files: written in one piece or not at all, sealed against changed bytes, locked."""

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
UNFINISHED = ".tmp"  # the suffix of a file that is being written, or whose writer was killed


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` at the end: in one piece, and on the disk.

    Several processes may write the same `path` at once: the last one wins. After an exception
    `path` is as it was, and nothing is left of the new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`, whose files only their owner may read.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{UNFINISHED}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk: what was written takes room that is needed
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one piece or not at all, and onto the disk."""
    with replacing(path) as file:
        file.write(data)


def write_sealed(path: Path, data: bytes) -> None:
    """Write `data` atomically behind its SHA-256."""
    write_atomically(path, MAGIC + hashlib.sha256(data).digest() + data)


def read_sealed(path: Path) -> bytes | None:
    """Return what `write_sealed` wrote, None if there is none.

    A file that is torn, corrupted or of another format is set aside, with a warning: None too.
    """
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    seal, data = found[:HEAD], found[HEAD:]
    if seal != MAGIC + hashlib.sha256(data).digest():
        aside = set_aside(path)
        log.warning("%s is damaged; it is set aside as %s and not used", path, aside.name)
        return None
    return data


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used, so that nothing is lost; return its new path."""
    aside = path.with_name(f"{path.name}.broken")
    with suppress(FileNotFoundError):  # another process was first
        os.replace(path, aside)
    return aside


def try_lock(handle: int) -> bool:
    """Lock the open file for this process alone; False if another one holds it.

    The kernel drops the lock with the last descriptor. Windows has no flock: always True there, so
    nothing keeps two commands on one study apart.
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
