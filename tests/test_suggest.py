import numpy as np
import pytest

from orchestrator.stages import suggest

LR = np.geomspace(1e-3, 1, 31)
CHANCE = 2.3
# Falls from chance to 0.5 at lr 0.1, flat to 0.2, then up.
LOSS = np.interp(np.log10(LR), [-3, -2.5, -1, -0.7, 0], [2.3, 2.2, 0.5, 0.52, 5.0])


def test_default_rule_takes_the_last_lr_near_the_minimum() -> None:
    """Within 10 % of the level of the minimum, before the rise."""
    assert suggest.within_drop(LR, LOSS, CHANCE) == pytest.approx(0.2, rel=0.15)


def test_default_rule_does_not_jump_over_a_bump() -> None:
    """A second dip beyond a rise is not taken."""
    loss = LOSS.copy()
    loss[-1] = 0.5
    assert suggest.within_drop(LR, loss, CHANCE) == pytest.approx(0.2, rel=0.15)


def test_all_rules_lie_below_the_cliff_and_in_the_known_order() -> None:
    """minimum/10 and valley are far lower than the minimum: the reason they are not the default."""
    marks = {name: rule(LR, LOSS, CHANCE) for name, rule in suggest.RULES.items()}
    assert all(m is not None and m < 0.3 for m in marks.values())
    assert marks["minimum_tenth"] == pytest.approx(0.01, rel=0.1)
    assert marks["valley"] < marks["smoothed_minimum"] <= marks["within_drop"]  # type: ignore[operator]


def test_smoothing_does_not_shift_the_minimum() -> None:
    """A symmetric curve keeps its minimum and its ends."""
    loss = 1 + np.abs(np.linspace(-1, 1, 41))
    smooth = suggest.smooth(loss)
    assert int(np.argmin(smooth)) == 20
    assert smooth[0] == loss[0]
    np.testing.assert_allclose(smooth, smooth[::-1])


def test_smoothing_leaves_non_finite_points_alone() -> None:
    """A NaN stays where it is and spoils no neighbour."""
    loss = np.array([2.0, 1.0, np.nan, 1.0, 2.0])
    smooth = suggest.smooth(loss, 1)
    assert np.isnan(smooth[2])
    assert np.isfinite(np.delete(smooth, 2)).all()
