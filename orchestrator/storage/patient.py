"""A database that may be away for a while: each call is tried again with growing pauses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy.exc import InterfaceError, OperationalError

from orchestrator.errors import one_line
from orchestrator.system import signals

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds


class Patience:
    """Tries calls again while a database cannot be reached, for `seconds` of one outage at most.

    After that, calls are tried once, until one succeeds.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since: float | None = None  # of the outage

    def retry(self, call: Callable[[bool], T]) -> T:
        """Return what `call` returns; its argument is whether it was tried before.

        Raises what it raises, if that is not about the connection or the time is over.
        """
        pause, again = FIRST_PAUSE, False
        while True:
            try:
                found = call(again)
            except Exception as error:
                if not _is_connection(error) or not self._goes_on(error):
                    raise
            else:
                if self._since is not None:
                    away = time.monotonic() - self._since
                    log.warning("the database is back after %.1f s", away)
                    self._since = None
                return found
            _sleep(pause)
            pause, again = min(2 * pause, LONGEST_PAUSE), True

    def _goes_on(self, error: Exception) -> bool:
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "the database cannot be reached (%s); tried again for %g s (storage.retry_seconds)",
                one_line(_cause(error)), self.seconds,
            )  # fmt: skip
        return time.monotonic() - self._since < self.seconds


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_connection(error: BaseException | None) -> bool:
    """Whether an error is about the connection, and not about what was asked."""
    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            return True
        error = error.__cause__
    return False


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        signals.check()
        time.sleep(min(left, 0.2))


class _Storage:
    """What `Patient` adds to Optuna's interface of a storage."""

    def __init__(self, storage: BaseStorage, patience: Patience) -> None:
        self._backend, self._patience = storage, patience

    @property
    def engine(self) -> Any:
        """SQLAlchemy's engine."""
        backend: Any = self._backend  # Optuna's cache in front of the database
        return backend._backend.engine

    def _call(self, name: str, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
        method = getattr(self._backend, name)

        def call(again: bool) -> Any:
            # What was cut off may have arrived: it must not be done twice.
            if again and name == "create_new_trial" and (made := self._made(*args, **more)):
                return made
            try:
                return method(*args, **more)
            except UpdateFinishedTrialError:
                if again:
                    return True
                raise

        return self._patience.retry(call)

    def _made(self, study_id: int, template_trial: Any = None) -> int | None:
        """Return the id of a trial that was made of this template, None without one."""
        if template_trial is None:
            return None
        running = (TrialState.RUNNING,)
        for trial in self._backend.get_all_trials(study_id, deepcopy=False, states=running):
            if trial.user_attrs == template_trial.user_attrs:
                return int(trial._trial_id)
        return None


def _method(name: str) -> Callable[..., Any]:
    def call(self: _Storage, *args: Any, **more: Any) -> Any:
        return self._call(name, args, more)

    return call


METHODS = [name for name in dir(BaseStorage) if not name.startswith("_")]
# Optuna's storage over another one, each of whose methods is tried again.
Patient: Any = type("Patient", (_Storage, BaseStorage), {name: _method(name) for name in METHODS})
