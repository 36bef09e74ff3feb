import math
from dataclasses import replace

import numpy as np
import pytest
from curves import curve
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator import clues
from orchestrator.curve import Curve, Point

CHANCE = math.log(10)
FALL = list(np.geomspace(2.3, 0.3, 20))
LEVEL = [*np.geomspace(2.3, 0.3, 12), *([0.3] * 8)]
LOW_LR = [*np.linspace(0.01, 0.1, 5), *np.linspace(0.1, 1e-3, 15)]


@pytest.mark.parametrize(
    ("label", "held_out", "train", "lr"),
    [
        ("diverged", [2.3, 1.5, math.nan], None, None),
        ("diverged", [2.3, 1.5, math.inf], None, None),
        ("diverged", [2.3, 1.5, 1.0], [2.3, 1.5, math.nan], None),
        ("diverged", [2.3, 2.9, 3.5, 4.2], None, None),
        ("stuck", [2.3, 2.31, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3], None, None),
        ("unstable", [2.3, 1.5, 1.0, 0.8, 1.4, 0.9, 0.7, 0.7, 0.7, 0.7], None, None),
        (
            "overfitting",
            [*np.geomspace(2.3, 0.5, 12), *np.linspace(0.52, 0.8, 8)],
            list(np.geomspace(2.3, 0.01, 20)),
            LOW_LR,
        ),
        ("underfitting", FALL, None, None),
        ("horizontal", LEVEL, None, None),
        ("short", [2.3, 2.0], None, None),
        ("short", [], None, None),
    ],
)
def test_each_shape_has_its_name(
    label: str, held_out: list[float], train: list[float] | None, lr: list[float] | None
) -> None:
    """One made-up curve per clue."""
    assert clues.read(curve(held_out, train, lr), CHANCE).label == label


def test_a_rise_while_the_lr_is_high_is_not_overfitting() -> None:
    """The same rise that is overfitting at a low lr is the rate's doing at its peak."""
    held_out = [*np.geomspace(2.3, 0.5, 12), *np.linspace(0.52, 0.8, 8)]
    train = list(np.geomspace(2.3, 0.01, 20))
    rising = list(np.linspace(0.01, 0.1, 20))
    assert clues.overfitting(curve(held_out, train, rising)) is None
    assert clues.overfitting(curve(held_out, train, LOW_LR)) is not None


def test_a_clue_says_where_and_why_with_numbers() -> None:
    """The sentence names the steps and the losses."""
    clue = clues.diverged(curve([2.3, 1.0, 3.5, 4.2]), CHANCE)
    assert clue is not None
    assert (clue.first_step, clue.last_step) == (20, 30)
    assert clue.reason == (
        "held-out loss 3.5 is above 1.3 x the untrained loss (2.3) and rising (steps 20-30)"
    )


def test_chance_before_a_quarter_of_the_run_is_not_stuck() -> None:
    """A slow start under a low lr is forgiven."""
    assert clues.stuck(curve([2.3, 2.3, 2.3, *np.geomspace(2, 0.5, 17)]), CHANCE) is None


def test_unstable_at_the_peak_and_horizontal_in_the_end() -> None:
    """A curve may carry several clues: all of them in order, the gravest is what is read."""
    lr = [*np.linspace(0.01, 0.1, 10), *np.linspace(0.1, 0.001, 10)]
    shape = curve([*np.geomspace(2.3, 0.8, 8), 1.4, 0.9, 0.7, 0.5, 0.4, *[0.35] * 7], lr=lr)
    first, second = clues.segments(shape, CHANCE)
    assert first == clues.Clue(
        "unstable",
        80,
        90,
        "held-out loss jumped from 0.8 to 1.4 in one point, train loss too (steps 80-90)",
    )
    assert second == clues.Clue(
        "horizontal", 170, 200, "held-out loss stays near 0.35 at the end (steps 170-200)"
    )
    assert clues.read(shape, CHANCE) == first


def test_a_run_that_jumps_and_then_overfits_is_read_as_overfitting() -> None:
    """How it ends weighs more than what happened on the way."""
    held_out = [
        *np.geomspace(2.3, 0.8, 4),
        1.4,
        *np.geomspace(1, 0.5, 7),
        *np.linspace(0.52, 0.8, 8),
    ]
    train = [*np.geomspace(2.3, 0.8, 4), 1.4, *np.geomspace(0.8, 0.01, 15)]
    shape = curve(held_out, train, LOW_LR)
    assert [c.label for c in clues.segments(shape, CHANCE)] == ["unstable", "overfitting"]
    assert clues.read(shape, CHANCE).label == "overfitting"


def test_an_end_without_a_number_has_no_level() -> None:
    """A train loss that broke early, a held-out loss in the end: diverged, and nothing else."""
    shape = curve([2.3, 1.0, 1.0, 1.0, 1.0, math.nan], [math.nan, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert [clue.label for clue in clues.segments(shape, CHANCE)] == ["diverged"]


def test_an_end_with_another_clue_in_it_is_not_horizontal() -> None:
    """A jump in the last fifth is told, and nothing is said of a level end."""
    shape = curve([*np.geomspace(2.3, 0.3, 12), *[0.3] * 6, 0.6, 0.6])
    assert [clue.label for clue in clues.segments(shape, CHANCE)] == ["unstable"]


def test_overfitting_says_from_where_to_where_with_both_losses() -> None:
    """From the lowest point of the held-out loss to the end."""
    held_out = [*np.geomspace(2.3, 0.5, 12), *np.linspace(0.52, 0.8, 8)]
    clue = clues.overfitting(curve(held_out, list(np.geomspace(2.3, 0.01, 20)), LOW_LR))
    assert clue is not None
    assert (clue.first_step, clue.last_step) == (120, 200)
    assert clue.reason == (
        "held-out loss rose from 0.52 to 0.8 while train loss fell from 0.0987 to 0.01"
        " (steps 120-200)"
    )


def test_one_lucky_point_is_no_minimum_to_rise_from() -> None:
    """A single low report among level ones is luck, and the end is no rise above it."""
    held_out = [*np.geomspace(2.3, 0.5, 12), 0.5, 0.42, *[0.5] * 6]
    train = list(np.geomspace(2.3, 0.01, 20))
    assert clues.overfitting(curve(held_out, train, LOW_LR)) is None


def test_a_rise_with_the_train_loss_is_not_overfitting() -> None:
    """Both rising is instability."""
    held_out = [*np.geomspace(2.3, 0.5, 12), *np.linspace(0.52, 0.8, 8)]
    train = [*np.geomspace(2.3, 0.1, 12), *np.linspace(0.11, 0.3, 8)]
    shape = curve(held_out, train, LOW_LR)
    assert clues.overfitting(shape) is None
    assert clues.read(shape, CHANCE).label == "unstable"


def test_overfitting_beyond_chance_is_neither_divergence_nor_stuck() -> None:
    """A net that learns its 500 images by heart is surer and surer of what is wrong elsewhere."""
    held_out = [*np.geomspace(2.3, 1.9, 5), *np.linspace(2.0, 5.0, 15)]
    shape = curve(held_out, list(np.geomspace(2.3, 0.001, 20)))
    assert [clue.label for clue in clues.segments(shape, CHANCE)] == ["overfitting"]
    lost = curve(held_out, held_out)
    assert clues.read(lost, CHANCE).label == "diverged"


def test_a_large_jump_needs_no_rise_of_the_train_loss() -> None:
    """Twice the loss in one point is sudden, though the mean train loss may hide it."""
    train = list(np.geomspace(2.3, 0.1, 20))
    for rise, label in ((1.2, "unstable"), (0.9, "horizontal")):
        held_out = [*np.geomspace(2.3, 0.5, 8), rise, *[0.5] * 11]
        assert clues.read(curve(held_out, train), CHANCE).label == label
    clue = clues.unstable(curve([2.3, 0.5, 1.2, 0.5, 0.5], [2.3, 0.5, 0.4, 0.3, 0.3]))
    assert clue is not None
    assert clue.reason == "held-out loss jumped from 0.5 to 1.2 in one point (steps 20-30)"


def plain(held_out: list[float], total: int | None) -> Curve:
    """Return what plain Optuna's reports make: no lr, no train loss, perhaps no progress."""
    nan = math.nan
    return Curve.of(
        Point(i + 1, (i + 1) / total if total else 0.0, nan, nan, nan, loss)
        for i, loss in enumerate(held_out)
    )


@pytest.mark.parametrize(
    ("label", "held_out"),
    [
        ("diverged", [2.3, 2.9, 3.5, 4.2]),
        ("diverged", [2.3, 1.0, math.nan]),
        ("unstable", [2.3, 1.5, 1.0, 0.8, 1.4, 0.9, 0.7, 0.7, 0.7, 0.7]),
        ("underfitting", FALL),
        ("horizontal", LEVEL),
        ("short", [2.3, 2.0]),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_held_out_losses_alone_are_read_too(label: str, held_out: list[float], known: bool) -> None:
    """lr, momentum and train loss NaN throughout are not known, and no sign of divergence."""
    shape = plain(held_out, len(held_out) if known else None)
    assert clues.read(shape, CHANCE).label == label


NUMBER = st.floats() | st.floats(0, 5) | st.sampled_from([0.0, math.nan, math.inf, 2.3, 1e308])
ROWS = st.lists(st.tuples(NUMBER, NUMBER, NUMBER, st.integers(1, 50)), max_size=25)


def any_curve(rows: list[tuple[float, float, float, int]]) -> Curve:
    steps = np.cumsum([row[3] for row in rows])
    total = max(1, int(steps[-1])) if rows else 1
    return Curve.of(
        Point(int(step), float(step) / total, lr, 0.9, train, loss)
        for step, (lr, train, loss, _) in zip(steps, rows, strict=True)
    )


@given(ROWS, st.floats(0.1, 10))
@example([(math.nan, math.nan, 0.0, 1)] * 9, 2.3)
@example([(0.0, 0.0, 0.0, 1)] * 9, 2.3)
@example([(1e308, 1e308, 1e308, 1)] * 9, 2.3)
def test_any_curve_is_read_without_an_error(
    rows: list[tuple[float, float, float, int]], chance: float
) -> None:
    """NaN, inf, zeros, one point, none: there is a clue, in order, within the curve, gravest read.

    Warnings of numpy count as errors in these tests.
    """
    shape = any_curve(rows)
    found = clues.segments(shape, chance)
    steps = [0] if not len(shape) else shape.step.tolist()
    for clue in found:
        assert steps[0] <= clue.first_step <= clue.last_step <= steps[-1]
        assert {clue.first_step, clue.last_step} <= set(steps)
        assert clue.reason
    assert [c.first_step for c in found] == sorted(c.first_step for c in found)
    assert len({c.label for c in found}) == len(found)
    gravest = min(clues.GRAVITY.index(clue.label) for clue in found)
    assert clues.read(shape, chance).label == clues.GRAVITY[gravest]


@given(ROWS, st.integers(2, 1000))
def test_a_run_of_more_steps_and_the_same_losses_has_the_same_clues(
    rows: list[tuple[float, float, float, int]], factor: int
) -> None:
    """Only the steps that are named change with the length of the run."""
    shape = any_curve(rows)
    stretched = replace(shape, step=shape.step * factor)
    for one, other in zip(
        clues.segments(shape, CHANCE), clues.segments(stretched, CHANCE), strict=True
    ):
        assert other.label == one.label
        assert other.reason.split(" (step")[0] == one.reason.split(" (step")[0]
        assert other.first_step == one.first_step * factor
        assert other.last_step == one.last_step * factor
