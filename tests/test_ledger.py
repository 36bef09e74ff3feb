import json
import os
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from curves import outcome

from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.storage.backend import journal, set_aside
from orchestrator.storage.ledger import Ledger

RUN = Run("train", Schedule("paper", 0.01, 0.1, 0.85, 0.9), 1e-3, 64, 312, 0, label="a run")


def a_ledger(path: Path, pruner: str = "p") -> Ledger:
    return Ledger(journal(path / "optuna.journal"), "study", pruner)


def train(ledger: Ledger, run: Run = RUN, key: str = "key", state: str = "finished") -> None:
    ended = outcome(run, 0.5, state)  # type: ignore[arg-type]
    ended = type(ended)(run, key, ended.state, ended.curve, ended.result, "why")
    ledger.tell("momentum", ledger.ask("momentum", run, key), ended)


def test_a_finished_run_is_known_to_the_next_process(tmp_path: Path) -> None:
    """Curve, result and reason come back from the journal."""
    train(a_ledger(tmp_path))
    found = a_ledger(tmp_path, pruner="another").find("key", RUN)
    assert found is not None
    assert found.held_out_loss == pytest.approx(0.5)
    assert found.result.examples == RUN.examples
    assert found.reason == "why"


def test_a_pruned_run_is_known_to_the_same_pruner_only(tmp_path: Path) -> None:
    """Another pruner might have let it go on."""
    train(a_ledger(tmp_path), state="pruned")
    assert a_ledger(tmp_path).find("key", RUN) is not None
    assert a_ledger(tmp_path, pruner="another").find("key", RUN) is None


def test_what_two_pruners_stopped_is_known_to_both(tmp_path: Path) -> None:
    """A study that went on under another pruner need not be trained again under either."""
    train(a_ledger(tmp_path, pruner="first"), state="pruned")
    train(a_ledger(tmp_path, pruner="second"), state="pruned")
    for pruner in ("first", "second"):
        assert a_ledger(tmp_path, pruner=pruner).known("key", RUN) is not None
    assert a_ledger(tmp_path, pruner="third").known("key", RUN) is None


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    """Failure is not an answer."""
    train(a_ledger(tmp_path), state="failed")
    assert a_ledger(tmp_path).find("key", RUN) is None


def test_unusual_values_are_kept_beside_usual_ones(tmp_path: Path) -> None:
    """Axes of plots end where values usually do; what is beyond is taken all the same."""
    odd = replace(
        RUN, schedule=Schedule("paper", 1e-12, 1e4, 0.85, 0.9), batch_size=5000, steps=10**6
    )
    train(a_ledger(tmp_path))
    train(a_ledger(tmp_path), odd, "odd")
    trials = a_ledger(tmp_path).study("momentum").trials
    assert [(t.params["max_lr"], t.params["steps"]) for t in trials] == [(0.1, 312), (1e4, 10**6)]
    usual, wide = (t.distributions["max_lr"] for t in trials)
    assert (usual.high, wide.high) == (100, 1e300)


def test_trials_carry_the_real_hyper_parameters_and_states(tmp_path: Path) -> None:
    """What Optuna's own tools show: params, value, state, reason."""
    ledger = a_ledger(tmp_path)
    train(ledger)
    train(ledger, key="other", state="pruned")
    done, pruned = ledger.study("momentum").trials
    assert done.params["max_lr"] == 0.1
    assert done.params["weight_decay"] == 1e-3
    assert done.state == optuna.trial.TrialState.COMPLETE
    assert done.value == pytest.approx(0.5)
    assert pruned.state == optuna.trial.TrialState.PRUNED
    assert pruned.user_attrs["reason"] == "why"


def test_a_trial_left_running_by_a_dead_process_is_closed(tmp_path: Path) -> None:
    """It becomes FAIL, and its run is trained again."""
    ledger = a_ledger(tmp_path)
    pid = os.fork()
    if pid == 0:  # the child opens a trial and dies without a word
        a_ledger(tmp_path).ask("momentum", RUN, "key")
        os._exit(9)
    os.waitpid(pid, 0)
    ledger = a_ledger(tmp_path)
    states = [t.state for t in ledger.study("momentum").trials]
    assert states == [optuna.trial.TrialState.FAIL]
    assert ledger.find("key", RUN) is None


def test_a_trial_that_someone_enqueued_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    """A trial is opened for its run; what waits in Optuna's queue is left there."""
    ledger = a_ledger(tmp_path)
    ledger.study("momentum").enqueue_trial(RUN.params(), user_attrs={"key": "stale"})
    trial = ledger.ask("momentum", RUN, "key")
    assert trial.user_attrs["key"] == "key"
    assert trial.params == RUN.params()


def test_reports_are_seen_by_others_at_once(tmp_path: Path) -> None:
    """A dashboard shows the points of a run that goes on, and a killed process loses none."""
    ledger = a_ledger(tmp_path)
    pid = os.fork()
    if pid == 0:
        trial = a_ledger(tmp_path).ask("momentum", RUN, "key")
        for step in range(5):
            trial.report(0.5, step)
        os._exit(9)
    os.waitpid(pid, 0)
    (trial,) = ledger.study("momentum").trials
    assert trial.state == optuna.trial.TrialState.RUNNING
    assert trial.intermediate_values == dict.fromkeys(range(5), 0.5)


def test_only_the_end_of_a_trial_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is forced to the disk while a run trains; its outcome is, once."""
    fsync, forced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: forced.append(fsync(handle)))
    ledger = a_ledger(tmp_path)
    trial = ledger.ask("momentum", RUN, "key")
    trial.report(0.5, 1)
    assert not forced
    ledger.tell("momentum", trial, outcome(RUN, 0.5))
    assert len(forced) == 1


@pytest.mark.parametrize("torn", [b'{"op_code": 5, "worker', bytes(4096)])
def test_a_torn_last_line_costs_that_line_only(tmp_path: Path, torn: bytes) -> None:
    """A journal cut in the middle of a write opens, and can be written to, as before.

    After a power loss a file may also end in zeros: longer, but without what was to stand there.
    """
    train(a_ledger(tmp_path))
    path = tmp_path / "optuna.journal"
    path.write_bytes(path.read_bytes() + torn)
    ledger = a_ledger(tmp_path)
    assert ledger.find("key", RUN) is not None
    train(ledger, key="other")
    for line in path.read_text().splitlines():
        json.loads(line)


def test_studies_are_set_aside_and_not_deleted(tmp_path: Path) -> None:
    """Starting over in a database renames what was there."""
    storage = journal(tmp_path / "optuna.journal")
    train(Ledger(storage, "study"))
    set_aside(storage, "study", ".old")
    assert optuna.get_all_study_names(storage) == ["study.old/momentum"]
    assert Ledger(storage, "study").find("key", RUN) is None
    assert Ledger(storage, "study.old").find("key", RUN) is not None
