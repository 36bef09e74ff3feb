"""--multirun: a study for each combination, named by its values; one table, the worst exit code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import __main__ as cli
from orchestrator.commands import multirun
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.study import walk

pytestmark = pytest.mark.usefixtures("here", "without_figures")


def jobs(*arguments: str) -> list[multirun.Job]:
    return multirun.jobs(cli.parse(arguments), arguments)


def names(*arguments: str) -> list[str]:
    return [job.config.study_name for job in jobs("--multirun", *arguments)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("+study=quadratic seed=1,2,3", "quadratic-seed1 quadratic-seed2 quadratic-seed3"),
        ("+study=digits,quadratic", "digits quadratic"),
        (
            "+study=digits,quadratic seed=range(2)",
            "digits-seed0 digits-seed1 quadratic-seed0 quadratic-seed1",
        ),
        ("+study=digits model=mlp,conv3 study_name=x", "x-mlp x-conv3"),
        ("+study=digits recipe.max_lr=choice(0.1,0.01)", "digits-max_lr0.1 digits-max_lr0.01"),
        (
            "+study=digits plan=[final],[lr_range,final] recipe.max_lr=1",
            "digits-planfinal digits-planlr_range_final",
        ),
        ("+study=digits study_name=a,b", "a b"),
        ("+study=digits seed=4", "digits"),
    ],
)
def test_each_job_has_its_own_name(arguments: str, expected: str) -> None:
    """The study's name and what is swept, in Hydra's own grammar and order."""
    assert names(*arguments.split()) == expected.split()


def test_a_long_name_is_cut_and_stays_unlike_others() -> None:
    """A name is at most 80 characters, as the schema wants it."""
    values = ",".join(f"0.{digit * 70}" for digit in "1234")
    found = names("+study=quadratic", f"recipe.max_lr={values}")
    assert len(set(found)) == 4
    assert max(map(len, found)) <= multirun.LONGEST


def test_every_job_has_the_settings_that_it_would_have_alone() -> None:
    """Its arguments, given without --multirun, make the same config; flags go along."""
    Path("mine").mkdir()
    for job in jobs("-m", "--config-dir", "mine", "+study=quadratic", "seed=1,2"):
        assert job.arguments[:2] == ("--config-dir", "mine")
        assert Config.from_mapping(cli.compose(cli.parse(job.arguments))) == job.config


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["+study=quadratic", "seed=1,-1,x"], ["seed: -1 is not", "seed: 'x' is not"]),
        (["+study=quadratic,nope"], ["Could not find 'study/nope'"]),
        (["+study=quadratic", "seed=interval(0,1)"], ["does not support sweep type"]),
        (["+study=digits,quadratic", "study_name=x"], ["two studies would be named x"]),
    ],
)
def test_mistakes_of_all_jobs_are_told_before_any_runs(
    arguments: list[str], lines: list[str], here: Path
) -> None:
    """One line each, and nothing on the disk."""
    with pytest.raises(ConfigError) as wrong:
        jobs("--multirun", *arguments)
    assert all(part in line for part, line in zip(lines, wrong.value.lines, strict=True))
    assert list(here.iterdir()) == []


def test_a_sweep_ends_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Real studies, one after the other; each keeps the overrides that make it alone."""
    arguments = ["+study=quadratic", "plan=[lr_range,final]", "seed=1,2", "--quiet"]
    assert cli.run(["--multirun", *arguments]) == 0
    *_, head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("study ")
    assert first.startswith("quadratic-seed1  complete")
    assert second.startswith("quadratic-seed2  complete")
    kept = json.loads(Path("runs/quadratic-seed2/summary.json").read_text())["overrides"]
    assert kept[:3] == ["+study=quadratic", "plan=[lr_range,final]", "seed=2"]
    assert "study_name=quadratic-seed2" in kept


@pytest.mark.parametrize(
    ("endings", "code", "ran"),
    [
        (["complete", "complete", "complete"], 0, 3),
        (["complete", "undecided", "complete"], 1, 3),
        (["undecided", "wrong", "complete"], 2, 3),
        (["complete", "interrupted", "complete"], 130, 2),
    ],
)
def test_the_exit_code_is_the_worst(
    endings: list[str], code: int, ran: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job without an answer or with a wrong request stops no other; an interruption does."""
    seen: list[int] = []

    def run_study(config: Config, *_: Any) -> SimpleNamespace:
        seen.append(config.seed)
        if endings[len(seen) - 1] == "wrong":
            raise ConfigError("data.path: nothing there")
        return SimpleNamespace(status=endings[len(seen) - 1])

    monkeypatch.setattr(walk, "run_study", run_study)
    assert cli.run(["-m", "+study=quadratic", "seed=1,2,3"]) == code
    assert len(seen) == ran
