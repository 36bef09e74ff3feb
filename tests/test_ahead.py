"""Runs ahead: workers without work train what later stages will ask for; decisions are the same."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.plan import ahead
from orchestrator.record import StudyRecord
from orchestrator.report import html
from orchestrator.report.terminal import Terminal
from orchestrator.study.walk import run_study

pytestmark = pytest.mark.usefixtures("here")
HOME = Path(__file__).resolve().parents[1]
SHARE = 0.25


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Workers in simulated time."""
    monkeypatch.syspath_prepend(str(HOME / "benchmarks"))
    monkeypatch.setattr(html, "write", lambda record, folder: [])
    monkeypatch.setattr(ahead, "SHORTEST", 0.0)
    from scaling_parts import pool

    module: ModuleType = pool
    return module


def a_study(
    pools: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    share: float = SHARE,
    seed: int = 0,
    order: int | None = None,
    **changes: Any,
) -> tuple[StudyRecord, Any]:
    """Run a study on simulated workers; `order`: they take random times."""
    objective = QuadraticObjective(Quadratic(problem_seed=seed), seed=seed)
    late = float if order is None else lambda seconds: seconds * Random(order).uniform(0.2, 5)
    pool = pools.SimulatedPool(objective, workers, late)
    monkeypatch.setattr(build, "_pool", lambda config: pool)
    config = {
        "study_name": "s",
        "objective": {"name": "quadratic", "problem_seed": seed},
        "executor": {"name": "processes", "ahead": share},
        "seed": seed,
        "tracking": {"name": "none"},
        "storage": {"name": "memory"},
        **changes,
    }
    return run_study(Config.from_mapping(config), Terminal()), pool


def decisions(record: StudyRecord) -> list[Any]:
    return [(s.decision.reason, dict(s.decision.values)) for s in record.stages]


def keys(record: StudyRecord) -> list[list[str]]:
    return [[o.key for o in s.outcomes] for s in record.stages]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_study_decides_the_same_whatever_is_run_ahead(
    pools: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """One worker, four, or many in a random order: same runs, same decisions."""
    alone, _ = a_study(pools, monkeypatch, 1, share=0, seed=seed)
    for workers, order in ((4, None), (16, 8)):
        record, _ = a_study(pools, monkeypatch, workers, seed=seed, order=order)
        assert decisions(record) == decisions(alone)
        assert keys(record) == keys(alone)


@pytest.mark.parametrize("final_runs", [2.6, 3.4, 4.2])
def test_a_budget_counts_a_run_when_its_stage_asks_for_it(
    pools: ModuleType, monkeypatch: pytest.MonkeyPatch, final_runs: float
) -> None:
    """So it cuts the same stages, in this command and when the study is replayed."""
    limits = {"budget": {"final_runs": final_runs}}
    alone, _ = a_study(pools, monkeypatch, 1, share=0, **limits)
    journal = {"name": "journal"}
    record, _ = a_study(
        pools, monkeypatch, 8, share=0.9, study_name="ahead", storage=journal, **limits
    )
    assert decisions(record) == decisions(alone)
    again, pool = a_study(
        pools, monkeypatch, 1, share=0, study_name="ahead", storage=journal, **limits
    )
    assert decisions(again) == decisions(alone)
    assert pool.busy == 0


def test_it_saves_time_and_wastes_no_more_than_its_share(
    pools: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in vain is said, and below the share of the budget at any time."""
    found: list[ahead.RunAhead] = []
    made = ahead.RunAhead.__init__

    def noted(self: ahead.RunAhead, *parts: Any, **more: Any) -> None:
        made(self, *parts, **more)
        found.append(self)

    monkeypatch.setattr(ahead.RunAhead, "__init__", noted)
    started, seconds = ahead.RunAhead.started, {}

    def limited(self: ahead.RunAhead, run: Any) -> None:
        started(self, run)
        assert sum(self.vain.values()) <= SHARE * 6 + 1e-9

    monkeypatch.setattr(ahead.RunAhead, "started", limited)
    for share in (0, SHARE):
        total = 0.0
        for seed in (0, 1):
            record, pool = a_study(pools, monkeypatch, 4, share=share, seed=seed)
            total += pool.now
            said = [note for note in record.notes if note.startswith("Idle workers")]
            assert bool(said) == bool(share and (found[-1].needed or found[-1].vain))
        seconds[share] = total
    assert any(each.needed for each in found)
    assert seconds[SHARE] < seconds[0]


def test_the_sealed_test_of_a_network_waits_for_the_final_stage(
    pools: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training is done ahead, never the test of what is trained anyway."""
    seen: list[Any] = []
    real = ahead.RunAhead.started
    monkeypatch.setattr(
        ahead.RunAhead, "started", lambda self, run: (seen.append(run), real(self, run))[1]
    )
    for seed in (0, 1):
        a_study(pools, monkeypatch, 8, seed=seed)
    assert seen
    assert not [run for run in seen if run.label.startswith("answer tests")]


def test_short_runs_are_not_worth_it(pools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking ahead takes longer than a round of milliseconds."""
    monkeypatch.setattr(ahead, "SHORTEST", 1e6)
    monkeypatch.setattr(ahead.RunAhead, "_likely", None)
    record, _ = a_study(pools, monkeypatch, 4)
    assert record.status == "complete"
