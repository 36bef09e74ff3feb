"""Properties of the pure rooms, on whatever hypothesis makes up."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import curve
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import clues
from orchestrator.pruners.clue import CluePruner
from orchestrator.schedules import CYCLED, VARIANTS, Schedule
from orchestrator.stages.noise import differences
from orchestrator.stages.suggest import RULES, smooth

CHANCE = math.log(10)

rates = st.floats(1e-8, 1e3)
momenta = st.floats(0, 0.999)
fractions = st.floats(0, 1)
losses = st.floats(1e-6, 1e3)
any_loss = st.one_of(losses, st.sampled_from([math.nan, math.inf, 0.0]))
curves = st.lists(st.tuples(any_loss, any_loss), min_size=0, max_size=40)


# --- schedules


@given(st.sampled_from(sorted(VARIANTS)), fractions, rates, rates, momenta, momenta)
def test_a_schedule_stays_within_its_bounds(
    name: str, progress: float, a: float, b: float, m: float, n: float
) -> None:
    """lr never above its maximum nor below 0, momentum between its bounds, no NaN anywhere."""
    low, high = sorted((a, b))
    least, most = sorted((m, n))
    lr, momentum = Schedule(name, low, high, least, most).at(progress)
    assert 0 <= lr <= high * (1 + 1e-9)
    assert least - 1e-9 <= momentum <= most + 1e-9


@given(st.sampled_from(sorted(CYCLED)), rates, momenta, momenta)
def test_momentum_is_low_where_lr_is_high(name: str, high: float, m: float, n: float) -> None:
    """In a cycled schedule the highest lr meets the lowest momentum."""
    least, most = sorted((m, n))
    schedule = Schedule(name, high / 10, high, least, most)
    points = [schedule.at(i / 900) for i in range(901)]
    peak = max(points, key=lambda p: p.lr)
    assert peak.momentum == pytest.approx(min(p.momentum for p in points), abs=0.02)


@given(st.sampled_from(sorted(VARIANTS)), fractions, rates, st.floats(1e-3, 1e3))
def test_the_unit_of_the_learning_rate_does_not_matter(
    name: str, progress: float, high: float, unit: float
) -> None:
    """Rates in another unit give the same schedule in that unit."""
    one = Schedule(name, high / 10, high, 0.8, 0.9).at(progress)
    other = Schedule(name, unit * high / 10, unit * high, 0.8, 0.9).at(progress)
    assert other.lr == pytest.approx(unit * one.lr, rel=1e-6)
    assert other.momentum == one.momentum


@given(st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e-12, 1.0000001, 2.0]))
def test_progress_outside_the_run_is_refused(progress: float) -> None:
    """NaN too."""
    with pytest.raises(ValueError, match="progress"):
        Schedule("paper", 0.1, 1, 0.8, 0.9).at(progress)


# --- clues


@given(curves)
def test_every_curve_has_a_clue_within_its_steps(values: list[tuple[float, float]]) -> None:
    """Whatever was measured, NaN and inf included: one known label, steps inside, no NaN said."""
    shape = curve([v for v, _ in values], [t for _, t in values])
    for clue in (*clues.segments(shape, CHANCE), clues.read(shape, CHANCE)):
        assert clue.label in clues.GRAVITY
        last = int(shape.step[-1]) if len(shape) else 0
        assert 0 <= clue.first_step <= clue.last_step <= last
        assert clue.reason
        assert not re.search(r"\bnan\b", clue.reason, re.IGNORECASE)


@given(curves, st.integers(2, 50))
def test_the_length_of_a_step_does_not_matter(
    values: list[tuple[float, float]], times: int
) -> None:
    """The same losses at the same progress, more steps apart, have the same label."""
    shape = curve([v for v, _ in values], [t for _, t in values])
    longer = replace(shape, step=shape.step * times)
    assert clues.read(longer, CHANCE).label == clues.read(shape, CHANCE).label


# --- suggestion rules


@given(
    st.sampled_from(sorted(RULES)),
    st.lists(losses, min_size=2, max_size=40),
    st.floats(1e-6, 1e-2),
    st.floats(1.01, 3),
)
def test_a_rule_suggests_a_rate_of_the_ramp_or_nothing(
    name: str, loss: list[float], start: float, step: float
) -> None:
    """None, or a finite rate between a tenth of the first and the last one tried."""
    lr = start * step ** np.arange(len(loss), dtype=float)
    found = RULES[name](lr, np.array(loss), CHANCE)
    assert found is None or lr[0] / 10 * (1 - 1e-9) <= found <= lr[-1] * (1 + 1e-9)


@given(st.lists(losses, min_size=1, max_size=40), st.integers(1, 9))
def test_smoothing_stays_between_the_losses(loss: list[float], half: int) -> None:
    """A mean is not beyond what it is the mean of, and the length stays."""
    smoothed = smooth(np.array(loss), half)
    assert len(smoothed) == len(loss)
    assert min(loss) * (1 - 1e-9) <= smoothed.min()
    assert smoothed.max() <= max(loss) * (1 + 1e-9)


# --- noise

tables = st.dictionaries(
    st.sampled_from([0.8, 0.85, 0.9, 0.95, 0.99]),
    st.dictionaries(st.integers(0, 5), st.one_of(losses, st.just(math.inf)), max_size=6),
    max_size=5,
)


@given(tables)
def test_a_difference_is_never_nan_and_never_both(table: Any) -> None:
    """No NaN; what is better is not worse; no winner on two seeds."""
    for value, found in differences(table, 0.9).items():
        assert value != 0.9
        assert not math.isnan(found.mean)
        assert found.bound >= 0
        assert not (found.better_by(0) and found.worse_by(0))
        assert found.n >= 3 or not found.better_by(0)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_candidates_and_seeds_does_not_matter(table: Any, random: Any) -> None:
    """The same losses, told in another order, are the same differences."""
    rows = [(v, random.sample(sorted(by.items()), len(by))) for v, by in table.items()]
    random.shuffle(rows)
    found, again = differences(table, 0.9), differences({v: dict(r) for v, r in rows}, 0.9)
    assert found.keys() == again.keys()
    for value, one in found.items():
        assert again[value].mean == pytest.approx(one.mean, rel=1e-9, abs=1e-12)
        assert again[value].bound == pytest.approx(one.bound, rel=1e-6, abs=1e-9)


@given(tables, st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(table: Any, unit: float) -> None:
    """Losses are compared as shares."""
    scaled = {v: {r: loss * unit for r, loss in by.items()} for v, by in table.items()}
    found, again = differences(table, 0.9), differences(scaled, 0.9)
    assert found.keys() == again.keys()
    for value, one in found.items():
        assert again[value].mean == pytest.approx(one.mean, rel=1e-6, abs=1e-9)


# --- the pruner


@given(curves)
def test_the_pruner_says_why_or_lets_go_on(values: list[tuple[float, float]]) -> None:
    """Yes comes with a reason, no without; a curve that falls far below chance is never lost."""
    import optuna

    study = optuna.create_study(pruner=CluePruner(start_loss=CHANCE, total_steps=1000))
    trial = study.ask()
    pruner = study.pruner
    assert isinstance(pruner, CluePruner)
    for step, (loss, _) in enumerate(values, 1):
        trial.report(loss, step)
        assert trial.should_prune() == bool(pruner.reason(trial.number))
    if values and all(loss < CHANCE / 2 for loss, _ in values):
        assert not pruner.reason(trial.number)
