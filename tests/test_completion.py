"""Completion in the shell: what is offered, and that real shells take it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import shown_on

from orchestrator import __main__ as cli


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("orchestrator sh", ["show"]),
        ("orchestrator +study=d", ["+study=digits"]),
        ("python -m orchestrator model=resnet1", ["model=resnet18"]),
        ("orchestrator +study=digits recipe.max_l", ["recipe.max_lr="]),
        ("orchestrator show ", ["digits"]),
        ("orchestrator list ", []),
    ],
)
def test_completion_offers_what_may_stand_there(
    line: str,
    offered: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands, keys and choices from the conf folders, and the names of past studies."""
    (here / "runs/digits").mkdir(parents=True)
    (here / "runs/digits/config.yaml").touch()
    monkeypatch.setenv("COMP_LINE", line)
    assert cli.run(["--shell-completion", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == offered


@pytest.mark.parametrize("what", ["", "install=tcsh", "x=bash"])
def test_a_wrong_completion_request_is_one_line(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    assert cli.run(["--shell-completion", *filter(None, [what])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


TYPED = {
    "python -m orchestrator +study=d": "python -m orchestrator +study=digits",
    "python -m orchestrator +study=digits recipe.max_l": (
        "python -m orchestrator +study=digits recipe.max_lr="
    ),
    "orchestrator show dig": "orchestrator show digits",
    "python mi": "python mine.py",  # nothing of ours: files, as before
}
SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}
HOME, END = "\x01", "\x05"


@pytest.mark.parametrize(("shell", "options"), SHELLS.items())
def test_a_real_shell_completes_what_is_typed(shell: str, options: list[str], here: Path) -> None:
    """A study, a key, a past study, after a tab on a terminal; also after it was installed twice.

    The completed line is not run: the shell is made to `echo` it into a file.
    """
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (apt install {shell})")
    (here / "runs/digits").mkdir(parents=True)
    (here / "runs/digits/config.yaml").touch()
    (here / "mine.py").touch()
    install = f'eval "$(python -m orchestrator --shell-completion install={shell})"\n'
    keys = f'python() {{ "{sys.executable}" "$@"; }}\n'
    keys += 'orchestrator() { python -m orchestrator "$@"; }\n'
    keys += install * 2
    keys += "".join(f"{typed}\t{HOME}echo {END} >> found\n" for typed in TYPED)
    shown = on_a_terminal([shell, *options], keys + "exit\n")
    assert (here / "found").is_file(), shown
    found = [line.rstrip() for line in (here / "found").read_text().splitlines()]
    assert found == list(TYPED.values()), shown


def on_a_terminal(command: list[str], keys: str) -> str:
    """Return what a command shows to whoever types `keys`, until it ends."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "HOME": str(Path.cwd()), "HISTFILE": ""}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={k: v for k, v in environment.items() if k not in ("EDITOR", "VISUAL", "ZDOTDIR")},
        start_new_session=True,
    ):
        os.close(theirs)
        os.write(ours, keys.encode())
        return shown_on(ours)
