import math

import numpy as np
import pytest
from curves import curve

from orchestrator import clues

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
    assert clue.reason == ("held-out loss 3.5 is above 1.3 x chance (2.3) and rising (steps 20-30)")


def test_chance_before_a_quarter_of_the_run_is_not_stuck() -> None:
    """A slow start under a low lr is forgiven."""
    assert clues.stuck(curve([2.3, 2.3, 2.3, *np.geomspace(2, 0.5, 17)]), CHANCE) is None
