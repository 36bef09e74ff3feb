"""Whole studies on the fake objective: answers, pruning, resume, changed configs, faults."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from orchestrator import build, clues
from orchestrator.changes import surroundings
from orchestrator.config.schema import Config
from orchestrator.curve import Point, Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.record import StudyRecord
from orchestrator.report import html
from orchestrator.report.terminal import Terminal
from orchestrator.stages.comparison import spread
from orchestrator.stages.stage import cycle
from orchestrator.storage.backend import journal
from orchestrator.study.closing import _version
from orchestrator.study.walk import run_study

DRAWINGS = html.drawings  # for the one test that looks at the figures
pytestmark = pytest.mark.usefixtures("here", "without_figures")


def a_study(**changes: Any) -> tuple[StudyRecord, str]:
    """Run a study on the quadratic objective; return its record and what the terminal showed."""
    mapping = {
        "study_name": "s",
        "effort": "thorough",
        "objective": {"name": "quadratic"},
        "tracking": {"name": "none"},
        **changes,
    }
    stream = io.StringIO()
    record = run_study(Config.from_mapping(mapping), Terminal(stream=stream))
    return record, stream.getvalue()


def test_the_page_shows_the_clues_that_the_study_read() -> None:
    """A run above the untrained loss from its first point on has that loss in its sentence."""
    diverging = {"max_lr": 0.3, "min_lr": 0.3}
    record, _ = a_study(plan=["weight_decay"], pruner={"name": "none"}, recipe=diverging)
    start = QuadraticObjective().facts.start_loss
    page = unescape(Path("runs/s/report.html").read_text())
    trained = [o for o in record.outcomes if o.run.kind == "train"]
    assert len(trained) > 2
    for o in trained:
        assert o.curve.held_out_loss[0] > start
        clue = clues.read(o.curve, start)
        assert f"untrained loss ({start:.3g})" in clue.reason
        assert clue.reason in page


def test_the_clue_of_a_run_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker gets, when a run ends, what the record keeps; also where stages share a run."""
    curves, read = [], clues.read
    monkeypatch.setattr(
        clues, "read", lambda curve, start_loss: curves.append(curve) or read(curve, start_loss)
    )
    record, _ = a_study()
    assert len(curves) == len({id(curve) for curve in curves})
    assert len(curves) == len({key for s in record.stages for key in s.clues})


def test_nothing_is_left_after_the_last_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's line ends with the time that is left, the last one's does not."""
    monkeypatch.setattr("orchestrator.plan.pace.TELL_AFTER", 0.0)
    _, shown = a_study(plan=["lr_range", "weight_decay", "final"])
    told = {line.split()[0]: line for line in shown.splitlines() if "runs, " in line}
    assert " left)" in told["weight_decay"]
    assert "left" not in told["final"]


def trials(stage: str) -> list[optuna.trial.FrozenTrial]:
    storage = journal(Path("runs/s/optuna.journal"))
    return optuna.load_study(study_name=f"s/{stage}", storage=storage).trials


def test_a_study_goes_from_nothing_to_a_tested_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages decide, the files are there, and summary.json says what the terminal says."""
    monkeypatch.setattr(html, "drawings", DRAWINGS)
    record, shown = a_study()
    assert record.status == "complete"
    assert [s.decision.kind for s in record.stages] == [
        "lr_range",
        "momentum",
        "weight_decay",
        "batch_size",
        "lr_check",
        "final",
    ]
    folder = Path("runs/s")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["recipe"]["max_lr"] == record.recipe.max_lr
    found = summary["final"]["test_loss"]
    assert spread(found["mean"], found["std"]) in shown
    assert {b["name"] for b in summary["final"]["baselines"]} == {"untuned", "range_test_only"}
    for name in ("recipe.yaml", "report.html", "model.pt", "config.yaml", "study.log"):
        assert (folder / name).stat().st_size > 0
    assert {p.stem for p in (folder / "figures").glob("*.png")} == {*record_names(record)}
    assert [p.suffix for p in (folder / "checkpoints").iterdir()] == [".model"]


def record_names(record: StudyRecord) -> list[str]:
    return [s.decision.stage for s in record.stages]


@pytest.mark.parametrize("start", [{}, {"weight_decay": 0.1}, {"batch_size": 16}])
def test_the_answer_is_near_the_computable_optimum(start: dict[str, float]) -> None:
    """Expected loss is within 35 % of the best of a grid at the same time, from a bad start too.

    There the range test alone is not so near: the later stages have to do it.
    """
    record, _ = a_study(recipe=start)
    objective = QuadraticObjective()
    seconds = 312 * objective.step_seconds(64)

    def expected(recipe: Recipe) -> float:
        steps = round(seconds / objective.step_seconds(recipe.batch_size))
        return objective.expected_loss(cycle(recipe, steps, 0, ""))

    best = min(
        expected(Recipe(weight_decay=wd, batch_size=size).at_lr(lr))
        for lr in (0.02, 0.05, 0.1, 0.2)
        for wd in (0.0, 1e-3, 5e-3)
        for size in (32, 64, 128)
    )
    assert expected(record.recipe) < 1.35 * best
    assert not start or expected(record.stages[0].recipe) > 1.35 * best


def test_the_same_command_again_trains_nothing_and_says_the_same() -> None:
    """A complete study is replayed from its ledger: same recipe, same summary, no new trial."""
    first, _ = a_study()
    before = {s: len(trials(s)) for s in ("lr_range", "momentum", "final")}
    text = Path("runs/s/summary.json").read_text()
    second, shown = a_study()
    assert second.recipe == first.recipe
    assert Path("runs/s/summary.json").read_text() == text
    assert first.first_test_seconds is not None
    assert {s: len(trials(s)) for s in before} == before
    assert "no new runs" in shown


def test_an_interrupted_study_goes_on_to_the_undisturbed_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in the middle of a run: said, exit state known, same answer in the end."""
    undisturbed, _ = a_study(study_name="undisturbed")
    train, calls = QuadraticObjective.__call__, []

    def interrupted(self: QuadraticObjective, run: Run, session: Session) -> Result:
        calls.append(run)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return train(self, run, session)

    monkeypatch.setattr(QuadraticObjective, "__call__", interrupted)
    stopped, shown = a_study()
    assert stopped.status == "interrupted"
    assert "run the same command to resume" in shown
    assert json.loads(Path("runs/s/summary.json").read_text())["status"] == "interrupted"
    resumed, _ = a_study()
    keys = {o.key for s in resumed.stages for o in s.outcomes}
    assert len(calls) - 1 == len(keys)  # nothing is trained twice, whatever the stage
    assert resumed.recipe == undisturbed.recipe
    assert [s.decision.reason for s in resumed.stages] == [
        s.decision.reason for s in undisturbed.stages
    ]


def test_the_first_sealed_result_keeps_its_time() -> None:
    """An earlier command's stays; a study whose answer is trained anew has a new one."""
    seconds = [a_study(**config)[0].first_test_seconds for config in ({}, {}, {"seed": 1})]
    assert seconds[0] is not None
    assert seconds[1] == pytest.approx(seconds[0], abs=1e-3)
    assert seconds[2] is not None
    assert seconds[2] > seconds[0]


def test_a_changed_config_runs_only_what_it_affects() -> None:
    """Another weight-decay candidate: range test and momentum come from the ledger."""
    a_study()
    before = {s: len(trials(s)) for s in ("lr_range", "momentum", "weight_decay")}
    a_study(stages={"weight_decay": {"candidates": [1e-3, 1e-4, 1e-5, 0, 1e-2]}})
    after = {s: len(trials(s)) for s in before}
    assert after["lr_range"] == before["lr_range"]
    assert after["momentum"] == before["momentum"]
    assert after["weight_decay"] > before["weight_decay"]


def test_another_seed_is_another_study_of_the_same_name() -> None:
    """The seed is part of every key, so everything runs again."""
    a_study()
    before = len(trials("momentum"))
    a_study(seed=1)
    assert len(trials("momentum")) >= 2 * before


def test_starting_over_keeps_the_old_folder() -> None:
    """fresh=true renames what was there, and all of it is trained again."""
    a_study()
    before = len(trials("lr_range"))
    _, shown = a_study(fresh=True)
    old = [p for p in Path("runs").iterdir() if p.name.startswith("s.old-")]
    assert len(old) == 1
    assert (old[0] / "summary.json").exists()
    assert len(trials("lr_range")) == before
    assert "no new runs" not in shown


def test_the_plan_says_which_stages_run_and_in_which_order() -> None:
    """Reordered, left out and repeated by config alone."""
    record, _ = a_study(
        plan=["lr_range", "weight_decay", "again", "final"], stages={"again": {"kind": "lr_range"}}
    )
    assert record_names(record) == ["lr_range", "weight_decay", "again", "final"]


def test_a_range_test_without_an_answer_ends_the_study_undecided() -> None:
    """Nothing falls below chance on a flat problem: status undecided, no recipe made up."""
    record, shown = a_study(objective={"name": "quadratic", "start_loss": 1e-9})
    assert record.status == "undecided"
    assert record.recipe.max_lr is None
    assert "no answer" in shown
    assert "complete" not in shown


def test_no_answer_of_the_last_stage_is_no_complete_study() -> None:
    """A plan of a range test alone, which has no answer, ends undecided: exit code 1."""
    record, shown = a_study(objective={"name": "quadratic", "start_loss": 1e-9}, plan=["lr_range"])
    assert record.status == "undecided"
    assert "complete" not in shown


def test_a_last_stage_whose_runs_all_failed_fails_the_study_with_the_first_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that raises in every ramp: failed, in one line each and without a traceback."""

    def raises(self: QuadraticObjective, run: Run, session: Session) -> Result:
        raise ValueError("boom")

    monkeypatch.setattr(QuadraticObjective, "__call__", raises)
    record, shown = a_study(plan=["lr_range"])
    assert record.status == "failed"
    assert "ValueError: boom" in record.reason
    assert "Traceback" not in shown
    assert "Traceback" in Path("runs/s/study.log").read_text()


def test_a_model_of_an_earlier_answer_is_not_offered_as_this_ones() -> None:
    """It is renamed, which is said; the command that gave it has it again."""
    whole: dict[str, Any] = {"plan": ["lr_range", "final"]}
    a_study(**whole)
    folder = Path("runs/s")
    model = (folder / "model.pt").read_bytes()
    (folder / "model.pt2").write_bytes(b"exported")
    a_study(**whole)
    assert (folder / "model.pt2").exists()  # a replay leaves its own files alone
    _, shown = a_study(plan=["lr_range"], recipe={"weight_decay": 0.01})
    assert "model.pt.old, model.pt2.old" in shown
    [files] = [line for line in shown.splitlines() if line.startswith("files")]
    assert "model" not in files
    assert not (folder / "model.pt").exists()
    assert (folder / "model.pt.old").read_bytes() == model
    _, shown = a_study(**whole)
    assert (folder / "model.pt").read_bytes() == model
    assert "model.pt," in shown


def test_what_a_killed_writer_left_among_the_checkpoints_is_removed() -> None:
    """A file that was being written when its process was killed is of no use to anybody."""
    left = Path("runs/s/checkpoints/key.checkpoint.0123.tmp")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    a_study(plan=["lr_range", "final"])
    assert not left.exists()


def test_another_loss_is_told_by_its_name() -> None:
    """Not as a mapping, nor as changed data: the loss decides what targets are taken as."""
    old = {"objective": "training", "train_hash": "a", "held_out_hash": "b"}
    new = {"loss": {"name": "mse", "delta": 1.0}, "train_hash": "c", "held_out_hash": "d"}
    assert surroundings(old, {"objective": "training", **new}) == [
        "loss: cross_entropy -> mse",
        "the data or the type of their targets changed",
    ]


def test_a_given_max_lr_lets_the_study_go_on_without_the_range_test() -> None:
    """The range test says no, the config said yes."""
    record, _ = a_study(
        objective={"name": "quadratic", "start_loss": 1e-9},
        recipe={"max_lr": 0.01},
        plan=["lr_range", "final"],
    )
    assert record.recipe.max_lr == 0.01
    assert record.status == "complete"


class Scripted:
    """An objective whose curves are given: `loss(run, progress)`."""

    notes = ()

    def __init__(self, loss: Any) -> None:
        self.facts = Facts(1000, 200, 2.3, final_epochs=4)
        self.loss = loss

    def context(self, run: Run) -> Mapping[str, Any]:
        return {"objective": "scripted"}

    def __call__(self, run: Run, session: Session) -> Result:
        if run.kind in ("probe", "calibrate"):
            fits = {str(b): True for b in run.batch_sizes}
            seconds = dict.fromkeys(fits, 0.01)
            return Result(measured={"fits": fits, "seconds_per_step": seconds, "spread": fits})
        for step in run.report_steps():
            progress = step / run.steps
            value = self.loss(run, progress)
            rates = run.schedule.at(progress)
            session.report(Point(step, progress, *rates, value, value, seconds=0.01 * step))
        return Result(seconds=0.01 * run.steps, examples=run.examples, test_loss=value)


def scripted(monkeypatch: pytest.MonkeyPatch, loss: Any) -> None:
    monkeypatch.setattr(build, "objective", lambda config, cache=None: Scripted(loss))


def falling(run: Run, progress: float) -> float:
    return float(2.3 * np.exp(-2 * progress))


def lost(kind: str) -> Any:
    """Return curves on which momentum .99 is lost in one of two ways, the rest is fine."""

    def loss(run: Run, progress: float) -> float:
        if run.schedule.max_momentum != 0.99 or run.kind != "train":
            return falling(run, progress)
        if kind == "nan":
            return float("nan") if progress > 0.3 else 2.0
        return 2.3 + 10 * progress  # above chance and rising

    return loss


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("nan", "diverged: held-out loss is not finite"),
        ("rising", "diverged: held-out loss"),
    ],
)
def test_each_kind_of_lost_run_is_pruned_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, kind: str, why: str
) -> None:
    """PRUNED in Optuna, stopped early, the reason with the trial and on the terminal."""
    scripted(monkeypatch, lost(kind))
    record, shown = a_study(plan=["momentum", "final"], recipe={"max_lr": 0.1})
    assert record.status == "complete"
    pruned = [t for t in trials("momentum") if t.state == optuna.trial.TrialState.PRUNED]
    assert {t.params["max_momentum"] for t in pruned} == {0.99}
    assert all(t.user_attrs["reason"].startswith(why) for t in pruned)
    assert all(len(t.intermediate_values) < 20 for t in pruned)
    assert why in shown
    assert json.loads(Path("runs/s/summary.json").read_text())["stages"][0]["trials"]["pruned"] == 2


@pytest.mark.parametrize(
    ("max_lr", "why"),
    [
        (1e200, "diverged: held-out loss is not finite"),
        (5.0, "diverged: held-out loss"),
    ],
)
def test_the_fake_objective_is_lost_for_real_in_each_way(max_lr: float, why: str) -> None:
    """Runs at an absurd rate: every one pruned with its reason, and the study ends undecided."""
    record, shown = a_study(plan=["momentum", "final"], recipe={"max_lr": max_lr})
    complete = optuna.trial.TrialState.COMPLETE  # of the least bad, which went on for nothing
    pruned = [t for t in trials("momentum") if t.state != complete]
    assert {t.state for t in pruned} == {optuna.trial.TrialState.PRUNED}
    assert all(t.user_attrs["reason"].startswith(why) for t in pruned)
    assert record.status == "undecided"
    assert "no max_momentum candidate finished" in shown


def test_real_training_that_diverges_is_pruned() -> None:
    """The digits network at a hundred times the useful rate: PRUNED by its own curve."""
    config = {
        "objective": {"name": "training"},
        "recipe": {"max_lr": 20.0},
        "plan": ["momentum", "final"],
        "stages": {"final": {"epochs": 4}},
        "threads": 1,
    }
    record, _ = a_study(**config)
    assert record.status == "undecided"
    pruned = [t for t in trials("momentum") if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(t.user_attrs["reason"].startswith("diverged") for t in pruned)


def test_a_study_of_real_training_finds_a_recipe_that_works() -> None:
    """The digits from a range test and a final run alone: above 90 % on the sealed test."""
    config = {
        "objective": {"name": "training"},
        "plan": ["lr_range", "final"],
        "stages": {"final": {"epochs": 8, "seeds": 2, "baselines": False}},
        "threads": 1,
        "recipe": {"batch_size": 32},
    }
    record, _ = a_study(**config)
    assert record.status == "complete"
    assert record.final is not None
    assert record.final.decision.evidence["test_metric"]["mean"] > 0.9
    cost = record.summary()["cost"]
    assert 0 < cost["evaluation_seconds"] < cost["training_seconds"]
    parts = sum(cost[f"{part}_seconds"] for part in ("training", "evaluation", "other"))
    assert parts == pytest.approx(cost["total_seconds"], abs=0.01)
    assert 0 < cost["first_test_seconds"] < cost["total_seconds"]


def test_without_a_pruner_every_run_goes_to_its_end() -> None:
    """pruner=none: diverged runs finish with an infinite loss and are never chosen."""
    record, _ = a_study(plan=["momentum", "final"], recipe={"max_lr": 5.0}, pruner={"name": "none"})
    assert record.status == "undecided"
    assert {t.state for t in trials("momentum")} == {optuna.trial.TrialState.COMPLETE}


def test_a_failing_run_is_not_a_failing_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate raises: FAILED with its reason, the stage decides without it."""

    def loss(run: Run, progress: float) -> float:
        if run.schedule.max_momentum == 0.97:
            raise RuntimeError("out of cheese")
        return falling(run, progress)

    scripted(monkeypatch, loss)
    record, shown = a_study(plan=["momentum", "final"], recipe={"max_lr": 0.1})
    assert record.status == "complete"
    assert "RuntimeError: out of cheese" in shown
    assert "out of cheese" in Path("runs/s/study.log").read_text()


def test_a_study_whose_runs_all_fail_says_failed_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's model raises every time: status failed, with the error."""

    def loss(run: Run, progress: float) -> float:
        raise RuntimeError("out of cheese")

    scripted(monkeypatch, loss)
    record, shown = a_study()
    assert record.status == "failed"
    assert "out of cheese" in shown


def test_torch_is_not_imported_by_a_study_on_the_fake_objective(here: Path) -> None:
    """A whole study in a new process: no torch, no MLflow."""
    code = (
        "import sys; from orchestrator.config.schema import Config; "
        "from orchestrator.study.walk import run_study; "
        "r = run_study(Config.from_mapping({'objective': {'name': 'quadratic'},"
        " 'tracking': {'name': 'none'}, 'quiet': True})); "
        "sys.exit(r.status != 'complete' or 'torch' in sys.modules or 'mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=here, timeout=60).returncode == 0


def test_the_sealed_test_enters_only_the_final_stage() -> None:
    """Before the last round no run opens the test, so no decision can depend on it."""
    record, _ = a_study()
    opened = [[o.run.opens_test for o in s.outcomes] for s in record.stages]
    assert not any(flag for flags in opened[:-1] for flag in flags)
    assert any(opened[-1])


def test_quadratic_problem_is_set_by_config() -> None:
    """Options of the fake objective arrive at the problem."""
    config = Config.from_mapping({"objective": {"name": "quadratic", "noise": 1.0}})
    objective = build.objective(config, Path("cache"))
    assert isinstance(objective, QuadraticObjective)
    assert objective.problem == Quadratic(noise=1.0)


def test_a_users_stage_that_raises_fails_the_study_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a traceback: status failed, the stage and the error, all records closed."""

    def oops(*_: object) -> list[Run]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("orchestrator.stages.weight_decay.WeightDecay.propose", oops)
    record, shown = a_study()
    assert record.status == "failed"
    assert "stage weight_decay: ZeroDivisionError: oops" in shown
    assert json.loads(Path("runs/s/summary.json").read_text())["status"] == "failed"


def test_an_error_after_the_last_decision_is_of_that_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record names the stage that decided, and keeps what it decided."""

    def oops(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("orchestrator.audit.chosen", oops)
    record, shown = a_study(plan=["lr_range"])
    assert "stage lr_range: ZeroDivisionError: oops" in shown
    assert record.status == "failed"
    assert record.recipe.max_lr == record.decisions[-1].values["max_lr"]


def test_other_settings_under_the_same_name_are_said() -> None:
    """The answer of another config replaces the old one: not without a word."""
    _, first = a_study()
    _, second = a_study(seed=1)
    assert "settings differ" not in first
    assert "settings differ from the study that was here (seed: 0 -> 1)" in second


@pytest.mark.parametrize("text", ["garbage", "[1]", "", "a: ["])
def test_a_damaged_config_of_before_is_no_reason_to_stop(text: str) -> None:
    """There is nothing to compare with: the study goes on and writes its own."""
    a_study(plan=["lr_range"])
    Path("runs/s/config.yaml").write_text(text)
    record, shown = a_study(plan=["lr_range"])
    assert record.status == "complete"
    assert "settings differ" not in shown
    assert yaml.safe_load(Path("runs/s/config.yaml").read_text())["study_name"] == "s"


def test_a_checkout_that_is_not_installed_runs_too() -> None:
    """Its version is not known then, which is no reason to fail."""
    assert _version("no-such-package") == "not installed"
    assert _version("optuna")[0].isdigit()
