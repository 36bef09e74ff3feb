"""Commands: past studies listed, shown and compared; a study of one's own to start from."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __main__ as cli
from orchestrator.record import StudyRecord
from orchestrator.report.terminal import Terminal
from tests import records

pytestmark = pytest.mark.usefixtures("here")


def keep(name: str, record: StudyRecord | None = None, **changes: Any) -> Path:
    """Keep a study in runs/, as a study does."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    summary = {**(record or records.study()).summary(), "study": name, **changes}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(f"study_name: {name}\nseed: {len(name)}\n")
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_list_names_every_study_with_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Name, status, when, test result, time and recipe, the latest study last."""
    later, earlier = keep("later"), keep("earlier")
    os.utime(earlier / "summary.json", (1e9, 1e9))
    head, first, last = told(capsys, "list").splitlines()
    assert head.split() == ["study", "status", "when", "test", "result", "time", "answer"]
    assert first.startswith("earlier  complete  2001-09-09")
    assert last.startswith(f"{later.name}    complete")
    assert "accuracy 0.9736 ± 0.0012 (n = 3)  2 min 51 s  lr 0.0892, momentum 0.95" in last


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("", "damaged"),
        ('{"schema": 1}', "damaged"),
        ('{"schema": 1, "recipe": [], "final": {"metric": 3}, "cost": null}', "damaged"),
        ('{"schema": 0}', "of another version (schema 0, not 1)"),
        (None, "not finished"),
    ],
)
def test_a_study_that_cannot_be_read_is_listed_as_such(
    text: str | None, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bad summary.json hides no other study; `show` and `compare` refuse it in one line."""
    keep("good")
    bad = keep("bad") / "summary.json"
    if text is None:
        bad.unlink()
    else:
        bad.write_text(text)
    lines = told(capsys, "list").splitlines()
    assert any(line.startswith(f"bad    {status}") for line in lines)
    assert any(line.startswith("good   complete") for line in lines)
    for arguments in (["show", "bad"], ["compare", "good", "bad"]):
        line = told(capsys, *arguments, code=2)
        assert line.count("\n") == 1
        assert status.split()[0] in line


@pytest.mark.parametrize("status", ["complete", "undecided", "interrupted", "failed"])
def test_show_says_what_the_study_said(status: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The closing lines again, to the letter."""
    folder = keep("digits", records.study(status))
    Terminal().finished(records.study(status), folder)
    said = capsys.readouterr().out
    assert told(capsys, "show", "digits") == said


def test_studies_of_before_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A summary.json without the keys that came later is no error."""
    summary = records.study().summary()
    for key in ("overrides", "model_dropout", "budget"):
        del summary[key]
    del summary["cost"]["runs"]
    del summary["cost"]["audit"]
    keep("old")
    Path("runs/old/summary.json").write_text(json.dumps(summary))
    text = told(capsys, "show", "old")
    assert "cost              " in text
    assert "the same command with study_name=digits-again" in text


def test_compare_marks_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    """Recipe, decisions, accuracy and cost beside each other, and the changed settings."""
    summary = records.study().summary()
    keep("one")
    keep("three", recipe={**summary["recipe"], "max_lr": 0.5})
    text = told(capsys, "compare", "one", "three")
    lines = {cells[0]: cells[1:] for x in text.splitlines() if (cells := re.split("  +", x))}
    assert lines["max_lr *"] == ["0.0892", "0.5"]
    assert lines["max_momentum"] == ["0.95", "0.95"]
    assert "stage momentum" in lines
    assert "  seed: 3 -> 5" in text
    assert "study_name" not in text
    assert told(capsys, "compare", "one", "one").endswith("the settings are the same\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "digitz"], "digitz: no such study in runs/; did you mean digits?"),
        (["compare", "digits", "x"], "x: no such study in runs/; `list` names them"),
        (["show", "digits", "runs=other"], "digits: no such study: there is none in other/ yet"),
        (["show", "../digits"], "../digits: no such study"),
        (["shwo", "digits"], "did you mean show?"),
        (["compare", "digits"], "the command is: python -m orchestrator compare A B"),
        (["list", "--all"], "the command is: python -m orchestrator list"),
    ],
)
def test_a_wrong_name_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a hint at what was meant."""
    keep("digits")
    text = told(capsys, *arguments, code=2)
    assert text.count("\n") == 1
    assert line in text


def test_no_studies_are_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without any says so."""
    assert told(capsys, "list", "runs=elsewhere") == "no studies in elsewhere/\n"


def test_list_is_fast_and_imports_nothing_heavy() -> None:
    """The answer is there in half a second of processor time; no torch, MLflow or Hydra."""
    keep("digits")
    code = (
        "import sys, time; from orchestrator import __main__ as cli;"
        "[cli.run(c) for c in (['list'], ['show', 'digits'], ['compare', 'digits', 'digits'])];"
        "print(set(sys.modules) & {'torch', 'mlflow', 'hydra', 'optuna', 'pydantic', 'rich'});"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, heavy, seconds = done.stdout.splitlines()
    assert heavy == "set()"
    assert float(seconds) < 1  # .2 on a quiet machine


# --- init


def test_init_writes_a_study_that_runs_at_once(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init mystudy`, then `+study=mystudy`: an answer without a change to any file."""
    assert "+study=mystudy" in told(capsys, "init", "mystudy")
    found = {str(f.relative_to(here)) for f in here.rglob("*") if f.is_file()}
    assert found == {
        "mystudy.py",
        *(f"conf/{group}/mystudy.yaml" for group in ("study", "model", "data")),
    }
    command = [sys.executable, "-m", "orchestrator", "+study=mystudy", "tracking=none"]
    command += ["plan=[lr_range,final]", "stages.final.epochs=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((here / "runs/mystudy/summary.json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("digits", "a built-in study has this name"),
        ("random", "a Python module has this name already"),
        ("numpy", "a Python module has this name already"),
        ("my-study", "must be lower-case letters, digits and _"),
        ("1", "must be lower-case letters, digits and _, beginning with a letter"),
        ("../x", "must be lower-case letters, digits and _"),
    ],
)
def test_init_refuses_names_that_cannot_work(
    here: Path, name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and nothing is written."""
    assert why in told(capsys, "init", name, code=2)
    assert list(here.iterdir()) == []


def test_init_in_a_folder_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system: exit code 2, and what could not be written."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = "init foo2: conf/study/foo2.yaml cannot be written (Read-only file system)\n"
    assert told(capsys, "init", "foo2", code=2) == line


def test_init_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If one of its files is there, none is written."""
    (here / "mystudy.py").write_text("mine\n")
    assert "mystudy.py exists and is not overwritten" in told(capsys, "init", "mystudy", code=2)
    assert [f.name for f in here.iterdir()] == ["mystudy.py"]
    assert (here / "mystudy.py").read_text() == "mine\n"
