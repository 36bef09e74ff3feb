"""What a study costs: presets, the budget in final runs, and the answer that is always there."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import a_run, losses, objective, train

from orchestrator.config.presets import PRESETS
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Result
from orchestrator.errors import ConfigError
from orchestrator.objectives import Session
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.record import StudyRecord
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.measure import measure
from orchestrator.study.walk import run_study
from orchestrator.system import signals
from orchestrator.testing import FakeSession
from orchestrator.training.evaluate import evaluate
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Trainer

QUADRATIC = {"objective": {"name": "quadratic"}, "tracking": {"name": "none"}, "quiet": True}
DIGITS = {
    "data": {"name": "digits", "train_examples": 400, "test_examples": 100},
    "model": {"name": "mlp", "width": 0.25},
    "tracking": {"name": "none"},
    "threads": 1,
    "quiet": True,
    "stages": {"final": {"epochs": 20}},
    "plan": ["lr_range", "first_run", "momentum", "weight_decay", "lr_check", "final"],  # untimed
}

pytestmark = pytest.mark.usefixtures("here", "without_figures")


def study(base: dict[str, Any] = QUADRATIC, **changes: Any) -> StudyRecord:
    return run_study(Config.from_mapping({**base, "study_name": "s", **changes}))


def cost() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/s/summary.json").read_text())["cost"]
    return found


@pytest.mark.parametrize("effort", PRESETS)
def test_a_preset_lies_beneath_what_the_user_sets(effort: str) -> None:
    """Plan, stages and budget; the config that is kept makes the same study again."""
    config = Config.from_mapping({"effort": effort})
    assert config.plan == tuple(PRESETS[effort]["plan"])
    assert config.budget.final_runs == PRESETS[effort].get("budget", {}).get("final_runs")
    own = {"final": {"seeds": 7}, "lr_range": {"share": 0.1}}
    changed = Config.from_mapping(
        {
            "effort": effort,
            "budget": {"final_runs": 3},
            "plan": ["lr_range", "final"],
            "stages": own,
        }
    )
    assert changed.plan == ("lr_range", "final")
    assert changed.budget.final_runs == 3
    made = changed.as_mapping()["stages"]
    assert (made["final"]["seeds"], made["lr_range"]["share"]) == (7, 0.1)
    assert Config.from_mapping(config.as_mapping()) == config


def test_no_limit_can_be_asked_for() -> None:
    """null is not the preset's number."""
    assert Config.from_mapping({"budget": {"final_runs": None}}).budget.final_runs is None


def test_options_of_another_effort_are_refused() -> None:
    """They would change nothing; with effort=thorough they are taken."""
    stages = {"momentum": {"seeds": 3}, "again": {"kind": "lr_check", "max_seeds": 4}}
    with pytest.raises(ConfigError) as error:
        Config.from_mapping({"stages": stages})
    assert [line.split(":")[0] for line in error.value.lines] == [
        "stages.momentum.seeds", "stages.again.max_seeds",
    ]  # fmt: skip
    assert "set effort=thorough" in error.value.lines[0]
    assert Config.from_mapping({"effort": "thorough", "stages": stages}).effort == "thorough"
    assert Config.from_mapping({"stages": {"momentum": {"candidates": [0.95]}}})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("effort", "most"), [("quick", 2.8), ("standard", 6.0)])
def test_a_study_costs_no_more_final_runs_than_its_budget(
    effort: str, most: float, seed: int
) -> None:
    """All of it: range test, stages, final runs and baselines."""
    record = study(effort=effort, seed=seed)
    assert record.status == "complete"
    assert record.final is not None
    assert 1 < cost()["final_runs"] <= most


def test_a_small_budget_does_without_baselines_then_without_changes() -> None:
    """The answer is the first full run, and it is tested."""
    record = study(budget={"final_runs": 1.6})
    assert record.final is not None
    assert record.final.decision.evidence["baselines"] == []
    assert record.final.decision.evidence["test_loss"]["n"] == 1
    assert sum(o.run.kept for o in record.trained) == 1


def test_the_price_of_stages_adds_up() -> None:
    """In summary.json: a full run of the recipe costs one, and a quarter of it goes with it."""
    record = study()
    told = json.loads(Path("runs/s/summary.json").read_text())
    by_stage = {stage["name"]: stage["final_runs"] for stage in told["stages"]}
    assert by_stage["first_run"] == pytest.approx(1.25, abs=0.01)
    assert sum(by_stage.values()) == pytest.approx(told["cost"]["final_runs"], abs=0.02)
    assert told["cost"]["examples"] == sum(o.result.examples for o in record.trained)


def test_thorough_studies_decide_by_significance() -> None:
    """Three sealed seeds, and the same stages as ever."""
    record = study(effort="thorough", plan=["lr_range", "weight_decay", "final"])
    assert record.final is not None
    assert record.final.decision.evidence["test_loss"]["n"] == 3


def test_a_kept_run_is_tested_without_training_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of a run that was tested at its own end."""
    whole, result = train(objective(), a_run(kept=True, opens_test=True))
    held_out = FakeSession(a_run(kept=True))
    objective()(a_run(kept=True), held_out)
    assert held_out.checkpoint is not None
    made = objective()
    twin = FakeSession(a_run(kept=True, opens_test=True), held_out.checkpoint)
    steps = []
    real = Trainer.to
    monkeypatch.setattr(Trainer, "to", lambda self, *args: steps.append(1) or real(self, *args))  # type: ignore[func-returns-value]
    tested = made(a_run(kept=True, opens_test=True), twin)
    assert not steps
    assert losses(twin) == losses(whole)
    assert (tested.test_loss, tested.test_metric) == (result.test_loss, result.test_metric)
    assert twin.model == whole.model


def test_only_kept_runs_are_kept() -> None:
    """Others leave no checkpoint at their end."""
    session, _ = train(objective(), a_run())
    assert session.checkpoint is None


@pytest.mark.parametrize(("count", "size"), [(64, 1), (99, 1), (200, 3), (300, 4)])
def test_the_losses_of_blocks_are_those_of_the_examples(count: int, size: int) -> None:
    """Blocks of equal size, 64 or more, without what is left over."""
    setup = objective()._setup
    network, part = setup.network(0).eval(), setup.inputs.train
    some = type(part)(*(t[:count] for t in part))
    blocks: list[float] = []
    evaluate(network, setup.inputs, some, task=setup.task, blocks=blocks)
    scores = network(setup.inputs.normalised(some.x)).detach()
    each = torch.nn.functional.cross_entropy(scores, some.y, reduction="none")
    assert len(each) == count
    whole = each[: count // size * size].reshape(-1, size).mean(1)
    assert blocks == pytest.approx(whole.tolist(), rel=1e-4)
    assert len(blocks) >= 64


def test_blocks_of_large_data_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number does not grow with the data; the mean stays."""
    monkeypatch.setattr("orchestrator.training.evaluate.PIECE", 2)
    setup = objective()._setup
    network, part = setup.network(0).eval(), setup.inputs.train
    some = type(part)(*(t[:256] for t in part))
    blocks: list[float] = []
    loss, _ = evaluate(network, setup.inputs, some, task=setup.task, blocks=blocks)
    assert len(blocks) == 64
    assert sum(blocks) / 64 == pytest.approx(loss, rel=1e-4)


def test_complete_cycles_measure_them_and_sealed_runs_those_of_the_test_data() -> None:
    """They are what decisions compare; a ramp has no use for them."""
    _, result = train(objective(), a_run())
    assert len(result.measured["held_out_blocks"]) >= 64
    assert "test_blocks" not in result.measured
    _, result = train(objective(), a_run(opens_test=True))
    assert len(result.measured["test_blocks"]) == 50  # as many as examples
    _, result = train(objective(), a_run(kind="ramp"))
    assert result.measured == {}


def test_another_batch_size_is_priced_by_a_calibration_of_both() -> None:
    """Not by runs that other programs may have slowed down; those count where there is none."""
    facts = Facts(2000, 500, 2.3, final_epochs=10)
    recipe = Recipe(max_lr=0.1, min_lr=0.01)
    full = full_run(recipe, facts)
    large = full_run(replace(recipe, batch_size=2 * recipe.batch_size), facts)

    def outcome(run: Run, seconds: float, **measured: float) -> Outcome:
        result = Result(seconds, run.examples, measured={"seconds_per_step": measured})
        return Outcome(run, run.name, "finished", Curve.of([]), result)

    slowed = [outcome(full, 1.0), outcome(large, 3.0)]
    assert FinalRuns(facts, recipe.batch_size, 0, slowed).of(large) == pytest.approx(3, rel=0.12)
    calibrate = measure("calibrate", recipe, [recipe.batch_size, large.batch_size])
    side_by_side = {str(recipe.batch_size): 1.0, str(large.batch_size): 1.0}
    calibrated = [*slowed, outcome(calibrate, 0.0, **side_by_side)]
    price = FinalRuns(facts, recipe.batch_size, 0, calibrated).of(large)
    assert price == pytest.approx(0.5, abs=0.1)


REAL = TrainingObjective.__call__


def test_after_ctrl_c_the_best_full_run_so_far_is_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tested once, its network is there; the same command goes on as if undisturbed."""
    undisturbed = study(DIGITS, study_name="other")
    ended: list[Run] = []

    def call(self: TrainingObjective, run: Run, session: Session) -> Result:
        if any(r.kept for r in ended) and not run.opens_test:
            signal.raise_signal(signal.SIGINT)
        ended.append(run)
        return REAL(self, run, session)

    monkeypatch.setattr(TrainingObjective, "__call__", call)
    with signals.handled():
        record = study(DIGITS, rate=1e-6)
    assert record.status == "interrupted"
    assert record.final is not None
    assert record.final.decision.evidence["test_loss"]["n"] == 1
    assert Path("runs/s/model.pt").is_file()
    assert sum(run.opens_test for run in ended) == 1
    monkeypatch.setattr(TrainingObjective, "__call__", REAL)
    resumed = study(DIGITS)
    assert resumed.status == "complete"
    assert resumed.recipe == undisturbed.recipe


def test_a_budget_of_time_that_ends_in_the_final_stage_leaves_an_answer() -> None:
    """The first full run is tested, whatever else the budget leaves out."""
    record = study({**QUADRATIC, "objective": {"name": "quadratic"}}, budget={"max_seconds": 1.7})
    assert record.final is None or record.final.decision.evidence["test_loss"]["n"] == 1


def test_a_change_of_the_study_is_replayed_from_what_is_there() -> None:
    """A larger budget goes on: the first full run is not trained again."""
    study(effort="quick")
    again = study()
    assert replace(again.final.decision, evidence={}) if again.final else None
    trials = Path("runs/s/optuna.journal").read_text().count("first_run")
    assert trials > 0
