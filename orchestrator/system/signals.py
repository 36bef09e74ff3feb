"""Ctrl-C (SIGINT) and pre-emption (SIGTERM): the run writes a checkpoint, then the program stops.

The first signal is only noted: the run in progress writes a checkpoint at its next step and then
calls `check`, which raises. If nothing calls it within `GRACE_SECONDS`, an alarm raises wherever
the program is. Further signals have no effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE_SECONDS = 5.0  # of the 10 s that a cluster leaves at least
HAS_ALARM = hasattr(signal, "SIGALRM")  # not on Windows, where a signal waits for `check`
_noted = 0  # the first signal
_patient = False  # whether the program is in code that calls `check`
_raised = False


class Interrupted(KeyboardInterrupt):
    """The program was asked to end by a signal."""


def noted() -> bool:
    """Whether a signal has arrived, so that a checkpoint is due now; cheap to call."""
    return bool(_noted) and not _raised


def check() -> None:
    """Raise Interrupted if a signal has arrived; call it where the state has been saved."""
    if noted():
        _raise()


def exit_code() -> int:
    """Return the exit code of a program that was interrupted: 143 by SIGTERM, else 130."""
    return 128 + (_noted or signal.SIGINT)


@contextmanager
def handled() -> Iterator[None]:
    """Return a context that handles both signals; it does nothing outside the main thread."""
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
def kept() -> Iterator[None]:
    """Return a context that restores the handlers of signals: some libraries install their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patiently() -> Iterator[None]:
    """Return a context in which signals wait for the next call of `check`."""
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
