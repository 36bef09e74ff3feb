import math

import numpy as np
import pytest

from orchestrator.stages.noise import differences, t_quantile


@pytest.mark.parametrize(
    ("p", "df", "expected"),
    [(0.95, 1, 6.3138), (0.95, 2, 2.9200), (0.95, 3, 2.3534), (0.99, 4, 3.7469), (0.9, 12, 1.3562)],
)
def test_t_quantile_agrees_with_the_published_table(p: float, df: int, expected: float) -> None:
    """Values from any table of Student's t."""
    assert t_quantile(p, df) == pytest.approx(expected, abs=2e-4)


def test_a_clear_difference_is_better_and_a_small_one_is_not() -> None:
    """Half the loss beats 2 % noise, by almost half of it; 1 % less does not."""
    base = {0: 1.00, 1: 1.10, 2: 0.95}
    noise = [1.01, 0.98, 1.01]
    half = {r: 0.5 * x * n for (r, x), n in zip(base.items(), noise, strict=True)}
    same = {r: 0.99 * x / n for (r, x), n in zip(base.items(), noise, strict=True)}
    near = {r: x * n for (r, x), n in zip(base.items(), reversed(noise), strict=True)}
    diffs = differences({1.0: base, 2.0: half, 3.0: same, 4.0: near}, 1.0)
    assert diffs[2.0].mean == pytest.approx(math.log(0.5), abs=0.02)
    assert diffs[2.0].better_by(0.45)
    assert not diffs[2.0].better_by(0.5)
    for value in (3.0, 4.0):
        assert not diffs[value].better_by(0)
        assert not diffs[value].worse_by(0)


def test_pairing_removes_what_the_seeds_share() -> None:
    """Seeds that differ by a factor of two do not hide a steady 10 % gain."""
    seeds = {0: 1.0, 1: 2.0, 2: 0.5, 3: 1.5}
    wobble = [1.0, 1.005, 0.995, 1.0]
    other = {r: 0.9 * x * w for (r, x), w in zip(seeds.items(), wobble, strict=True)}
    assert differences({1.0: seeds, 2.0: other}, 1.0)[2.0].better_by(0.05)


def test_one_seed_measures_no_noise_and_beats_nobody() -> None:
    """Without a second seed everything is a tie."""
    diff = differences({1.0: {0: 1.0}, 2.0: {0: 0.5}}, 1.0)[2.0]
    assert diff.bound == math.inf
    assert not diff.better_by(0)


def test_a_lost_seed_makes_a_candidate_lost() -> None:
    """A candidate that diverged on one seed is not chosen for its luck on the other."""
    diff = differences({1.0: {0: 1.0, 1: 1.0}, 2.0: {0: 0.1, 1: math.inf}}, 1.0)[2.0]
    assert diff.mean == math.inf


def test_equal_candidates_are_called_better_in_at_most_one_of_twenty_tries() -> None:
    """Null hypothesis: four candidates of one distribution, three seeds; 400 tries, fixed seed."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        table = np.exp(0.1 * rng.standard_normal((4, 3)))
        losses = {float(v): dict(enumerate(row)) for v, row in enumerate(table)}
        wrong += any(d.better_by(0) for d in differences(losses, 0.0).values())
    assert wrong / 400 <= 0.05


def test_a_better_candidate_is_found_in_most_tries() -> None:
    """One of four is 20 % better, three seeds, spread 5 %: what the null tests above must cost."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        table = np.exp(0.05 * rng.standard_normal((4, 3)))
        table[2] *= 0.8
        losses = {float(v): dict(enumerate(row)) for v, row in enumerate(table)}
        found += [v for v, d in differences(losses, 0.0).items() if d.better_by(0)] == [2.0]
    assert found >= 90


def test_an_erratic_candidate_is_called_better_in_at_most_one_of_twenty_tries() -> None:
    """Null hypothesis: equal means, one candidate forty times as noisy as the others."""
    rng = np.random.default_rng(1)
    for erratic in (0, 1):
        spread = np.full((5, 1), 0.02)
        spread[erratic] = 0.8
        wrong = 0
        for _ in range(400):
            table = np.exp(spread * rng.standard_normal((5, 3)))
            losses = {float(v): dict(enumerate(row)) for v, row in enumerate(table)}
            wrong += any(d.better_by(0.03) for d in differences(losses, 0.0).values())
        assert wrong / 400 <= 0.05


def test_a_lost_seed_of_one_candidate_leaves_the_others_their_noise() -> None:
    """.99 lost on one seed: half the loss still wins."""
    losses = {
        1.0: {0: 1.0, 1: 1.1, 2: 0.9},
        2.0: {0: 0.5, 1: 0.55, 2: 0.46},
        3.0: {0: 1.0, 1: 1.08, 2: 0.91},
        4.0: {0: 1.0, 1: math.inf, 2: 1.0},
    }
    diffs = differences(losses, 1.0)
    assert diffs[2.0].better_by(0.1)
    assert diffs[4.0].mean == math.inf


def test_an_incumbent_that_lost_a_seed_is_lost() -> None:
    """It is held to what its candidates are held to."""
    assert differences({1.0: {0: 1.0, 1: math.inf}, 2.0: {0: 1.0, 1: 1.0}}, 1.0) == {}
