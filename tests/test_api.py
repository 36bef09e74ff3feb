"""Studies from Python: the answer of the command line, and nothing done to the caller's process."""

from __future__ import annotations

import doctest
import importlib
import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import __main__ as cli
from orchestrator.config.schema import Config
from orchestrator.objectives.quadratic import QuadraticObjective

PLAN = "plan=[lr_range,momentum,final]"


pytestmark = pytest.mark.usefixtures("here", "without_figures")


def test_the_answer_is_the_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal decisions, recipe and results for the same settings; only times differ."""
    record = orchestrator.run_study(study="quadratic", overrides=[PLAN, "seed=3"])
    assert capsys.readouterr() == ("", "")
    assert cli.run(["+study=quadratic", PLAN, "seed=3", "study_name=typed"]) == 0
    assert record.folder == Path("runs/quadratic")
    typed = json.loads(Path("runs/typed/summary.json").read_text())
    here = json.loads(Path("runs/quadratic/summary.json").read_text())
    assert [s["decision"] for s in here["stages"]] == [s["decision"] for s in typed["stages"]]
    assert (here["recipe"], here["final"]) == (typed["recipe"], typed["final"])
    assert [d.values for d in record.decisions] == [s["decision"] for s in typed["stages"]]
    assert record.recipe.values() == typed["recipe"]
    assert here["overrides"] == ["+study=quadratic", PLAN, "seed=3"]


def test_a_config_or_a_mapping_is_a_study_too() -> None:
    """A mapping's missing keys have their defaults; both ways are one study."""
    asked = {
        "plan": ["lr_range", "final"],
        "objective": {"name": "quadratic"},
        "tracking": {"name": "none"},
        "study_name": "mapped",
    }
    first = orchestrator.run_study(asked)
    again = orchestrator.run_study(Config.from_mapping(asked))
    assert first.status == "complete"
    assert again.recipe == first.recipe
    assert again.folder == first.folder
    assert again.summary()["stages"] == first.summary()["stages"]  # seconds too: nothing is trained


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"study": "nope"}, "Could not find 'study/nope'"),
        ({"study": "quadratic", "overrides": ["sed=1"]}, "sed: unknown key"),
        ({"config": {"seed": "x"}}, "seed: 'x' is not allowed"),
        (
            {"study": "quadratic", "overrides": ["dry_run=true"]},
            "call orchestrator.plan.plan_study",
        ),
    ],
)
def test_a_wrong_request_raises(arguments: dict[str, Any], line: str, here: Path) -> None:
    """ConfigError with its lines, no SystemExit, nothing on the disk."""
    with pytest.raises(orchestrator.ConfigError, match=line):
        orchestrator.run_study(**arguments)
    assert list(here.iterdir()) == []


def test_config_and_study_together_are_refused() -> None:
    """One would be ignored in silence."""
    with pytest.raises(TypeError, match="not both"):
        orchestrator.run_study({}, study="quadratic")


@pytest.mark.parametrize(("run", "decided"), [(3, 0), (8, 2)])
def test_ctrl_c_gives_a_record_and_the_same_call_goes_on(
    run: int, decided: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a notebook's stop button does it: KeyboardInterrupt, also before there is a recipe."""
    whole = orchestrator.run_study(study="quadratic", overrides=[PLAN, "study_name=whole"])
    do, calls = QuadraticObjective.__call__, []

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == run:
            raise KeyboardInterrupt
        return do(self, *arguments)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(QuadraticObjective, "__call__", interrupted)
    record = orchestrator.run_study(study="quadratic", overrides=[PLAN])
    assert record.status == "interrupted"
    assert [d.stage for d in record.decisions] == ["lr_range", "momentum"][:decided]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    record = orchestrator.run_study(study="quadratic", overrides=[PLAN])
    assert record.status == "complete"
    assert record.recipe == whole.recipe


def test_the_callers_log_is_as_it_was() -> None:
    """A study logs to its own file; afterwards the caller's handlers get what we log again."""
    logger = logging.getLogger("orchestrator")
    before = logger.level, logger.propagate, list(logger.handlers)
    orchestrator.run_study(study="quadratic", overrides=["plan=[lr_range]"])
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_a_study_runs_in_any_thread() -> None:
    """A notebook's kernel or a server may call it outside the main thread."""
    found: list[Any] = []
    ask = {"study": "quadratic", "overrides": ["plan=[lr_range,final]"]}
    thread = threading.Thread(target=lambda: found.append(orchestrator.run_study(**ask)))
    thread.start()
    thread.join()
    assert found[0].status == "complete"


@pytest.mark.parametrize(
    "module",
    [
        "orchestrator.api",
        "orchestrator.schedules",
        "orchestrator.pruners.clue",
        "orchestrator.training.standalone.range_test",
    ],
)
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    """Every `>>>` of the public names is executed."""
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_package_says_that_it_is_typed() -> None:
    """py.typed lies beside the modules, so that a wheel has it too."""
    assert (Path(orchestrator.__file__).parent / "py.typed").is_file()
