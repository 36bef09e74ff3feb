"""The inline executor: rounds, comparing pruners, and what an interruption changes (nothing)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome, Point, Result
from orchestrator.executors.inline import InlineExecutor
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.states import Folder


class Nobody:
    """A watcher that counts what is really trained."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.started: list[Run] = []
        self.stop_at = stop_at

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """Count, and interrupt where told to."""
        self.started.append(run)
        if len(self.started) == self.stop_at:
            raise KeyboardInterrupt

    def point(self, run: Run, key: str, point: Point) -> None:
        """Let it be."""

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """Let it be."""


def a_run(lr: float, replicate: int = 0, steps: int = 100) -> Run:
    return Run("train", Schedule("paper", lr / 10, lr, 0.85, 0.9), 1e-3, 32, steps, replicate)


# Three rounds: each but the first has something to be compared with.
RNG = np.random.default_rng(0)
ROUNDS = [[a_run(float(lr), i) for i, lr in enumerate(RNG.uniform(0.01, 0.2, 5))] for _ in range(3)]
COMPARING: list[dict[str, Any]] = [
    {"behind": 1.05, "behind_after": 0.5},
    {"behind": None, "also": {"name": "hyperband", "min_resource": 30}},
    {"behind": None, "also": {"name": "successive_halving"}},
    {"behind": None, "also": {"name": "median", "n_startup_trials": 2}},
]


def an_executor(
    folder: Path,
    pruner: dict[str, Any],
    watcher: Nobody | None = None,
    storage: BaseStorage | None = None,
) -> InlineExecutor:
    objective = QuadraticObjective()
    made = build.pruner(Config.from_mapping({"pruner": pruner}), objective.facts.chance_loss)
    ledger = Ledger(storage or InMemoryStorage(), "s", repr(made))
    return InlineExecutor(
        ledger, objective, made, Folder(folder / "checkpoints"), watcher or Nobody()
    )


def results(executor: InlineExecutor, stage: str = "a") -> list[tuple[str, str, str, int]]:
    """Run all rounds; return what there is to know of each outcome."""
    outcomes = [o for runs in ROUNDS for o in executor.run(stage, runs)]
    return [(o.key, o.state, o.reason, len(o.curve)) for o in outcomes]


@pytest.mark.parametrize("pruner", COMPARING, ids=lambda p: (p.get("also") or {}).get("name", "be"))
def test_runs_are_compared_with_completed_rounds_only(
    tmp_path: Path, pruner: dict[str, Any]
) -> None:
    """So nothing of the first round is pruned by comparison, and much of the others is."""
    states = [state for _, state, _, _ in results(an_executor(tmp_path, pruner))]
    assert states[:5] == ["finished"] * 5
    assert "pruned" in states[5:]


@pytest.mark.parametrize("pruner", COMPARING, ids=lambda p: (p.get("also") or {}).get("name", "be"))
@pytest.mark.parametrize("stop_at", [3, 6, 8, 14])
def test_an_interruption_changes_no_outcome(
    tmp_path: Path, pruner: dict[str, Any], stop_at: int
) -> None:
    """Interrupted in any round and resumed: the same runs are pruned, at the same point."""
    undisturbed, kept = results(an_executor(tmp_path, pruner)), InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        results(an_executor(tmp_path, pruner, Nobody(stop_at), kept))
    watcher = Nobody()
    assert results(an_executor(tmp_path, pruner, watcher, kept)) == undisturbed
    assert len(watcher.started) == 15 - (stop_at - 1)
    again = Nobody()
    assert results(an_executor(tmp_path, pruner, again, kept)) == undisturbed
    assert again.started == []


def test_a_run_that_another_stage_trains_to_its_end_stays_pruned_in_the_first(
    tmp_path: Path,
) -> None:
    """A stage that has nothing to compare with lets it finish; the first one repeats itself."""
    pruner, kept = COMPARING[0], InMemoryStorage()
    executor = an_executor(tmp_path, pruner, None, kept)
    first = results(executor)
    number = next(i for i, (_, state, _, _) in enumerate(first) if state == "pruned")
    (alone,) = executor.run("b", [[run for runs in ROUNDS for run in runs][number]])
    assert alone.state == "finished"
    watcher = Nobody()
    assert results(an_executor(tmp_path, pruner, watcher, kept)) == first
    assert watcher.started == []


def test_the_least_bad_is_the_one_that_got_furthest_then_the_lowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs whose loss is not finite cannot go on; if there are only those, none does."""

    def losing(stop: Callable[[Run], tuple[float, float]]) -> Callable[..., Any]:
        def call(self: QuadraticObjective, run: Run, session: Session) -> Any:
            share, loss = stop(run)
            for step in run.report_steps():
                progress = step / run.steps
                lost = progress > share
                value = loss + progress if lost else 1.0
                session.report(Point(step, progress, 0.1, 0.9, value, value))
            return Result(1.0, run.examples)

        return call

    runs = [a_run(0.1, i) for i in range(4)]
    fates = [(0.2, 3.0), (0.6, 5.0), (0.6, 4.0), (0.8, float("nan"))]
    monkeypatch.setattr(QuadraticObjective, "__call__", losing(lambda run: fates[run.replicate]))
    executor = an_executor(tmp_path / "a", {})
    states = [o.state for o in executor.run("a", runs)]
    assert states == ["pruned", "pruned", "finished", "pruned"]
    assert [o.state for o in executor.run("a", [a_run(0.1, 0, 90)])] == ["pruned"]

    fates = [(0.3, float("nan"))] * 4
    executor = an_executor(tmp_path / "b", {})
    assert {o.state for o in executor.run("a", runs)} == {"pruned"}


def test_runs_that_may_not_be_pruned_end(tmp_path: Path) -> None:
    """`prunable=False`: the pruner is not even told of them; the same run else is pruned."""
    runs = [a_run(50.0), a_run(0.1), replace(a_run(50.0, replicate=1), prunable=False)]
    outcomes = an_executor(tmp_path, {}).run("a", runs)
    assert [o.state for o in outcomes] == ["pruned", "finished", "finished"]


def test_the_real_trials_of_a_stage_are_told_all_points(tmp_path: Path) -> None:
    """What Optuna's pruners see is a study of its own; the stage's keeps training steps."""
    kept = InMemoryStorage()
    results(an_executor(tmp_path, COMPARING[1], None, kept))
    study = optuna.load_study(study_name="s/a", storage=kept)
    assert list(study.trials[0].intermediate_values) == a_run(0.1).report_steps()
    assert not any(trial.system_attrs for trial in study.trials)


def test_an_audit_goes_on_from_its_run_under_a_key_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the checkpoint of the run that was pruned; a replay finds that pruned, as it was."""
    found: list[bytes | None] = []

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        found.append(session.load())
        session.save(b"half")
        loss = float("nan") if len(found) == 1 else 1.0
        for step in run.report_steps():
            session.report(Point(step, step / run.steps, 0.1, 0.9, loss, loss))
        return Result(1.0, run.examples)

    monkeypatch.setattr(QuadraticObjective, "__call__", call)
    kept, run = InMemoryStorage(), a_run(0.1)
    executor = an_executor(tmp_path, {}, storage=kept)
    (pruned,) = executor.run("a", [run])
    (audit,) = executor.audit("a", [pruned])
    assert found == [None, b"half"]
    assert (pruned.state, audit.end.state) == ("pruned", "finished")
    assert audit.end.key == f"{pruned.key}-audit"
    (again,) = an_executor(tmp_path, {}, storage=kept).run("a", [run])
    assert (again.key, again.state, len(found)) == (pruned.key, "pruned", 2)
