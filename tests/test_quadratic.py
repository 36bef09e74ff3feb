import math
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective, random_problem
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import execute


def a_run(lr: float = 0.1, **changes: object) -> Run:
    run = Run("train", Schedule("paper", lr / 10, lr, 0.85, 0.9), 1e-3, 64, 312, replicate=0)
    return replace(run, **changes)  # type: ignore[arg-type]


def test_expected_loss_is_the_mean_over_seeds() -> None:
    """The exact recursion agrees with 400 simulated runs within three standard errors."""
    objective = QuadraticObjective()
    run = a_run(steps=100)
    losses = [execute(objective, replace(run, replicate=r)).held_out_loss for r in range(400)]
    error = np.std(losses) / math.sqrt(len(losses))
    assert objective.expected_loss(run) == pytest.approx(np.mean(losses), abs=3 * error)


def test_too_large_a_rate_diverges_and_a_small_one_underfits() -> None:
    """There is a cliff above and a slope below the best lr."""
    objective = QuadraticObjective()
    losses = {lr: objective.expected_loss(a_run(lr)) for lr in (0.003, 0.1, 1.0)}
    assert losses[0.1] < 0.3 * losses[0.003]
    assert losses[1.0] > 1e6


def test_weight_decay_has_a_best_value_above_zero() -> None:
    """The held-out minimum lies short of the train minimum, so some decay helps and much hurts."""
    objective = QuadraticObjective()
    none, some, much = (objective.expected_loss(a_run(weight_decay=wd)) for wd in (0.0, 3e-3, 1e-1))
    assert some < 0.95 * none
    assert much > none


def test_training_too_long_overfits() -> None:
    """Held-out loss rises from its minimum while train loss falls."""
    curve = execute(QuadraticObjective(Quadratic(noise=0.0)), a_run(0.2, steps=3000)).curve
    best = int(np.argmin(curve.held_out_loss))
    assert curve.held_out_loss[-1] > 1.1 * curve.held_out_loss[best]
    assert curve.train_loss[-1] < 0.8 * curve.train_loss[best]


def test_replicates_are_paired_across_hyper_parameters() -> None:
    """The same replicate sees the same noise whatever the weight decay."""
    objective = QuadraticObjective()
    by_seed = [
        [
            execute(objective, a_run(replicate=r, weight_decay=wd)).held_out_loss
            for wd in (1e-3, 1.1e-3)
        ]
        for r in range(8)
    ]
    left, right = np.array(by_seed).T
    assert np.corrcoef(left, right)[0, 1] > 0.99


def test_same_run_gives_the_same_numbers() -> None:
    """Deterministic: bit for bit."""
    first, second = (execute(QuadraticObjective(seed=3), a_run()) for _ in range(2))
    assert str(first.curve.to_json()) == str(second.curve.to_json())  # NaN is not NaN


def test_equal_time_is_exact_on_the_fake_clock() -> None:
    """Seconds are steps times the cost of a step, for calibration and run alike."""
    objective = QuadraticObjective()
    calibrate = Run(
        "calibrate", Schedule("paper", 0.1, 0.1, 0, 0), 0, 16, 1, 0, batch_sizes=(16, 64)
    )
    seconds = execute(objective, calibrate).result.measured["seconds_per_step"]
    run = a_run()
    assert execute(objective, run).result.seconds == pytest.approx(run.steps * seconds["64"])


def test_random_problems_differ_and_can_be_trained() -> None:
    """Each of a few random problems starts at its chance loss and has an lr that works."""
    problems = {random_problem(seed) for seed in range(5)}
    assert len(problems) == 5
    for problem in problems:
        objective = QuadraticObjective(problem)
        still = execute(objective, a_run(1e-12)).held_out_loss
        assert still == pytest.approx(objective.facts.chance_loss, rel=0.02)
        best = min(objective.expected_loss(a_run(lr)) for lr in np.geomspace(1e-4, 1, 9))
        assert best < 0.7 * objective.facts.chance_loss
