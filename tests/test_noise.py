import math

import numpy as np
import pytest
from scipy.stats import t as student

from orchestrator.stages.noise import Difference, differences, t_quantile


@pytest.mark.parametrize(
    ("p", "df", "expected"),
    [(0.95, 1, 6.3138), (0.95, 2, 2.9200), (0.95, 3, 2.3534), (0.99, 4, 3.7469), (0.9, 12, 1.3562)],
)
def test_t_quantile_agrees_with_the_published_table(p: float, df: int, expected: float) -> None:
    """Values from any table of Student's t."""
    assert t_quantile(p, df) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("p", [0.55, 0.7, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9999])
def test_t_quantile_agrees_with_scipy(p: float) -> None:
    """For all degrees of freedom, to a hundred-thousandth."""
    for df in (*range(1, 31), 50, 100, 1000):
        assert t_quantile(p, df) == pytest.approx(student.ppf(p, df), rel=1e-5), df


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


@pytest.mark.parametrize(
    ("mean", "seeds", "margin", "better", "worse"),
    [
        (math.log(0.8), 3, 0.1, True, False),
        (math.log(0.8), 2, 0.1, False, False),  # two seeds never make a winner
        (math.log(0.8), 3, 0.16, False, False),  # .8 x 1.05 is no less than .84
        (math.log(1.25), 3, 0.1, False, True),
        (math.log(1.25), 2, 0.1, False, True),
        (math.log(1.25), 3, 0.17, False, False),  # 1.25 / 1.05 is no more than 1 / .83
        (0.0, 3, 0.0, False, False),
    ],
)
def test_a_difference_counts_beyond_noise_and_margin(
    mean: float, seeds: int, margin: float, better: bool, worse: bool
) -> None:
    """The noise is 5 %; the margin is a share of the larger loss on either side."""
    difference = Difference(mean, math.log(1.05), seeds)
    assert (difference.better_by(margin), difference.worse_by(margin)) == (better, worse)


NOISY = {1.0: {0: 1.0, 1: 1.0, 2: 1.0}, 2.0: {0: 1.02, 1: 1.0, 2: 0.99}}


@pytest.mark.parametrize(
    ("options", "quantile", "table"),
    [
        ({}, 0.95, 2.9200),
        ({"level": 0.01}, 0.99, 6.9646),
        ({"comparisons": 5}, 0.99, 6.9646),  # .05 / 5
        ({"comparisons": 1}, 0.95, 2.9200),
    ],
)
def test_the_bound_is_students_for_the_pooled_noise(
    options: dict[str, float], quantile: float, table: float
) -> None:
    """Two candidates, three seeds: the spread of their difference, two degrees of freedom."""
    ratios = [math.log(NOISY[2.0][r]) for r in range(3)]
    expected = table * np.std(ratios, ddof=1) / math.sqrt(3)
    found = differences(NOISY, 1.0, **options)[2.0]  # type: ignore[arg-type]
    assert (found.mean, found.n) == (pytest.approx(np.mean(ratios)), 3)
    assert found.bound == pytest.approx(expected, rel=1e-4)


def test_another_horizon_helps_to_measure_the_noise() -> None:
    """Its degrees of freedom and its squares are added; its losses are not compared."""
    steady = {v: dict.fromkeys(by, 1.0) for v, by in NOISY.items()}
    alone, helped = (differences(NOISY, 1.0, also=also)[2.0] for also in ([], [steady]))
    assert helped.mean == alone.mean
    shares = t_quantile(0.95, 4) / t_quantile(0.95, 2) / math.sqrt(2)
    assert helped.bound == pytest.approx(shares * alone.bound)


def test_only_seeds_that_both_have_are_compared() -> None:
    """Those of one alone still measure noise; a candidate that shares none has no difference."""
    extra = {1.0: {**NOISY[1.0], 5: 9.0}, 2.0: {**NOISY[2.0], 7: 0.1}, 3.0: {8: 1.0, 9: 1.0}}
    found = differences(extra, 1.0)
    assert found[2.0].mean == pytest.approx(differences(NOISY, 1.0)[2.0].mean)
    assert found[2.0].n == 3
    assert found[3.0] == Difference(math.inf, 0.0, 0)


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
    for lost in (math.inf, 0.0):  # a loss of 0 has no logarithm
        diff = differences({1.0: {0: 1.0, 1: 1.0}, 2.0: {0: 0.1, 1: lost}}, 1.0)[2.0]
        assert diff == Difference(math.inf, 0.0, 2)


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
    """It is held to what its candidates are held to; so is one that has no seed at all."""
    assert differences({1.0: {0: 1.0, 1: math.inf}, 2.0: {0: 1.0, 1: 1.0}}, 1.0) == {}
    assert differences({1.0: {}, 2.0: {0: 1.0, 1: 1.0}}, 1.0) == {}


def test_what_the_seeds_share_plays_no_part() -> None:
    """Neither in a difference, nor in the noise, nor in who is called erratic."""
    rng = np.random.default_rng(0)
    table = {float(v): dict(enumerate(np.exp(0.02 * rng.standard_normal(4)))) for v in range(5)}
    table[4.0] = {0: 0.5, 1: 0.9, 2: 0.4, 3: 1.0}
    shift = {0: 1.0, 1: 30.0, 2: 0.1, 3: 7.0}
    moved = {v: {r: x * shift[r] for r, x in by.items()} for v, by in table.items()}
    found, again = differences(table, 0.0), differences(moved, 0.0)
    for value, one in found.items():
        assert again[value].mean == pytest.approx(one.mean)
        assert again[value].bound == pytest.approx(one.bound)
    assert found[4.0].bound > 10 * found[1.0].bound


@pytest.mark.parametrize(("times", "erratic"), [(2.7, False), (3.3, True)])
def test_erratic_is_what_is_more_than_three_times_as_noisy(times: float, erratic: bool) -> None:
    """As the median of the others, at three seeds: then nothing is known of its noise."""
    shape = np.array([0.05, -0.05, 0.0])
    logs = {1.0: shape, 2.0: -shape, 3.0: shape, 4.0: -shape, 5.0: 0 * shape, 6.0: 0 * shape}
    logs[7.0] = times * np.roll(shape, 1)
    table = {v: dict(enumerate(np.exp(x))) for v, x in logs.items()}
    found = differences(table, 1.0)
    assert math.isinf(found[7.0].bound) is erratic
    assert math.isfinite(found[2.0].bound)


def test_an_erratic_candidate_is_judged_by_its_own_differences_from_four_seeds_on() -> None:
    """Far noisier than the others: unknown with three seeds, Student's t with four."""
    steady = {
        v: {r: 1 + 0.001 * (-1) ** (r + i) for r in range(4)} for i, v in enumerate((1.0, 3.0, 4.0))
    }
    erratic = {0: 0.5, 1: 0.05, 2: 0.4, 3: 0.08}
    for seeds in (3, 4):
        table = {v: {r: by[r] for r in range(seeds)} for v, by in {**steady, 2.0: erratic}.items()}
        found = differences(table, 1.0)
        assert found[3.0].bound < 0.01
        if seeds == 3:
            assert found[2.0].bound == math.inf
        else:
            own = [math.log(erratic[r] / steady[1.0][r]) for r in range(4)]
            expected = t_quantile(1 - 0.05 / 3, 3) * np.std(own, ddof=1) / 2
            assert found[2.0].bound == pytest.approx(expected)
