import pytest
import torch

from orchestrator.schedules import VARIANTS, Rates, Schedule

BOUNDS = {"min_lr": 0.1, "max_lr": 1.0, "min_momentum": 0.85, "max_momentum": 0.95}


@pytest.mark.parametrize(
    ("progress", "lr", "momentum"),
    [
        (0.0, 0.1, 0.95),
        (0.225, 0.55, 0.90),
        (0.45, 1.0, 0.85),
        (0.675, 0.55, 0.90),
        (0.9, 0.1, 0.95),
        (0.95, 0.05005, 0.95),
        (1.0, 1e-4, 0.95),
    ],
)
def test_paper_cycle_has_two_equal_legs_and_a_tail(
    progress: float, lr: float, momentum: float
) -> None:
    """lr rises and falls linearly over 90 % of the run, momentum mirrors it; then the tail."""
    assert Schedule("paper", **BOUNDS).at(progress) == pytest.approx(Rates(lr, momentum))


@pytest.mark.parametrize(
    ("iteration", "lr", "momentum"),
    [
        (1600, 0.0148228, 0.843143),
        (1800, 0.0164256, 0.829786),
        (2000, 0.0180285, 0.816429),
        (2200, 0.0196313, 0.803072),
        (2400, 0.0186287, 0.810285),
        (2600, 0.0168477, 0.823642),
        (3000, 0.0132858, 0.850356),
        (3400, 0.00972395, 0.87707),
        (3800, 0.00616207, 0.903785),
        (4000, 0.00438112, 0.917142),
        (4200, 0.00260018, 0.930499),
        (4400, 0.000819235, 0.943856),
        (4600, 2e-06, 0.946394),
        (4800, 2e-06, 0.939715),
    ],
)
def test_author_variant_equals_the_authors_own_log(
    iteration: int, lr: float, momentum: float
) -> None:
    """The lr and momentum that Caffe printed for CIFAR-100, legs of 2246 of its 4882 iterations."""
    schedule = Schedule("author", min_lr=0.002, max_lr=0.02, min_momentum=0.8, max_momentum=0.95)
    rates = schedule.at(0.45 * iteration / 2246)  # our legs fill 90 % of the run, its 92 %
    assert rates == pytest.approx(Rates(lr, momentum), rel=5e-6)


def test_author_variant_has_reached_its_floor_before_the_end() -> None:
    """The last tenth of the run, and a little more, is trained at a thousandth of min_lr."""
    assert Schedule("author", **BOUNDS).at(0.9).lr == pytest.approx(1e-4)
    assert Schedule("author", **BOUNDS).at(1.0).lr == pytest.approx(1e-4)


def test_torch_variant_equals_torchs_own_scheduler() -> None:
    """Point by point the same lr and momentum as OneCycleLR with its defaults."""
    steps = 101
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1, momentum=0.9)
    # OneCycleLR puts the peak at pct_start * steps - 1 of its steps - 1 intervals.
    peak = (0.3 * (steps - 1) + 1) / steps
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, pct_start=peak
    )
    ours = Schedule("torch", **BOUNDS)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert ours.at(step / (steps - 1)) == pytest.approx(Rates(group["lr"], group["momentum"]))
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize(
    ("progress", "lr", "momentum"),
    [
        (0.0, 0.04, 0.95),
        (0.1, 0.371672, 0.91545),
        (0.25, 1.0, 0.85),
        (0.5, 0.7500025, 0.875),
        (0.75, 0.2500075, 0.925),
        (1.0, 1e-5, 0.95),
    ],
)
def test_fastai_variant_follows_its_formula(progress: float, lr: float, momentum: float) -> None:
    """`fit_one_cycle`: cosines from max/25 to the peak at a quarter and on to max/1e5.

    fastai's own test of `combined_cos(.25, .5, 1, 0)` gives .67275 at .1 and .75 at .5: .3455 of
    the way up, then three quarters left.
    """
    assert Schedule("fastai", **BOUNDS).at(progress) == pytest.approx(Rates(lr, momentum), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "progress", "lr", "momentum"),
    [
        ("linear", 0.0, 1e-3, 0.95),
        ("linear", 0.025, 0.5, 0.95),
        ("linear", 0.05, 1.0, 0.95),
        ("linear", 0.525, 0.5, 0.95),
        ("linear", 1.0, 1e-3, 0.95),
        ("constant", 0.0, 1.0, 0.95),
        ("constant", 1.0, 1.0, 0.95),
        ("range_test", 0.0, 0.1, 0.95),
        ("range_test", 0.5, 0.55, 0.9),
        ("range_test", 1.0, 1.0, 0.85),
        ("exponential_ramp", 0.5, 0.316228, 0.9),
        ("exponential_ramp", 1.0, 1.0, 0.85),
    ],
)
def test_the_other_variants_point_by_point(
    name: str, progress: float, lr: float, momentum: float
) -> None:
    """Values worked out by hand from their definitions."""
    assert Schedule(name, **BOUNDS).at(progress) == pytest.approx(Rates(lr, momentum), rel=1e-5)


def test_the_papers_range_test_figure() -> None:
    """Smith 2018, figure 12: lr .001 -> .01 while momentum falls .98 -> .8."""
    ramp = Schedule("range_test", 0.001, 0.01, 0.8, 0.98)
    assert [tuple(ramp.at(p)) for p in (0, 0.5, 1)] == [
        pytest.approx(expected) for expected in ((0.001, 0.98), (0.0055, 0.89), (0.01, 0.8))
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_stays_positive_and_within_its_maximum(name: str) -> None:
    """No schedule ever gives a rate of zero or less, or more than max_lr."""
    schedule = Schedule(name, **BOUNDS)
    for i in range(1001):
        lr, momentum = schedule.at(i / 1000)
        assert 0 < lr <= 1 + 1e-12
        assert 0.85 - 1e-12 <= momentum <= 0.95 + 1e-12


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_progress_outside_the_run_is_refused(progress: float) -> None:
    """One step too many is an error and not a negative lr."""
    with pytest.raises(ValueError, match=r"progress must be a fraction in \[0, 1\]"):
        Schedule("paper", **BOUNDS).at(progress)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_lr": 2.0}, "need 0 < min_lr <= max_lr"),
        ({"max_lr": float("nan")}, "need 0 < min_lr <= max_lr"),
        ({"max_momentum": 1.0}, "need 0 <= min_momentum <= max_momentum < 1"),
    ],
)
def test_impossible_bounds_are_refused(change: dict[str, float], message: str) -> None:
    """Bounds out of order, NaN and momentum 1 never make a schedule."""
    with pytest.raises(ValueError, match=message):
        Schedule("paper", **{**BOUNDS, **change})


def test_unknown_name_lists_the_known_ones() -> None:
    """A misspelt schedule is answered with what there is."""
    with pytest.raises(ValueError, match="choose one of paper, author, fastai"):
        Schedule("papr", **BOUNDS)
