"""Errors of the request and of the machine, which the command line prints without a traceback.

Exception
├── ConfigError    the config is wrong; one line for each problem
└── StorageError   a study's files cannot be read or written: full disk, locked or lost database
    └── ClusterError   the cluster that trains the study's runs is lost
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST = 300  # characters of an error message that are shown: some libraries quote whole files


class ConfigError(Exception):
    """The request is wrong; nothing has run.

    Args:
        lines: One line for each problem, each with what to do about it.
    """

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


class StorageError(Exception):
    """The study's storage failed, not one of its runs; the same command resumes the study."""


class ClusterError(StorageError):
    """The cluster that trains the study's runs is lost; the same command resumes the study."""


# Of torch on a processor, CUDA's runtime, cuBLAS, cuDNN 8 and 9, and Apple's backend.
NO_MEMORY = (
    "can't allocate memory", "not enough memory", "CUDA error: out of memory",
    "ALLOC_FAILED", "ALLOCATION_FAILED", "backend out of memory",
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: by the type of the error, or by its message."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in NO_MEMORY)
    )


def one_line(error: BaseException, *, named: bool = False) -> str:
    """Return the error's message as one line of at most `LONGEST` characters, cut at a word.

    `named`: with its type in front. An error without a message is its type alone.
    """
    name, whole = type(error).__name__, " ".join(str(error).split())
    text = shorten(whole, LONGEST, placeholder=" ...")
    if text == "...":  # the first word alone is too long
        text = whole[:LONGEST]
    return ": ".join(filter(None, (name, text))) if named or not text else text


@contextmanager
def storing(what: str = "the study's trials") -> Iterator[None]:
    """Return a context that turns exceptions into a StorageError about `what`, one line."""
    try:
        yield
    except (StorageError, ConfigError):
        raise
    except Exception as error:  # Optuna, SQLAlchemy and the drivers of databases raise many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:  # the driver's own message is the clearest
            cause = cause.__cause__
        full = isinstance(cause, OSError) and cause.errno in FULL
        cure = "free some disk space" if full else "fix this"
        raise StorageError(
            f"{what}: {one_line(cause)}; {cure}, then run the same command to resume"
        ) from error


def nearest(word: object, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return "did you mean ...?" with the names nearest to a misspelt `word`, "" if none is near.

    `cutoff`: the least similarity, from 0 to 1 (equal).
    """
    close = difflib.get_close_matches(str(word), list(names), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""
