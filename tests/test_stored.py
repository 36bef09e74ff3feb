"""Studies that earlier versions left in a user's folder: tests/stored/VERSION/ holds them.

Without their networks, which are large: all of a study's answer is in its ledger.
"""

import gzip
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __main__ as cli
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.training import objective as training

STORED = Path(__file__).parent / "stored"
QUIET = ["study_name=stored", "quiet=true"]
AS_THEN = ["effort=thorough", "recipe.weight_decay=5e-4"]  # what was not a choice then
COMMANDS = {  # that made them
    "quadratic": ["+study=quadratic", *AS_THEN, *QUIET],
    "digits": [
        *["+study=digits", "model=mlp", "data.train_examples=400", "recipe.batch_size=20"],
        *["plan=[lr_range,momentum,weight_decay,batch_size,final]", "stages.final.epochs=3"],
        *["stages.momentum.candidates=[0.95,0.9]", "stages.weight_decay.candidates=[1e-3,0]"],
        *["stages.batch_size.candidates=[20,40]", "device=cpu", "threads=1", "tracking=none"],
        *AS_THEN,
        *QUIET,
    ],
}


@pytest.fixture(params=sorted(str(p.relative_to(STORED)) for p in STORED.glob("*/*")))
def name(request: pytest.FixtureRequest) -> str:
    """Version and study."""
    return str(request.param)


@pytest.fixture
def command(name: str) -> list[str]:
    """What made the study."""
    return COMMANDS[Path(name).name]


@pytest.fixture
def old(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of an old study, in an empty working folder where nothing can be trained."""
    folder = here / "runs" / "stored"
    shutil.copytree(STORED / name, folder)
    packed = folder / "optuna.journal.gz"
    (folder / "optuna.journal").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()

    def trained(*_: Any) -> None:
        raise AssertionError("a run of the old study was trained again")

    monkeypatch.setattr(QuadraticObjective, "_train", trained)
    monkeypatch.setattr(training, "DO", defaultdict(lambda: trained))
    return folder


def test_an_old_study_prints_its_answer_again(
    old: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command trains nothing, decides the same, and writes its report anew."""
    before = json.loads((old / "summary.json").read_text())
    assert cli.run(command) == 0
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


def test_a_folder_without_its_ledger_is_trained_again(old: Path, command: list[str]) -> None:
    """What keeps the tests above from passing is that nothing is known: they can fail."""
    (old / "optuna.journal").unlink()
    assert cli.run(command) == 1
