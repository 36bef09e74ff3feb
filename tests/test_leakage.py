"""The sealed test data decide nothing: shown on whole studies."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config.schema import Config
from orchestrator.curve import Outcome, Result
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.record import StudyRecord
from orchestrator.stages import STAGES
from orchestrator.stages.expected import by_expected_loss
from orchestrator.stages.stage import walk
from orchestrator.study.walk import run_study
from orchestrator.testing import execute
from orchestrator.training.objective import DO

pytestmark = pytest.mark.usefixtures("here", "without_figures")
PLAN = ["lr_range", "momentum", "weight_decay", "dropout", "batch_size", "lr_check", "final"]


def blobs(file: Path, order: np.ndarray[Any, Any] | None = None) -> str:
    """Write four noisy clouds of points, test labels in another order if one is given."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 8))
    y = np.arange(400) % 4
    x = (centres[y] + 0.9 * rng.standard_normal((400, 8))).astype(np.float32)
    test = y[300:] if order is None else y[300:][order]
    np.savez(file, x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=test)
    return str(file)


def a_study(name: str, path: str, effort: str) -> StudyRecord:
    """Run all stages on real training of a small network, as small as they get."""
    few = {"seeds": 2, "max_seeds": 3, "horizons": [0.5]}
    plan = PLAN if effort == "thorough" else [PLAN[0], "first_run", *PLAN[1:]]
    stages: dict[str, Any] = {
        "lr_range": {"min_steps": 40},
        "momentum": {"candidates": [0.95, 0.9]},
        "weight_decay": {"candidates": [1e-2, 1e-3]},
        "dropout": {"candidates": [0.0, 0.3]},
        "batch_size": {"candidates": [16, 32]},
        "lr_check": {},
        "final": {"epochs": 4, "seeds": 2},
    }
    if effort == "thorough":
        for stage in ("momentum", "weight_decay", "dropout", "lr_check"):
            stages[stage] |= few
        stages["lr_range"] |= {"ramps": 2}
        stages["batch_size"] |= {"max_seeds": 2}
    config = {
        "study_name": name,
        "effort": effort,
        "budget": {"final_runs": None},
        "plan": plan,
        "data": {"name": "arrays", "path": path},
        "model": {"width": 0.1, "dropout": 0.1},
        "recipe": {"batch_size": 16},
        "tracking": {"name": "none"},
        "quiet": True,
        "threads": 1,
        "device": "cpu",
        "stages": stages,
    }
    return run_study(Config.from_mapping(config))


@pytest.mark.parametrize("effort", ["standard", "thorough"])
def test_permuted_test_labels_change_no_decision(
    effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages, real training: decisions and recipe are bit-identical, the test result is not.

    The clock is pinned: equal time must mean the same number of steps in both studies.
    """

    def pinned(setup: Any, run: Run, session: Any) -> Result:
        seconds = {str(b): 1e-3 + 1e-5 * b for b in run.batch_sizes}
        return Result(measured={"seconds_per_step": seconds, "spread": dict.fromkeys(seconds, 0.0)})

    monkeypatch.setitem(DO, "calibrate", pinned)
    monkeypatch.setattr("orchestrator.stages.timed.TimedTrials.on_time", lambda *_: True)
    ours = a_study("ours", blobs(Path("a.npz")), effort)
    order = np.random.default_rng(1).permutation(100)
    theirs = a_study("theirs", blobs(Path("b.npz"), order), effort)

    assert ours.status == theirs.status == "complete"
    assert [s.decision.stage for s in ours.stages if s.decision.stage != "first_run"] == PLAN
    for mine, other in zip(ours.stages[:-1], theirs.stages[:-1], strict=True):
        assert _unclocked(mine.decision) == _unclocked(other.decision)
        assert [o.key for o in mine.outcomes] == [o.key for o in other.outcomes]
    assert ours.recipe == theirs.recipe
    assert ours.stages[-1].decision.values == theirs.stages[-1].decision.values
    scores = [s.stages[-1].decision.evidence["test_metric"]["mean"] for s in (ours, theirs)]
    assert scores[0] > 0.7
    assert scores[1] < 0.5


def _unclocked(decision: Any) -> Any:
    """Return a decision without the seconds in its evidence, the one thing that time changes."""
    rows = [
        {k: v for k, v in row.items() if not k.startswith("seconds")}
        for row in decision.evidence.get("rows", ())
    ]
    return replace(decision, evidence={**decision.evidence, "rows": rows})


class Sealed(Result):
    """A result that fails whoever reads what the sealed test said."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("test_loss", "test_metric"):
            raise AssertionError(f"{name} was read before the sealed round")
        return super().__getattribute__(name)


@pytest.mark.parametrize("expected", [False, True], ids=["alone", "expected loss"])
@pytest.mark.parametrize("kind", STAGES)
def test_no_stage_reads_test_results_of_runs_that_do_not_open_the_test(
    kind: str, expected: bool
) -> None:
    """Every result but those of the sealed round raises when its test_* is looked at."""
    objective = QuadraticObjective()
    facts = replace(objective.facts, dropout=0.1)
    found = Decision("lr_range", "lr_range", "", {"max_lr": 0.05, "min_lr": 0.005})
    tuned = Decision("weight_decay", "weight_decay", "", {"weight_decay": 1e-3})
    recipe = Recipe() if kind == "lr_range" else Recipe().with_(found).with_(tuned)

    def sealed(run: Run) -> Outcome:
        outcome = execute(objective, run)
        if run.opens_test:
            return outcome
        r = outcome.result
        return replace(
            outcome, result=Sealed(r.seconds, r.examples, math.nan, math.nan, r.measured)
        )

    stage = STAGES[kind](name=kind, facts=facts)
    if expected:
        stage = by_expected_loss(stage, recipe, rate=1e-6)
    decision, _ = walk(stage, recipe, lambda runs: [sealed(run) for run in runs])
    assert decision.answered
