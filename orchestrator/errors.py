"""What goes wrong because of the request or the machine: the command line prints it plainly.

Exception
├── ConfigError    the config asks for what cannot be done; every problem one line
└── StorageError   what a study keeps cannot be written or read: full disk, locked or gone database
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST = 300  # characters of an error that are shown: some libraries quote whole files


class ConfigError(Exception):
    """The request is wrong, nothing has run. `lines`: one problem each, each with its way out."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


class StorageError(Exception):
    """The study cannot go on where it is, and no run is to blame; the same command continues it."""


# Of torch on a processor, CUDA's runtime, cuBLAS, cuDNN 8 and 9, and Apple's backend.
NO_MEMORY = (
    "can't allocate memory", "not enough memory", "CUDA error: out of memory",
    "ALLOC_FAILED", "ALLOCATION_FAILED", "backend out of memory",
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; not only torch.OutOfMemoryError: libraries say it in words."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in NO_MEMORY)
    )


def one_line(error: BaseException, *, named: bool = False) -> str:
    """Return the error's message as one line of at most `LONGEST` characters, cut at a word.

    `named`: with its type in front. An error without a message is its type alone.
    """
    name, text = type(error).__name__, shorten(str(error), LONGEST, placeholder=" ...")
    if text == "...":  # its first word alone is too long
        text = str(error).split()[0][:LONGEST]
    return ": ".join(filter(None, (name, text))) if named or not text else text


@contextmanager
def storing(what: str = "the study's trials") -> Iterator[None]:
    """Within it, whatever goes wrong becomes a StorageError that says so of `what`, in one line."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # Optuna, SQLAlchemy and the drivers of databases raise many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:  # the driver's own words are the clearest
            cause = cause.__cause__
        full = isinstance(cause, OSError) and cause.errno in FULL
        cure = "make room" if full else "put that right"
        raise StorageError(
            f"{what}: {one_line(cause)}; {cure}, then the same command goes on"
        ) from error


def nearest(word: object, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return "did you mean ...?" with the names nearest to a misspelt `word`, "" without any.

    `cutoff`: how near, from 0 to 1 (the same).
    """
    close = difflib.get_close_matches(str(word), list(names), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""
