"""What an objective says of itself, in a study: all, some or none of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import build, run_study
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.objectives import Description, describe
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.plan import plan_study


class Silent(QuadraticObjective):
    """An objective that says nothing of itself."""

    describe: Any = property()  # as if it had none

    def __init__(self, **_: Any) -> None:
        super().__init__()


class Talkative(QuadraticObjective):
    """An objective that says some of it."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def describe(self) -> Description:
        """Return a device, a note and some advice."""
        return Description(device="abacus", notes=("Counted by hand.",), advice=self._advice)

    def _advice(self, batch_size: int) -> Sequence[str]:
        return [f"Count {batch_size} at once."]


class Wrong(Talkative):
    """An objective whose description is a text."""

    describe: Any = lambda _: "an abacus"  # noqa: E731


def config(name: str) -> dict[str, Any]:
    return {
        "objective": {"_target_": f"{__name__}.{name}"},
        "plan": ["lr_range"],
        "tracking": {"name": "none"},
    }


def test_an_objective_need_not_describe_itself(here: Path, without_figures: None) -> None:
    """Defaults stand in for what it does not say."""
    assert not hasattr(Silent(), "describe")
    record = run_study(config("Silent"))
    assert record.status == "complete"
    assert record.device == Description().device
    assert record.notes == ()


def test_what_an_objective_says_of_itself_is_recorded(here: Path, without_figures: None) -> None:
    """Device and notes are the record's; a dry run adds the advice."""
    record = run_study(config("Talkative"))
    assert (record.device, record.notes) == ("abacus", ("Counted by hand.",))
    plan = plan_study(Config.from_mapping(config("Talkative")))
    assert plan.device == "abacus"
    assert plan.notes == ("Counted by hand.", "Count 64 at once.")


def test_a_description_of_another_type_is_one_line(here: Path) -> None:
    """It is told before anything runs."""
    with pytest.raises(ConfigError, match=r"Wrong: describe\(\) must return an .*, got str"):
        build.objective(Config.from_mapping(config("Wrong")))


def test_the_quadratic_runs_on_a_fake_clock() -> None:
    """Studies on it last as long as their runs say."""
    assert describe(QuadraticObjective()).fake_clock
