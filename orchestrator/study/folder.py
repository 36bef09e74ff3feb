"""The folder of a study, `runs/<study_name>/`: locks it, starts it over, and writes its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.redact import Formatter
from orchestrator.storage import backend
from orchestrator.storage.lease import Lease
from orchestrator.storage.states import open_states
from orchestrator.study import lock


@contextmanager
def owned(
    config: Config, folder: Path, database: backend.Storage | None, lease: Lease | None = None
) -> Iterator[None]:
    """Return a context that holds the study's lock; fresh=true first renames an existing folder."""
    with ExitStack() as stack:
        with writable(folder):
            old = folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.held(folder))
            if config.fresh:
                _set_aside(config, folder, old, database)
                if lease is not None:
                    lease.forget()
                folder.mkdir(exist_ok=True)
                stack.enter_context(lock.held(folder) if old else nullcontext())
        yield


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Return a context that turns an OSError into a ConfigError."""
    try:
        yield
    except OSError as error:
        problem = error.strerror or str(error)
        raise ConfigError(
            f"{folder} cannot be written ({problem}): set runs=... to a folder that can be written"
        ) from error


def _set_aside(config: Config, folder: Path, old: bool, database: backend.Storage | None) -> None:
    """Rename folder and trials of an earlier study of this name, so that this one starts over."""
    suffix = time.strftime(".old-%Y%m%d-%H%M%S")
    while folder.with_name(folder.name + suffix).exists():  # twice in a second
        suffix += "+"
    if old:
        folder.rename(folder.with_name(folder.name + suffix))
    if config.storage.checkpoints is not None:
        states = open_states(config.storage.checkpoints, config.study_name, folder)
        states.set_aside(suffix)
    if database is not None:
        backend.set_aside(database, config.study_name, suffix)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Return a context in which the program's log goes to `path` and nowhere else."""
    handler = _LogFile(path)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("orchestrator")
    before = logger.level, logger.propagate  # the caller's
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _LogFile(logging.FileHandler):
    """A log file that prints nothing on the terminal if it cannot be written (a full disk)."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the file; lines that a full disk did not take are dropped."""
        with suppress(OSError):
            super().close()
