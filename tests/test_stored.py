"""Studies that earlier versions left in a user's folder; tests/stored/VERSION/ holds one each."""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __main__ as cli
from orchestrator.objectives.quadratic import QuadraticObjective

STORED = Path(__file__).parent / "stored"
COMMAND = ["+study=quadratic", "study_name=stored", "quiet=true"]


@pytest.fixture(params=sorted(p.name for p in STORED.iterdir()))
def old(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of an old study, in an empty working folder where nothing can be trained."""
    folder = here / "runs" / "stored"
    shutil.copytree(STORED / request.param, folder)
    packed = folder / "optuna.journal.gz"
    (folder / "optuna.journal").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()

    def trained(*_: Any) -> None:
        raise AssertionError("a run of the old study was trained again")

    monkeypatch.setattr(QuadraticObjective, "_train", trained)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def test_an_old_study_prints_its_answer_again(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command trains nothing, decides the same, and writes its report anew."""
    before = json.loads((old / "summary.json").read_text())
    assert cli.run(COMMAND) == 0
    after = json.loads((old / "summary.json").read_text())
    for key in ("schema", "status", "recipe", "stages", "final"):
        assert _like(before[key], after[key]), key
    assert "complete          stored" in capsys.readouterr().out
    assert after["stages"][0]["reason"].split(":")[0] in (old / "report.html").read_text()


def _like(old: Any, new: Any) -> bool:
    """Whether `new` says what `old` said; it may say more, and in other sentences."""
    if isinstance(old, dict):
        return all(
            key in new and (key == "reason" or _like(value, new[key])) for key, value in old.items()
        )
    if isinstance(old, list):
        return len(old) == len(new) and all(map(_like, old, new))
    return bool(old == new)


def test_an_old_summary_is_shown(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list` and `show` read it."""
    recipe = json.loads((old / "summary.json").read_text())["recipe"]
    for command in (["list"], ["show", "stored"]):
        assert cli.run(command) == 0
        printed = capsys.readouterr().out
        assert f"{recipe['max_lr']:.3g}" in printed
        assert "complete" in printed


def test_a_folder_without_its_ledger_is_trained_again(old: Path) -> None:
    """What keeps the tests above from passing is that nothing is known: they can fail."""
    (old / "optuna.journal").unlink()
    assert cli.run(COMMAND) == 1
