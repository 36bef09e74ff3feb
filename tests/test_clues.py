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
    """A slow start under a low lr is forgiven; at 25, 30 and 35 % it is not."""
    whole = curve([2.3] * 20).points()
    assert clues.stuck(Curve.of(whole[:6]), CHANCE) is None
    assert clues.stuck(Curve.of(whole[:7]), CHANCE) is not None


def test_what_has_left_the_untrained_loss_is_not_stuck() -> None:
    """Slow to begin, and trained in the end: so a run of a transformer may look."""
    slow = curve([*[2.3] * 12, *np.geomspace(2, 0.5, 8)])
    assert clues.stuck(slow, CHANCE) is None
    assert clues.read(slow, CHANCE).label == "underfitting"


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


# --- the rules at their limits: one curve within, one beyond


def reason(clue: clues.Clue | None) -> str:
    return clue.reason if clue else ""


@pytest.mark.parametrize(
    ("held_out", "train", "said"),
    [
        ([2.3, 1.5, 1.0], [2.3, math.nan, 1.0], "train loss is not finite (step 20)"),
        ([2.3, math.nan, 1.0], [2.3, math.nan, 1.0], "held-out loss is not finite (step 20)"),
        ([2.3, 2.5, 2.99], None, ""),  # 1.3 x ln 10 is 2.993
        ([2.3, 2.5, 3.0], None, "held-out loss 3 is above 1.3 x the untrained loss (2.3) and rising"
         " (steps 20-30)"),
        ([3.2, 3.2, 3.1], None, ""),
        ([3.2, 3.1, 3.15], None, "held-out loss 3.15 is above 1.3 x the untrained loss (2.3) and"
         " rising (steps 20-30)"),
        ([2.3, 2.5, 3.0], [2.3, 1.5, 1.1], ""),  # it learns: below half of 2.3
        ([2.3, 2.5, 3.0], [2.3, 1.5, 1.2], "held-out loss 3 is above 1.3 x the untrained loss (2.3)"
         " and rising (steps 20-30)"),
    ],
)  # fmt: skip
def test_what_has_diverged(held_out: list[float], train: list[float] | None, said: str) -> None:
    """Not finite, or above 1.3 x the untrained loss and rising, unless the train loss learns."""
    assert reason(clues.diverged(curve(held_out, train), CHANCE)) == said


@pytest.mark.parametrize(
    ("first", "count", "loss", "train", "said"),
    [
        (5, 3, 2.26, 2.26, ""),  # it has left it since
        (16, 5, 2.26, 2.26, "5 points in a row at the untrained loss (held-out loss 2.26 of 2.3)"
         " (steps 160-200)"),
        (19, 2, 2.26, 2.26, ""),
        (18, 3, 2.25, 2.25, ""),  # .98 x ln 10 is 2.257
        (18, 3, 2.26, 2.26, "3 points in a row at the untrained loss (held-out loss 2.26 of 2.3)"
         " (steps 180-200)"),
        (18, 3, 2.26, 1.1, ""),  # it learns
    ],
)  # fmt: skip
def test_what_is_stuck(first: int, count: int, loss: float, train: float, said: str) -> None:
    """The last three of twenty points, or more, at 98 % of the untrained loss."""
    held_out, of_train = [1.0] * 20, [1.0] * 20
    held_out[first - 1 : first - 1 + count] = [loss] * count
    of_train[first - 1 : first - 1 + count] = [train] * count
    assert reason(clues.stuck(curve(held_out, of_train), CHANCE)) == said


@pytest.mark.parametrize(
    ("held_out", "train", "said"),
    [
        ([1.0, 1.29, 1.0], [1.0, 1.01, 1.0], ""),
        ([1.0, 1.31, 1.0], [1.0, 1.01, 1.0], "held-out loss jumped from 1 to 1.31 in one point,"
         " train loss too (steps 10-20)"),
        ([1.0, 1.31, 1.0], [1.0, 1.0, 0.9], ""),
        ([1.0, 1.99, 1.0], [1.0, 0.9, 0.8], ""),
        ([1.0, 2.0, 1.0], [1.0, 0.9, 0.8], "held-out loss jumped from 1 to 2 in one point"
         " (steps 10-20)"),
        ([1.0, 1.4, 1.0, 1.5], None, "held-out loss jumped from 1 to 1.5 in one point, train loss"
         " too (steps 30-40)"),
        ([1.0, 2.0], None, "held-out loss jumped from 1 to 2 in one point, train loss too"
         " (steps 10-20)"),
        ([2.0], None, ""),
        ([1.0, 1.03, 1.07, 1.11], None, "held-out loss rose from 1 to 1.11 and train loss with it"
         " (steps 10-40)"),
        ([1.0, 1.03, 1.07, 1.09], [1.0, 1.03, 1.07, 1.2], ""),
        ([1.0, 1.03, 1.07, 1.2], [1.0, 1.03, 1.07, 1.09], ""),
        ([1.0, 1.1, 1.05, 1.2], [1.0, 1.03, 1.07, 1.2], ""),
        ([1.0, 1.03, 1.07, 1.2], [1.0, 1.1, 1.05, 1.2], ""),
        ([1.0, 1.06, 1.12, 1.12], None, ""),
        ([1.0, 1.04, 1.11], None, ""),
        ([9.0, 1.0, 1.03, 1.07, 1.11], None, "held-out loss rose from 1 to 1.11 and train loss"
         " with it (steps 20-50)"),
    ],
)  # fmt: skip
def test_what_is_unstable(held_out: list[float], train: list[float] | None, said: str) -> None:
    """By 1.3 x in one point with the train loss, by 2 x without it, by 10 % in three for both."""
    assert reason(clues.unstable(curve(held_out, train))) == said


@pytest.mark.parametrize(
    ("ends", "train", "said"),
    [
        ([1.11, 1.12, 1.13], 0.89, "held-out loss rose from 1 to 1.13 while train loss fell from 1"
         " to 0.89 (steps 20-70)"),
        ([1.11, 1.12, 1.13], 0.91, ""),
        ([1.09, 1.12, 1.13], 0.89, ""),  # two of the last three do not suffice
        ([1.09, 1.09, 1.09], 0.89, ""),
        ([1.11, 1.12, math.nan], 0.89, ""),
        ([1.11, 1.12, 1.13], math.inf, ""),
    ],
)  # fmt: skip
def test_what_overfits(ends: list[float], train: float, said: str) -> None:
    """Three points at the end 10 % above the minimum, the train loss 10 % below what it was."""
    shape = curve([1.2, 1.0, 1.0, 1.0, *ends], [1.2, 1.0, 1.0, 1.0, 1.0, 0.95, train])
    assert reason(clues.overfitting(shape)) == said


def test_four_points_are_enough_to_overfit_and_three_are_not() -> None:
    """The lowest one and the three behind it."""
    held_out, train = [1.0, 1.2, 1.3, 1.4], [1.0, 0.8, 0.6, 0.4]
    assert clues.overfitting(curve(held_out, train)) is not None
    assert clues.overfitting(curve(held_out[:3], train[:3])) is None


def falling(rate: float, points: int = 20, until: float = 1.0) -> Curve:
    """Return a loss that falls by e^-rate over a whole run, of which a share is there."""
    shape = curve([math.exp(-rate * until * (i + 1) / points) for i in range(points)])
    return replace(shape, progress=shape.progress * until)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (falling(0.52), "held-out loss 0.595 still falls by 5 % per tenth of the run"
         " (steps 170-200)"),  # .0507
        (falling(0.5), ""),  # .0488
        (falling(1.2, until=0.5), "held-out loss 0.549 still falls by 11 % per tenth of the run"
         " (steps 170-200)"),
        (replace(falling(0.52), progress=np.zeros(20)), "held-out loss 0.595 still falls by 5 % per"
         " tenth of the run (steps 170-200)"),
        (falling(9.0, points=5), "held-out loss 0.000123 still falls by 59 % per tenth of the run"
         " (steps 20-50)"),
        (falling(9.0, points=4), ""),
        (curve([*[1.0] * 16, 1.0, 1.0, 1.0, 0.5]), "held-out loss 0.5 still falls by 34 % per tenth"
         " of the run (steps 170-200)"),
        (curve([*np.geomspace(1.0, 0.1, 16), *[0.1] * 4]), ""),
    ],
)  # fmt: skip
def test_what_underfits(shape: Curve, said: str) -> None:
    """By 5 % and more per tenth of the whole run, over its last fifth, four points at least."""
    assert reason(clues.underfitting(shape)) == said


@pytest.mark.parametrize(
    ("points", "clue"),
    [
        (1, clues.Clue("short", 10, 10, "only 1 point (step 10)")),
        (4, clues.Clue("short", 10, 40, "only 4 points (steps 10-40)")),
        (
            5,
            clues.Clue("horizontal", 20, 50, "held-out loss stays near 1 at the end (steps 20-50)"),
        ),
    ],
)
def test_an_end_that_shows_nothing_else(points: int, clue: clues.Clue) -> None:
    """Below five points it is too short to tell."""
    assert clues.segments(curve([1.0] * points), CHANCE) == (clue,)


@pytest.mark.parametrize(("jump", "level"), [(15, True), (16, False)])
def test_a_clue_that_reaches_the_last_fifth_takes_its_level(jump: int, level: bool) -> None:
    """Of twenty points the last four, from step 170 on."""
    held_out = [0.5] * 20
    held_out[jump:] = [0.8] * (20 - jump)
    labels = [clue.label for clue in clues.segments(curve(held_out), CHANCE)]
    assert labels == ["unstable", *(["horizontal"] if level else [])]


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
