import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import orchestrator
from orchestrator.pruners import CluePruner, ClueRules, report_cycles
from orchestrator.recipe import Facts

CHANCE = math.log(10)


@pytest.mark.parametrize("loss", [-1.0, 0.0, math.nan, math.inf])
def test_a_chance_loss_that_is_none_is_refused(loss: float) -> None:
    """Losses are compared with it by factors."""
    with pytest.raises(ValueError, match="start_loss must be above 0 and finite"):
        CluePruner(start_loss=loss)


@pytest.mark.parametrize(
    ("losses", "pruned_at", "why"),
    [
        ([2.3, 1.5, math.nan, 1.0], 2, "diverged: held-out loss is not finite"),
        ([2.3, 1.5, math.inf, 1.0], 2, "diverged: held-out loss is not finite"),
        ([2.3, 2.9, 3.3, 3.9], 2, "diverged: held-out loss 3.3 is above 1.3 x the untrained loss"),
        ([2.3] * 12, None, ""),
        ([2.3, 2.0, 1.5, 2.9, 1.2, 1.0], None, ""),
        ([2.3, 1.0, 2.2, 0.9, 0.8, 0.7], None, ""),
    ],
)
def test_plain_optuna_trials_are_judged_by_their_own_curve(
    losses: list[float], pruned_at: int | None, why: str
) -> None:
    """With `trial.report` alone; neither a steep rise below 1.3 x chance nor chance prunes."""
    pruner = CluePruner(start_loss=CHANCE, total_steps=len(losses) - 1)
    study = optuna.create_study(pruner=pruner)
    number, stopped = told(study, losses)
    assert stopped == pruned_at
    assert pruner.reason(number).startswith(why)


def told(study: optuna.Study, losses: Sequence[float]) -> tuple[int, int | None]:
    """Report the losses at steps 0, 1, ... as a new trial; return it and where it was pruned."""
    trial = study.ask()
    for step, loss in enumerate(losses):
        trial.report(loss, step)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return trial.number, step
    study.tell(trial, losses[-1])
    return trial.number, None


def test_the_first_value_stands_in_for_an_unknown_chance_loss() -> None:
    """Without `chance_loss` a loss that climbs 30 % above its start is lost."""
    study = optuna.create_study(pruner=CluePruner())
    assert told(study, [1.0, 1.4, 1.0]) == (0, 1)


GOOD = [2.3, 1.5, 1.2, 1.0, 0.8, 0.6, 0.5, 0.4, 0.35, 0.3, 0.28]  # steps 0 to 10


@pytest.mark.parametrize(
    ("losses", "pruned_at"),
    [
        ([2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 0.1], 3),  # ln 2.3/1 > 2 ln 2.3/2
        ([2.2, 1.9, 1.7, 1.5, 1.3, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1], 6),  # ln 2.3/.5 > 2 ln 2.3/1.1
        ([2.3, 1.0, 2.9, 2.2, 2.8, 2.2, 0.6, 2.2, 0.9, 0.8, 0.7], None),  # the lowest so far
        ([2.3, 2.2, 1.5, 1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 2.2], None),  # at the end: too late
    ],
)
def test_a_run_far_behind_the_best_finished_one_is_pruned(
    losses: list[float], pruned_at: int | None
) -> None:
    """From 25 % on, by how far the loss has fallen from chance, at its lowest and in logarithms."""
    pruner = CluePruner(start_loss=CHANCE, total_steps=10)
    study = optuna.create_study(pruner=pruner)
    told(study, GOOD)
    number, stopped = told(study, losses)
    assert stopped == pruned_at
    if pruned_at == 3:
        assert pruner.reason(number) == (
            "behind: held-out loss is down to 2 from the untrained loss (2.3) at 30 % of the run,"
            " the best finished run was at 1: more than 2 x as far in logarithms"
        )


@pytest.mark.parametrize(
    ("losses", "pruned_at"),
    [
        ([2.3] * 11, 5),  # steps 3 to 5, where the best one was at 0.6
        ([2.3, 1.8, 1.2, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3], 5),  # fallen, and back
        ([2.3, 2.3, 2.3, 2.3, 2.3, 1.2, 1.0, 0.8, 0.6, 0.4, 0.3], None),  # left in time
    ],
)
@pytest.mark.parametrize("behind", [None, 1e9])
def test_a_run_is_stuck_where_the_best_finished_one_had_left_the_untrained_loss(
    losses: list[float], pruned_at: int | None, behind: float | None
) -> None:
    """Three points in a row at it, the last one among them."""
    rules = ClueRules(behind=behind)
    pruner = CluePruner(rules, start_loss=CHANCE, total_steps=10)
    study = optuna.create_study(pruner=pruner)
    told(study, GOOD)
    number, stopped = told(study, losses)
    assert stopped == pruned_at
    if stopped:
        assert pruner.reason(number) == (
            "stuck: 3 points in a row at the untrained loss (held-out loss 2.3 of 2.3) (steps 3-5),"
            " and the best finished run was at 0.6"
        )


def test_a_run_is_not_stuck_where_the_best_finished_one_was_as_slow() -> None:
    """What is slow to begin looks the same at the same progress; later it does not."""
    slow = [2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.2, 1.5, 1.0, 0.6, 0.5]
    pruner = CluePruner(ClueRules(behind=None), start_loss=CHANCE, total_steps=10)
    study = optuna.create_study(pruner=pruner)
    assert told(study, slow)[1] is None
    assert told(study, [*slow[:6], *slow[5:10]])[1] is None
    assert told(study, [2.3] * 11)[1] == 7


def test_nobody_is_behind_a_best_run_that_has_hardly_fallen() -> None:
    """Less than a tenth below chance is noise."""
    study = optuna.create_study(pruner=CluePruner(start_loss=CHANCE, total_steps=10))
    told(study, [2.3, 2.2, 2.15, 2.15, 2.15, 2.15, 2.15, 2.15, 2.15, 2.15, 0.1])
    assert told(study, [2.3, 2.29, 2.25, 2.25, 2.25, 2.25, 2.25, 2.25, 2.2, 2.15, 0.1])[1] is None


def test_trials_of_another_length_are_no_measure() -> None:
    """Without `total_steps` the length is that of all complete trials, if they agree."""
    slow = [2.2, 2.1, 2.0, 1.9, 1.9, 1.9, 1.8, 1.8, 1.8, 1.8]
    pruner = CluePruner(start_loss=CHANCE)
    study = optuna.create_study(pruner=pruner)
    told(study, GOOD)
    assert told(study, slow)[1] == 3
    told(study, [2.0, 1.5, 1.0, 0.9])  # a shorter one: what is late is not known any more
    assert told(study, slow)[1] is None


@pytest.mark.parametrize(("first", "total"), [(1, 11), (0, 11), (0, 10), (1, None), (0, None)])
def test_steps_may_count_from_0_or_from_1(first: int, total: int | None) -> None:
    """`total_steps` is the last of them, or how many there are."""
    slow = [2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3]
    study = optuna.create_study(pruner=CluePruner(start_loss=CHANCE, total_steps=total))

    def pruned(losses: list[float]) -> bool:
        trial = study.ask()
        for step, loss in enumerate(losses, first):
            trial.report(loss, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return True
        study.tell(trial, losses[-1])
        return False

    assert not pruned(GOOD)
    assert pruned(slow)


def test_complete_trials_that_end_elsewhere_are_warned_of() -> None:
    """Else the rule would be off without a word."""
    study = optuna.create_study(pruner=CluePruner(start_loss=CHANCE, total_steps=8))
    told(study, GOOD)
    with pytest.warns(
        UserWarning, match="complete trials end at step 10, and total_steps is 8: no"
    ):
        told(study, GOOD)


def test_behind_can_be_switched_off() -> None:
    """`behind=None`: a trial that falls at all goes on."""
    pruner = CluePruner(ClueRules(behind=None), start_loss=CHANCE, total_steps=10)
    study = optuna.create_study(pruner=pruner)
    told(study, GOOD)
    assert told(study, [2.0] * 11)[1] is None


def test_a_study_that_maximizes_is_refused_with_the_next_step() -> None:
    """An accuracy is not a loss: nothing is judged silently the wrong way round."""
    study = optuna.create_study(direction="maximize", pruner=CluePruner())
    with pytest.raises(ValueError, match="report the loss in a study that minimizes, or call"):
        told(study, [0.1, 0.9])


def test_another_pruner_is_asked_where_the_clues_are_silent() -> None:
    """The reason names who pruned; a trial that the clues stop does not get that far."""
    median = optuna.pruners.MedianPruner(n_startup_trials=1)
    pruner = CluePruner(also=median, start_loss=CHANCE)
    study = optuna.create_study(pruner=pruner)
    told(study, GOOD)
    number, stopped = told(study, [2.1, 2.0])
    assert (pruner.reason(number), stopped) == ("pruned by MedianPruner at step 1", 1)
    number, _ = told(study, [math.nan])
    assert pruner.reason(number) == "diverged: held-out loss is not finite (step 0)"


def test_a_users_loop_prunes_with_reasons() -> None:
    """As in the docs: gradient descent that diverges at a large rate, each prune said twice."""
    data = np.random.default_rng(0).standard_normal((50, 5)) * np.array([0.01, 1, 1, 2, 3])
    curvature = data.T @ data / len(data)
    pruner = orchestrator.CluePruner()

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-3, 10, log=True)
        weights, loss = np.ones(5), math.inf
        for step in range(20):
            weights = weights - lr * curvature @ weights
            loss = float(weights @ curvature @ weights)
            trial.report(loss, step)
            pruner.check(trial)
        return loss

    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=20)
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    reasons = {t.params["lr"]: t.user_attrs["reason"] for t in pruned}
    assert list(reasons.values()) == [pruner.reason(t.number) for t in pruned]
    stable = 2 / np.linalg.eigvalsh(curvature).max()
    for lr, reason in reasons.items():
        assert reason.startswith("diverged: held-out loss" if lr > stable else "behind: held-out")
    assert {lr for lr in reasons if lr > stable} == {
        t.params["lr"] for t in study.trials if t.params["lr"] > stable
    }
    assert study.best_trial.user_attrs == {}


def test_halving_over_cycle_length_trains_few_long_cycles() -> None:
    """Complete cycles are compared at their ends; the longest is never pruned."""
    trained: list[int] = []

    def train(quality: float, length: int) -> float:
        trained.append(length)
        return quality + 1 / length

    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=2)
    study = optuna.create_study(pruner=halving)
    for quality in (0.5, 0.9, 0.3, 0.8, 0.7, 0.2, 0.6, 0.4):
        study.enqueue_trial({"quality": quality})

    def objective(trial: optuna.Trial) -> float:
        quality = trial.suggest_float("quality", 0, 1)
        return report_cycles(trial, [10, 20, 40], lambda length: train(quality, length))

    study.optimize(objective, n_trials=8)
    assert study.best_params == {"quality": 0.2}
    assert trained.count(10) == 8
    assert trained.count(10) > trained.count(20) >= trained.count(40)
    states = {t.state for t in study.trials if t.last_step == 40}
    assert states == {optuna.trial.TrialState.COMPLETE}
    assert sum(trained) < 8 * 40


@pytest.mark.parametrize("lengths", [[], [20, 10], [10, 10], [0, 10]])
def test_cycle_lengths_have_to_grow(lengths: list[int]) -> None:
    """Anything else is a mistake, and said."""
    with pytest.raises(ValueError, match="must be positive and increasing"):
        report_cycles(optuna.create_study().ask(), lengths, lambda length: 0.0)


def test_a_pickled_pruner_keeps_its_settings_and_leaves_its_trials() -> None:
    """A worker process gets its own: trials in progress belong to the process that has them."""
    pruner = CluePruner(
        ClueRules(behind=2.0), optuna.pruners.HyperbandPruner(), start_loss=CHANCE, total_steps=10
    )
    told(optuna.create_study(pruner=pruner), [math.nan])
    assert pruner.reason(0)
    copy = pickle.loads(pickle.dumps(pruner))
    assert repr(copy) == repr(pruner)
    assert (copy.start_loss, copy.total_steps) == (CHANCE, 10)
    assert copy.reason(0) == ""
    assert told(optuna.create_study(pruner=copy), [2.3, math.nan]) == (0, 1)


def test_settings_are_the_same_text_in_every_process() -> None:
    """A pruned run is known again by them: no addresses, whatever the other pruner is."""
    inner = optuna.pruners.MedianPruner(n_warmup_steps=3)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        patient = optuna.pruners.PatientPruner(inner, patience=2)
    text = repr(CluePruner(also=patient))
    assert "also=PatientPruner(" in text
    assert "n_warmup_steps=3" in text
    assert "0x" not in text


def test_the_code_of_the_docs_runs_and_prunes(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/pruning.md: both loops of plain Optuna, as they stand there."""
    text = (Path(__file__).parent.parent / "docs/pruning.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert "diverged: held-out loss" in capsys.readouterr().out
    assert any(t.state == optuna.trial.TrialState.PRUNED for t in names["study"].trials)


def test_a_short_run_that_starts_above_chance_is_not_lost() -> None:
    """A regression with raw targets falls from five times chance: nothing stops it."""
    chance = 1.0
    losses = [5.0, 5.1, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3]

    def pruned(known: float) -> int:
        pruner = CluePruner(start_loss=known, total_steps=len(losses))
        trial = optuna.create_study(pruner=pruner).ask()
        for step, loss in enumerate(losses, 1):
            trial.report(loss, step)
            if trial.should_prune():
                return step
        return 0

    assert pruned(chance) == 2
    assert pruned(Facts(100, 20, chance, 1, untrained_loss=5.0).start_loss) == 0
