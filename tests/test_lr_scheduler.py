"""ScheduleLR: the schedules for people who have their own training loop."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import orchestrator
from orchestrator import Schedule, ScheduleLR
from orchestrator.schedules import VARIANTS

PAPER = Schedule("paper", min_lr=0.01, max_lr=0.1, min_momentum=0.85, max_momentum=0.95)
TOTAL = 40


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(3))


def sgd(lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([parameter()], lr=lr, momentum=0.9, **options)


def train(optimizer: torch.optim.Optimizer, scheduler: ScheduleLR, steps: int) -> list[Any]:
    """Make `steps` updates of a quadratic, return the rates that each was made with."""
    rates = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["momentum"]))
        optimizer.zero_grad()
        (group["params"][0] ** 2).sum().backward()
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", VARIANTS)
def test_every_update_has_the_rates_of_its_progress(name: str) -> None:
    """Update k of n is made at progress k/n, as in the studies' own loop."""
    schedule = Schedule(name, 0.01, 0.1, 0.85, 0.95)
    optimizer = sgd()
    rates = train(optimizer, ScheduleLR(optimizer, schedule, TOTAL), TOTAL)
    assert rates == [tuple(schedule.at(k / TOTAL)) for k in range(TOTAL)]


def test_param_groups_keep_their_ratio_to_the_first() -> None:
    """A group with a tenth of the first one's lr stays at a tenth; momentum is the same for all."""
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    for _ in range(TOTAL):
        one, other = optimizer.param_groups
        assert one["lr"] == scheduler.rates.lr
        assert other["lr"] == pytest.approx(one["lr"] / 10)
        assert one["momentum"] == other["momentum"] == scheduler.rates.momentum
        assert scheduler.get_last_lr() == [one["lr"], other["lr"]]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam"])
def test_adams_first_beta_is_the_momentum(name: str) -> None:
    """The second beta is left alone."""
    optimizer = getattr(torch.optim, name)([parameter()], lr=1e-3, betas=(0.9, 0.99))
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    for _ in range(18):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["betas"] == (pytest.approx(0.85), 0.99)


def test_nesterov_momentum_is_cycled() -> None:
    """A real Nesterov run moves its weights exactly as one whose rates are set by hand."""
    ours, theirs = sgd(nesterov=True), sgd(nesterov=True)
    train(ours, ScheduleLR(ours, PAPER, TOTAL), TOTAL)
    group = theirs.param_groups[0]
    for k in range(TOTAL):
        group["lr"], group["momentum"] = PAPER.at(k / TOTAL)
        theirs.zero_grad()
        (group["params"][0] ** 2).sum().backward()
        theirs.step()
    assert torch.equal(ours.param_groups[0]["params"][0], group["params"][0])


def test_an_optimiser_without_momentum_gets_the_lr_alone() -> None:
    """Adagrad has neither momentum nor betas."""
    optimizer = torch.optim.Adagrad([parameter()], lr=0.1)
    ScheduleLR(optimizer, PAPER, TOTAL)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert "momentum" not in optimizer.param_groups[0]


def test_an_lr_in_a_tensor_is_changed_in_place() -> None:
    """As torch's own schedulers do it: a compiled step reads that tensor."""
    lr = torch.tensor(0.1)
    optimizer = torch.optim.AdamW([parameter()], lr=lr)
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.01)
    assert scheduler.get_last_lr()[0] is not lr


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_beyond_the_end_stay_at_the_last_value(name: str) -> None:
    """One step too many, or ten: no exception, no negative lr."""
    schedule = Schedule(name, 0.01, 0.1, 0.85, 0.95)
    optimizer = sgd()
    rates = train(optimizer, ScheduleLR(optimizer, schedule, TOTAL), TOTAL + 10)
    assert rates[TOTAL:] == [tuple(schedule.at(1.0))] * 10
    assert min(lr for lr, _ in rates) > 0


@pytest.mark.parametrize("stop", [0, 1, 17, 18, 39, 40, 45])
@pytest.mark.parametrize("order", ["optimizer first", "scheduler first", "scheduler alone"])
def test_a_run_resumed_goes_on_as_if_undisturbed(stop: int, order: str) -> None:
    """Saved by torch.save and read without pickle; the order of loading plays no part."""
    whole = sgd()
    undisturbed = train(whole, ScheduleLR(whole, PAPER, TOTAL), TOTAL + 5)
    first = sgd()
    scheduler = ScheduleLR(first, PAPER, TOTAL)
    train(first, scheduler, stop)
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = sgd()
    if order == "optimizer first":
        second.load_state_dict(saved["optimizer"])
    resumed = ScheduleLR(second, PAPER, TOTAL)
    resumed.load_state_dict(saved["scheduler"])
    if order == "scheduler first":
        second.load_state_dict(saved["optimizer"])
    assert train(second, resumed, TOTAL + 5 - stop) == undisturbed[stop:]


def test_last_epoch_resumes_without_initial_lr() -> None:
    """torch's own schedulers raise KeyError here; ours needs the index alone."""
    whole = sgd()
    undisturbed = train(whole, ScheduleLR(whole, PAPER, TOTAL), TOTAL)
    fresh = sgd()
    assert train(fresh, ScheduleLR(fresh, PAPER, TOTAL, last_epoch=16), 23) == undisturbed[17:]


def test_ratios_survive_an_optimiser_loaded_in_the_middle() -> None:
    """Made after the optimiser's state was loaded, when its rates are those of the middle."""
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.02}]
    first = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    scheduler = ScheduleLR(first, PAPER, TOTAL)
    for _ in range(17):
        first.step()
        scheduler.step()
    second = torch.optim.SGD(
        [{"params": [parameter()]}, {"params": [parameter()]}], lr=9, momentum=0
    )
    second.load_state_dict(first.state_dict())
    resumed = ScheduleLR(second, PAPER, TOTAL)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == scheduler.get_last_lr()


@pytest.mark.parametrize("total", [20, 30, 80])
@pytest.mark.parametrize("how", ["set_total_steps", "load_state_dict"])
def test_a_changed_length_goes_on_from_the_same_progress(total: int, how: str) -> None:
    """No jump of the rates, and the schedule still ends with the run."""
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    before = train(optimizer, scheduler, 10)
    if how == "set_total_steps":
        scheduler.set_total_steps(total)
    else:
        state, optimizer = scheduler.state_dict(), sgd()
        scheduler = ScheduleLR(optimizer, PAPER, total)
        scheduler.load_state_dict(state)
    assert scheduler.progress == 10 / TOTAL
    after = train(optimizer, scheduler, total - 10)
    assert after[0] == tuple(PAPER.at(10 / TOTAL))
    assert abs(after[0][0] - before[-1][0]) == pytest.approx(abs(before[-1][0] - before[-2][0]))
    assert after[1] == pytest.approx(tuple(PAPER.at(0.25 + 0.75 / (total - 10))))
    assert scheduler.progress == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_a_changed_length_is_kept_over_a_resume() -> None:
    """Extended, saved, loaded: the same rates as without the interruption."""
    one, other = sgd(), sgd()
    scheduler = ScheduleLR(one, PAPER, TOTAL)
    train(one, scheduler, 10)
    scheduler.set_total_steps(60)
    train(one, scheduler, 5)
    resumed = ScheduleLR(other, PAPER, 60)
    resumed.load_state_dict(scheduler.state_dict())
    assert train(other, resumed, 50) == train(one, scheduler, 50)


def test_a_length_already_passed_ends_the_schedule() -> None:
    """Shortened to fewer steps than were made: the rates are the last ones."""
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    train(optimizer, scheduler, 20)
    scheduler.set_total_steps(15)
    assert train(optimizer, scheduler, 3) == [tuple(PAPER.at(1.0))] * 3


def test_a_grad_scaler_that_skips_updates_leaves_the_schedule_alone() -> None:
    """A gradient that overflows costs an update, not a step of the schedule, and no warning."""
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, PAPER, TOTAL)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    weights = optimizer.param_groups[0]["params"][0]
    for k in range(TOTAL):
        assert optimizer.param_groups[0]["lr"] == PAPER.at(k / TOTAL).lr
        optimizer.zero_grad()
        before = weights.detach().clone()
        scaler.scale((weights * (float("inf") if k in (3, 7) else 1)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert torch.equal(weights, before) == (k in (3, 7))


def test_the_wrong_order_of_calls_is_warned_of_as_torch_does() -> None:
    """`scheduler.step()` before the first `optimizer.step()` skips the first rates."""
    scheduler = ScheduleLR(sgd(), PAPER, TOTAL)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


def test_it_works_in_torchs_sequential_scheduler() -> None:
    """After another scheduler's warm-up, and then to its own end."""
    optimizer = sgd()
    ours = ScheduleLR(optimizer, PAPER, TOTAL)
    before = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own step(epoch) warns of itself
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [before, ours], milestones=[5])
        for _ in range(5 + TOTAL):
            optimizer.step()
            both.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_wrong_requests_are_refused() -> None:
    """No length, and a first group that the others could not be measured by."""
    with pytest.raises(ValueError, match="total_steps must be 1 or more, got 0"):
        ScheduleLR(sgd(), PAPER, 0)
    with pytest.raises(ValueError, match="total_steps must be 1 or more, got -3"):
        ScheduleLR(sgd(), PAPER, 10).set_total_steps(-3)
    with pytest.raises(ValueError, match=r"first param group needs an lr above 0, got 0\.0"):
        ScheduleLR(sgd(lr=0.0), PAPER, 10)


def test_importing_the_package_imports_neither_torch_nor_optuna() -> None:
    """The public names are fetched when they are asked for."""
    code = (
        "import sys, orchestrator; dir(orchestrator);"
        "assert not {'torch', 'optuna', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "ScheduleLR" in dir(orchestrator)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = orchestrator.nothing
