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
    ("progress", "lr", "momentum"), [(0.0, 0.04, 0.95), (0.25, 1.0, 0.85), (1.0, 1e-5, 0.95)]
)
def test_fastai_variant_starts_peaks_and_ends_where_fastai_does(
    progress: float, lr: float, momentum: float
) -> None:
    """fit_one_cycle: max/25 at the start, the peak at a quarter, max/1e5 at the end."""
    assert Schedule("fastai", **BOUNDS).at(progress) == pytest.approx(Rates(lr, momentum))


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
    with pytest.raises(ValueError, match="choose one of paper, fastai"):
        Schedule("papr", **BOUNDS)
