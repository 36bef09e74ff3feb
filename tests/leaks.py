"""What a test leaves in its process: some of it is undone, the rest must not be there."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def undone(folder: Path) -> Iterator[None]:
    """Undo what the block does to the environment, working folder, sys.path and torch's threads.

    Modules that it imported from files below `folder` are forgotten.
    """
    environ, here, path, modules = dict(os.environ), os.getcwd(), list(sys.path), set(sys.modules)
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        for name in os.environ.keys() - environ:
            del os.environ[name]
        os.environ.update(environ)
        os.chdir(here)
        sys.path[:] = path
        for name in sys.modules.keys() - modules:
            if _lies_below(folder, sys.modules[name]):
                del sys.modules[name]
        if torch and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _lies_below(folder: Path, module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


@contextmanager
def refused() -> Iterator[None]:
    """Fail if the block leaves a signal handler, an alarm, a thread of ours or a changed logger."""
    before = _state()
    yield
    after = _state()
    changed = [
        f"{name}: {after[name]}, before it {before[name]}"
        for name in before
        if after[name] != before[name]
    ]
    assert not changed, "the test leaves " + "; ".join(changed)


def _state() -> dict[str, object]:
    """Return what the program itself has to leave as it found it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    return {
        "signal handlers": {number.name: signal.getsignal(number) for number in numbers},
        "an alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "threads": [t.name for t in threading.enumerate() if t.name.startswith("orchestrator")],
        **{f"logger {name or 'root'}": _logger(name) for name in ("", "orchestrator")},
    }


def _logger(name: str) -> tuple[int, bool, list[logging.Handler]]:
    """Return level, propagation and handlers of a logger; pytest's own handlers come and go."""
    logger = logging.getLogger(name)
    handlers = [h for h in logger.handlers if not type(h).__module__.startswith("_pytest")]
    return logger.level, logger.propagate, handlers
