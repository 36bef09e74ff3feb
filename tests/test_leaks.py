"""Each test has a process like the one before it: what makes it so works."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from leaks import refused, undone


def test_what_a_test_does_to_its_process_is_undone(tmp_path: Path) -> None:
    """Variables set, changed and removed, the working folder, sys.path, threads, user modules."""
    os.environ["KEPT"] = "1"
    before = dict(os.environ), os.getcwd(), list(sys.path), torch.get_num_threads()
    (tmp_path / "of_a_user.py").touch()
    with undone(tmp_path):
        os.environ["KEPT"] = "2"
        os.environ["MLFLOW_TRACKING_URI"] = "http://elsewhere"
        del os.environ["PATH"]
        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))
        torch.set_num_threads(before[3] + 1)
        __import__("of_a_user")
    assert (dict(os.environ), os.getcwd(), list(sys.path), torch.get_num_threads()) == before
    assert "of_a_user" not in sys.modules


Undo = Callable[[], object]


def _handle() -> Undo:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGTERM, before)


def _silence() -> Undo:
    logger = logging.getLogger("orchestrator")
    logger.propagate = False
    return lambda: setattr(logger, "propagate", True)


def _listen() -> Undo:
    logger, handler = logging.getLogger(), logging.NullHandler()
    logger.addHandler(handler)
    return lambda: logger.removeHandler(handler)


def _read_on() -> Undo:
    pool = ThreadPoolExecutor(1, "orchestrator-stream")
    pool.submit(int)
    return pool.shutdown


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (_handle, "leaves signal handlers: .*SIG_IGN"),
        (_silence, r"leaves logger orchestrator: \(\d+, False"),
        (_listen, "leaves logger root: .*NullHandler"),
        (_read_on, r"leaves threads: \['orchestrator-stream_0'\], before it \[\]"),
    ],
)
def test_what_the_program_has_to_undo_itself_is_noticed(
    leave: Callable[[], Undo], said: str
) -> None:
    """Signal handlers and loggers are the caller's, and no thread of ours outlives its run."""
    undo: Undo = int
    try:
        with pytest.raises(AssertionError, match=said), refused():
            undo = leave()
    finally:
        undo()
