"""Pruning in whole studies: beside Optuna's pruners, audited, never down to nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from test_study import Scripted, a_study, falling, scripted, trials

from orchestrator.curve import Result
from orchestrator.objectives import Session
from orchestrator.recipe import Run
from orchestrator.record import StudyRecord

pytestmark = pytest.mark.usefixtures("here", "without_figures")
COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


PRUNERS = sorted((Path(__file__).parent.parent / "conf/pruner").glob("*.yaml"))
SHORT = {
    "plan": ["momentum", "final"],
    "recipe": {"max_lr": 0.1},
    "stages": {"final": {"epochs": 4, "seeds": 2, "baselines": False}},
}


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/s/summary.json").read_text())
    return found


def decisions(record: StudyRecord) -> list[tuple[str, dict[str, Any]]]:
    return [(s.decision.reason, dict(s.decision.values)) for s in record.stages]


@pytest.mark.parametrize("file", PRUNERS, ids=lambda f: f.stem)
def test_a_study_ends_with_every_pruner_and_repeats_itself(file: Path) -> None:
    """No warning reaches the user; the same command again trains nothing and says the same."""
    pruner = yaml.safe_load(file.read_text())
    record, shown = a_study(**SHORT, pruner=pruner)
    assert record.status == "complete"
    assert "arning" not in shown
    numbers = [len(trials(s.decision.stage)) for s in record.stages]
    again, _ = a_study(**SHORT, pruner=pruner)
    assert decisions(again) == decisions(record)
    assert [len(trials(s.decision.stage)) for s in again.stages] == numbers


def doomed(momenta: Mapping[float, float]) -> Any:
    """Return curves that rise from a share of the run on, for each of these momenta."""

    def loss(run: Run, progress: float) -> float:
        end = momenta.get(run.schedule.max_momentum)
        if end is None or run.kind != "train" or progress < end:
            return falling(run, progress)
        return 3.0 + progress + 0.1 * run.schedule.max_momentum

    return loss


MOMENTA = {0.9: 0.1, 0.95: 0.6, 0.97: 0.3, 0.99: 0.3}


def test_if_nothing_survives_a_stage_the_least_bad_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that got furthest ends, as a new trial; the stage decides with it; that is said."""
    scripted(monkeypatch, doomed(MOMENTA))
    record, shown = a_study(**SHORT)
    outcomes = record.stages[0].outcomes
    (saved,) = [o for o in outcomes if o.state == "finished"]
    assert saved.run.schedule.max_momentum == 0.95
    assert saved.curve.progress[-1] == 1.0
    assert saved.reason.startswith(f"all {len(outcomes)} runs were pruned, this is the best of")
    assert f"all {len(outcomes)} runs were pruned" in shown
    assert f"all {len(outcomes)} runs were pruned" in Path("runs/s/study.log").read_text()
    found = [t for t in trials("momentum") if t.user_attrs["key"] == saved.key]
    assert [t.state for t in found] == [PRUNED, COMPLETE]
    assert not record.stages[0].decision.answered
    before = len(trials("momentum"))
    again, shown = a_study(**SHORT)
    assert decisions(again) == decisions(record)
    assert len(trials("momentum")) == before
    assert "were pruned" not in shown  # it happened the first time


def test_a_stage_with_a_survivor_lets_the_pruned_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a whole later round is pruned: there is something to decide by."""
    scripted(monkeypatch, doomed({0.97: 0.3, 0.99: 0.3}))
    _, shown = a_study(**SHORT)
    assert "were pruned" not in shown


def crossing(run: Run, progress: float) -> float:
    """Momentum .99 looks lost for a while and ends best; .97 looks lost and is."""
    momentum = run.schedule.max_momentum
    if run.kind != "train" or momentum not in (0.97, 0.99) or progress < 0.3:
        return falling(run, progress) * (1 + 0.001 * run.replicate)
    if progress < 0.6:
        return 3.0 + progress
    return 0.01 if momentum == 0.99 else 1.5


def test_an_audit_says_how_many_were_pruned_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pruned runs end; the one that would have won is counted, in all places."""
    scripted(monkeypatch, crossing)
    plain, _ = a_study(**SHORT, study_name="plain")
    record, shown = a_study(**SHORT, pruner={"audit": 1.0})
    assert decisions(record) == decisions(plain)
    audit = summary()["cost"]["audit"]
    pruned = [o for o in record.stages[0].outcomes if o.state == "pruned"]
    assert audit["pruned"] == audit["audited"] == len(pruned) > 0
    wrong = sum(o.run.schedule.max_momentum == 0.99 for o in pruned)
    assert audit["wrong"] == audit["within_margin"] == wrong > 0
    assert audit["examples"] == sum(o.run.examples - o.result.examples for o in pruned)
    other = json.loads(Path("runs/plain/summary.json").read_text())["cost"]
    cost = summary()["cost"]
    assert cost["examples"] == other["examples"] + audit["examples"]
    assert cost["pruned_saving"] == other["pruned_saving"] > 0
    assert other["audit"]["audited"] == 0
    ends = f"{len(pruned)} of {len(pruned)} pruned runs trained to their end"
    said = f"{ends}: {wrong} of them pruned"
    assert said in shown
    page = Path("runs/s/report.html").read_text()
    assert said in page
    assert "Audit of the pruner" in page
    reasons = [t.user_attrs.get("reason", "") for t in trials("momentum") if t.state == COMPLETE]
    assert sum(r.startswith("pruned wrongly: it ends at 0.01") for r in reasons) == wrong


def test_audited_runs_are_the_same_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by key: a resumed study, or a larger share, adds to what is known already."""
    scripted(monkeypatch, crossing)
    half, _ = a_study(**SHORT, pruner={"audit": 0.5})
    before = len(trials("momentum"))
    again, _ = a_study(**SHORT, pruner={"audit": 0.5})
    assert len(trials("momentum")) == before
    some = {a.pruned.key for a in half.audits}
    assert {a.pruned.key for a in again.audits} == some
    every, _ = a_study(**SHORT, pruner={"audit": 1.0})
    more = {a.pruned.key for a in every.audits}
    assert some < more
    assert len(trials("momentum")) == before + len(more - some)
    assert decisions(every) == decisions(half)


def test_an_audited_run_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained twice: the session of the audit hands back what the pruned run saved."""
    loaded = []
    call = Scripted.__call__

    def saving(self: Scripted, run: Run, session: Session) -> Result:
        loaded.append((run.label, session.load()))
        session.save(run.label.encode())
        return call(self, run, session)

    monkeypatch.setattr(Scripted, "__call__", saving)
    scripted(monkeypatch, crossing)
    a_study(**SHORT, pruner={"audit": 1.0})
    audits = [(label, state) for label, state in loaded if label.endswith(", audit")]
    assert audits
    assert all(state == label.removesuffix(", audit").encode() for label, state in audits)


def test_every_prune_has_its_reason_in_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which run, how far it came, and why."""
    scripted(monkeypatch, crossing)
    a_study(**SHORT)
    (first, *rest) = summary()["stages"][0]["pruned"]
    assert len(rest) + 1 == summary()["stages"][0]["trials"]["pruned"]
    assert 0.3 < first["progress"] < 0.6
    assert "momentum 0.9" in first["run"]
    assert first["reason"].startswith("diverged: held-out loss 3.31 is above 1.3 x")


def slow(run: Run, progress: float) -> float:
    """Nothing but the untrained loss for three quarters of a run, then a fall; .99 falls less."""
    if run.kind != "train" or progress < 0.75:
        return 2.3
    return 2.0 if run.schedule.max_momentum == 0.99 else 1.0 + 0.01 * run.replicate


def test_runs_that_are_slow_to_begin_are_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates at the untrained loss for most of a cycle: they end, and the stage decides."""
    scripted(monkeypatch, slow)
    record, _ = a_study(**SHORT)
    assert record.stages[0].decision.answered
    assert {o.state for o in record.stages[0].outcomes} == {"finished"}


def test_runs_at_the_untrained_loss_end_where_none_has_left_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first round of a stage has nothing to be compared with: no run of it is `stuck`."""
    scripted(monkeypatch, lambda run, progress: 2.3)
    record, shown = a_study(**SHORT)
    assert {o.state for o in record.stages[0].outcomes} == {"finished"}
    assert record.status == "undecided"
    assert "no max_momentum candidate finished" in shown


VIT = {
    "_target_": "timm.models.vision_transformer.VisionTransformer",
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
}


def test_a_vision_transformer_that_is_slow_to_begin_is_trained_to_its_end() -> None:
    """That of docs/own.md with AdamW: a short cycle stays at chance for half of its length."""
    record, _ = a_study(
        objective={"name": "training"},
        model=VIT,
        optimizer={"name": "adamw"},
        plan=["weight_decay"],
        recipe={"max_lr": 0.006, "batch_size": 32},
        stages={
            "weight_decay": {"candidates": [0.01], "horizons": [0.25], "max_seeds": 2, "refine": 0},
            "final": {"epochs": 10},
        },
        threads=1,
    )
    outcomes = record.stages[0].outcomes
    assert {o.state for o in outcomes} == {"finished"}
    for ended in outcomes:
        early = ended.curve.held_out_loss[: len(ended.curve) // 3]
        assert early.min() > 0.98 * 2.302
        assert ended.held_out_loss < 0.98 * 2.302
