"""A study within its budget, on the fake clock of the quadratic objective, and its time left."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.plan.budget import Budget, OutOfTime
from orchestrator.plan.estimate import Range
from orchestrator.plan.pace import TELL_AFTER, Pace
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.record import StudyRecord
from orchestrator.report.terminal import Terminal
from orchestrator.stages.final import Final
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.stage import Stage, cycle
from orchestrator.storage.paths import StudyPaths
from orchestrator.study.results import Earlier, earlier
from orchestrator.study.walk import run_study
from orchestrator.testing import execute

pytestmark = pytest.mark.usefixtures("here", "without_figures")
PLAN = ["lr_range", "weight_decay", "final"]


def a_study(max_seconds: float | None, **changes: Any) -> tuple[StudyRecord, str]:
    mapping = {
        "study_name": "s",
        "effort": "thorough",
        "objective": {"name": "quadratic"},
        "tracking": {"name": "none"},
        "plan": PLAN,
        "budget": {"max_seconds": max_seconds},
        **changes,
    }
    stream = io.StringIO()
    record = run_study(Config.from_mapping(mapping), Terminal(stream=stream))
    return record, stream.getvalue()


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/s/summary.json").read_text())
    return found


def test_a_budget_that_suffices_changes_nothing() -> None:
    """The study is the same, and says what it spent."""
    free, _ = a_study(None, study_name="free")
    record, _ = a_study(1000)
    assert record.recipe == free.recipe
    assert record.status == "complete"
    assert record.reason == ""
    budget = summary()["budget"]
    assert not budget["reached"]
    assert budget["spent_seconds"] == pytest.approx(
        sum(o.result.seconds for o in record.outcomes), rel=1e-3
    )


@pytest.mark.parametrize("max_seconds", [1.5, 3, 6, 9])
def test_a_study_ends_within_its_budget_with_the_best_answer_so_far(max_seconds: float) -> None:
    """Whatever the budget cuts, the time is kept, and terminal and summary say what is missing."""
    record, shown = a_study(max_seconds)
    budget = summary()["budget"]
    assert budget["reached"]
    assert budget["spent_seconds"] <= max_seconds
    assert record.status == "complete"
    assert record.recipe.max_lr is not None
    assert f"the budget of {max_seconds:g} s is too small" in record.reason
    assert record.reason in shown
    assert (record.final is None) == ("it was not tested" in record.reason)
    assert (record.final is None) == (summary()["final"] is None)
    left_out = sum(how == "left out" for how in budget["cuts"].values())
    assert (f"complete ({3 - left_out} of 3 stages; budget)" in shown) == bool(left_out)
    said = {"decided early": "ended it early", "left out": "the budget is over"}
    for stage in record.stages:
        if how := budget["cuts"].get(stage.decision.stage):
            assert said.get(how, f"for the budget {how}") in stage.decision.reason
    if budget["cuts"].get("final", "left out") not in said:
        assert record.final is not None
        assert "not compared with the range test's recipe" in record.final.decision.reason


def test_the_final_runs_come_before_the_other_stages() -> None:
    """What is left after the range test is kept for the final runs: the recipe is tested."""
    record, _ = a_study(6)
    assert record.final is not None
    assert summary()["budget"]["cuts"] == {"weight_decay": "left out"}
    assert record.stages[1].outcomes == ()
    assert record.stages[1].decision.values == {}


def test_the_same_command_again_says_the_same_and_a_larger_budget_goes_on() -> None:
    """A budget that is used up stays so; more of it trains what was cut, and nothing twice."""
    first, _ = a_study(3)
    text = Path("runs/s/summary.json").read_text()
    again, _ = a_study(3)
    assert Path("runs/s/summary.json").read_text() == text
    assert again.reason == first.reason
    whole, _ = a_study(1000)
    free, _ = a_study(None, study_name="free")
    assert whole.reason == ""
    assert [s.decision for s in whole.stages] == [s.decision for s in free.stages]


def test_a_budget_too_small_for_a_range_test_gives_no_answer() -> None:
    """Without max_lr there is no recipe: undecided, with the reason."""
    record, _ = a_study(0.05)
    assert record.status == "undecided"
    assert "the budget is over" in record.reason


@dataclass(frozen=True, kw_only=True)
class Slow(Stage):
    """A stage of one round of two runs."""

    kind = "slow"
    gives = ("weight_decay",)
    replicates: tuple[int, ...] = (0, 1)

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        return [] if outcomes else [cycle(recipe, 100, r, "") for r in self.replicates]

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        return Decision(self.name, self.kind, f"{len(outcomes)} runs", {"weight_decay": 0.1})


def a_budget(
    now: list[float], max_seconds: float | None = None
) -> tuple[Budget, Pace, Stage, Recipe]:
    objective = QuadraticObjective()
    stage = Slow(name="slow", facts=objective.facts)
    pace = Pace([stage, stage], objective.facts, lambda: now[0], lambda run: None)
    return Budget(pace, max_seconds), pace, stage, Recipe(max_lr=0.1, min_lr=0.01)


def trained(budget: Budget, *outcomes: Outcome) -> None:
    """Let the budget hear of runs that were trained."""
    for outcome in outcomes:
        budget.run_ended("slow", outcome, "")


def test_a_round_that_is_cut_leaves_what_has_ended() -> None:
    """The first run has ended when time is over in the second: the stage decides with one."""
    now = [0.0]
    budget, _, stage, recipe = a_budget(now, max_seconds=100)

    def run_round(runs: list[Run]) -> list[Outcome]:
        first = execute(QuadraticObjective(), runs[0])
        trained(budget, first)
        now[0] = 101.0
        budget.point(runs[1], "key", first.curve.points()[0])
        raise AssertionError

    decision, outcomes = budget.walk(stage, recipe, run_round)
    assert len(outcomes) == 1
    assert decision is not None
    assert decision.reason == "1 runs; the budget ended it early"
    with pytest.raises(OutOfTime):
        budget.check()


def test_a_stage_that_is_cut_before_a_run_of_its_own_decides_nothing() -> None:
    """What it knows is another stage's run, which it shares: it was left out, not ended early."""
    now, objective = [0.0], QuadraticObjective()
    stage = Slow(name="slow", facts=objective.facts)
    later = replace(stage, name="later", replicates=(1, 2))
    known: dict[Run, Outcome] = {}
    pace = Pace([stage, later], objective.facts, lambda: now[0], known.get)
    budget = Budget(pace, max_seconds=100)
    recipe = Recipe(max_lr=0.1, min_lr=0.01)

    def run_round(runs: list[Run]) -> list[Outcome]:
        known.update({run: execute(objective, run) for run in runs})
        now[0] += 80
        trained(budget, *(known[run] for run in runs))
        return [known[run] for run in runs]

    budget.walk(stage, recipe, run_round)
    decision, outcomes = budget.walk(later, recipe, run_round)
    assert [o.run.replicate for o in outcomes] == [1]
    assert decision is not None
    assert decision.reason == "nothing is decided: the budget is over (100 s)"
    assert "later left out" in budget.reason


def test_a_slow_first_run_does_not_end_the_range_test() -> None:
    """There is no recipe without it: it goes on, however dear its next runs look, to the end."""
    now = [0.0]
    objective = QuadraticObjective()
    stage = LRRange(name="lr_range", facts=objective.facts)
    final = Final(name="final", facts=objective.facts)
    pace = Pace([stage, final], objective.facts, lambda: now[0], lambda run: None)
    budget = Budget(pace, max_seconds=25)

    def run_round(runs: list[Run]) -> list[Outcome]:
        now[0] += 15 if len(runs) == 1 else 2  # ramps like the first would take 45 s
        outcomes = [execute(objective, run) for run in runs]
        trained(budget, *outcomes)
        return outcomes

    decision, outcomes = budget.walk(stage, Recipe(), run_round)
    assert decision is not None
    assert decision.values["max_lr"] > 0
    assert len(outcomes) == 4
    fitting = budget.final_that_fits(final, Recipe().with_(decision))
    assert fitting is not None


def test_a_wait_does_not_make_all_that_is_to_come_dear() -> None:
    """One round of five took ten times as long: the others say what is left."""
    now = [0.0]
    budget, pace, stage, recipe = a_budget(now)
    seconds = [30.0]

    def run_round(runs: list[Run]) -> list[Outcome]:
        now[0] += seconds[0]
        outcomes = [execute(QuadraticObjective(), run) for run in runs]
        trained(budget, *outcomes)
        return outcomes

    for number, seconds[0] in enumerate([300, 30, 30, 30, 30]):
        budget.walk(stage, Recipe(max_lr=0.1 + number, min_lr=0.01), run_round)
    pace.stage_started(0, recipe)
    assert budget.left() == Range(pytest.approx(60, rel=0.05), pytest.approx(60, rel=0.05))  # type: ignore[arg-type]
    pace.stage_ended(0)
    assert budget.left() == Range(pytest.approx(30, rel=0.05), pytest.approx(30, rel=0.05))  # type: ignore[arg-type]
    pace.stage_ended(1)
    assert budget.left() == Range(0, 0)


def test_the_time_left_goes_by_what_runs_took_so_far() -> None:
    """Runs took 30 s where their steps say less: the next stage, the same again, is priced so."""
    now = [0.0]
    budget, pace, stage, recipe = a_budget(now)

    def run_round(runs: list[Run]) -> list[Outcome]:
        now[0] += 30
        outcomes = [execute(QuadraticObjective(), run) for run in runs]
        trained(budget, *outcomes)
        return outcomes

    assert budget.left() is None
    pace.stage_started(0, recipe)
    budget.walk(stage, recipe, run_round)
    assert now[0] > TELL_AFTER
    pace.stage_started(1, Recipe(max_lr=0.2, min_lr=0.01))
    left = budget.left()
    assert left is not None
    assert left.high == pytest.approx(30, rel=0.01)
    limited = Budget(pace, max_seconds=now[0] + 10)
    assert 0 < limited.remaining < 10
    assert limited.left() == Range(limited.remaining, limited.remaining)
    now[0] += 10
    assert budget.left() == Range(pytest.approx(20, rel=0.01), pytest.approx(20, rel=0.01))  # type: ignore[arg-type]


def test_a_damaged_summary_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Whatever stands in the file, the budget starts from nothing."""
    file, paths = tmp_path / "summary.json", StudyPaths(tmp_path)
    assert earlier(paths) == Earlier()
    for text in ("", "[]", "{}", '{"cost": null}', '{"cost": {"total_seconds": null}}'):
        file.write_text(text)
        assert earlier(paths) == Earlier()
    file.write_text('{"cost": {"total_seconds": 7}}')
    assert earlier(paths) == Earlier(total_seconds=7, budget_seconds=7)


def test_no_limit_is_no_budget() -> None:
    """A budget without a limit has no reason, no summary and never ends."""
    facts = Facts(100, 10, 2.3, 1)
    budget = Budget(Pace([], facts, lambda: 1e9, lambda run: None))
    budget.check()
    assert budget.reason == ""
    assert budget.summary(True) is None
