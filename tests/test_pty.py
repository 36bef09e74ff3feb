"""A real terminal: a live line on it, and plain lines wherever somebody asks for them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from programs import shown_on

COMMAND = [sys.executable, "-m", "orchestrator", "+study=quadratic", "plan=[lr_range,final]"]


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Return what a command shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    shown = shown_on(ours)
    assert command.wait() == 0, shown
    return shown


def test_a_terminal_shows_the_run_in_progress(here: Path) -> None:
    """Stage, trial, losses and time left on a live line; the cursor is there again at the end."""
    shown = on_a_terminal()
    assert "1/1 bracket to 10 seed 0" in shown
    assert "held-out" in shown
    assert "\x1b[?25l" in shown  # the cursor is hidden while the line lives
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [([], {"NO_COLOR": "1"}), ([], {"CI": "true"}), ([], {"TERM": "dumb"}), (["--quiet"], {})],
)
def test_plain_lines_on_a_terminal(
    here: Path, arguments: list[str], environment: dict[str, str]
) -> None:
    """No control character at all: NO_COLOR, CI, a dumb terminal, --quiet."""
    shown = on_a_terminal(*arguments, **environment)
    assert "\x1b" not in shown
    assert "complete          quadratic" in shown
    assert ("lr_range          max_lr" in shown) is not bool(arguments)
