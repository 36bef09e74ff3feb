"""Ctrl-C (SIGINT) and pre-emption (SIGTERM): the work is brought to a good end, then stopped.

The first signal is only noted: the run in progress keeps a checkpoint at its next step and then
calls `check`, which raises. Where nothing calls it within `GRACE_SECONDS`, an alarm raises wherever
the program is. Further signals change nothing, so two in a row do no harm.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE_SECONDS = 5.0  # of the 10 s that a cluster is sure to leave us
HAS_ALARM = hasattr(signal, "SIGALRM")  # not on Windows: a signal waits there for `check`
_noted = 0  # the first signal
_patient = False  # whether somebody is going to call `check`
_raised = False


class Interrupted(KeyboardInterrupt):
    """The user or the machine wants the program to end."""


def noted() -> bool:
    """Whether a signal has come, and a checkpoint is wanted now. Costs nothing to ask."""
    return bool(_noted) and not _raised


def check() -> None:
    """Raise Interrupted if a signal has come: to be called where nothing is lost by it."""
    if noted():
        _raise()


def exit_code() -> int:
    """Return the exit code of a program that was interrupted: 143 by SIGTERM, else 130."""
    return 128 + (_noted or signal.SIGINT)


@contextmanager
def handled() -> Iterator[None]:
    """Handle both signals within the context; elsewhere than in the main thread do nothing."""
    global _noted, _raised
    _noted, _raised = 0, False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours: dict[signal.Signals, Any] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), _note)
    if HAS_ALARM:
        ours[signal.SIGALRM] = _alarm
    before: dict[signal.Signals, Any] = {s: signal.signal(s, do) for s, do in ours.items()}
    try:
        yield
    finally:
        _set_alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patiently() -> Iterator[None]:
    """Within the context somebody calls `check` now and then: signals wait for that."""
    global _patient
    before, _patient = _patient, True
    try:
        yield
    finally:
        _patient = before


def _note(number: int, _: FrameType | None) -> None:
    global _noted
    if _noted:
        return
    _noted = number
    if not _patient:
        _raise()
    _set_alarm(GRACE_SECONDS)


def _set_alarm(seconds: float) -> None:
    if HAS_ALARM:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _alarm(*_: object) -> None:
    if not _raised:
        _raise()


def _raise() -> None:
    global _raised
    _raised = True
    raise Interrupted
