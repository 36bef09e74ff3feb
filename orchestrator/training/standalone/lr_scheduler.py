"""The schedules as a `torch.optim.lr_scheduler`, for use without the rest."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from orchestrator.schedules import Rates, Schedule
from orchestrator.training.optimizer import rate_ratios

Number: TypeAlias = "float | Tensor"


class ScheduleLR(LRScheduler):
    """Sets lr and momentum of every param group by `schedule`; call `step()` after each update.

    Update k (from 0) uses lr and momentum at progress k / `total_steps`, as in the studies. They
    depend on the number of `step()` calls alone, so mixed precision may skip updates
    (`torch.amp.GradScaler`). After `total_steps` they keep their last values.

    The lr of the schedule is that of the first param group. The other groups keep their ratio to it
    (lr .1 and .01 when this object is made: the second group always has a tenth). Momentum is
    `momentum` of SGD and RMSprop, or the first of `betas` of the Adam family; an optimiser with
    neither gets lr alone.

    Args:
        optimizer: The optimiser whose rates are set.
        schedule: The schedule.
        total_steps: Number of updates in the run.
        last_epoch: Index of the last update that was made, -1 at the start. Param groups need no
            `initial_lr` to resume.

    Raises:
        ValueError: `total_steps` is below 1, or the lr of the first group is not above 0.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, total_steps: int, last_epoch: int = -1
    ) -> None:
        self.schedule = schedule
        self.total_steps = _checked(total_steps)
        self._since = (0, 0.0)  # step and progress where `total_steps` was last set
        groups = optimizer.param_groups
        for group in groups:  # torch requires it to resume; here it is only used for the ratio
            lr = group["lr"]
            group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
        self._ratios = rate_ratios(groups)
        super().__init__(optimizer, last_epoch)

    @property
    def progress(self) -> float:
        """Fraction of the schedule done, in [0, 1]."""
        start, done = self._since
        if self.last_epoch <= start or self.total_steps <= start:
            return done
        return min(1.0, done + (1 - done) * (self.last_epoch - start) / (self.total_steps - start))

    @property
    def rates(self) -> Rates:
        """lr (of the first param group) and momentum of the next update."""
        return self.schedule.at(self.progress)

    def get_lr(self) -> list[Number]:
        """Return the lr of each param group at the current step."""
        lr = self.rates.lr
        return [lr * ratio for ratio in self._ratios]

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step and set lr and momentum; call it after `optimizer.step()`.

        Args:
            epoch: As in torch, where it is deprecated. Leave it out.
        """
        super().step(epoch)
        self._apply()

    def set_total_steps(self, total_steps: int) -> None:
        """Change the length of the run to `total_steps`, counted from its start.

        The progress stays the same, and the rest of the schedule is spread over the remaining
        steps: lr does not jump, and the run still ends at the schedule's end. (Keeping the *step*
        instead would raise lr again in a run that is extended late.) A run that is past its new
        length, or was done before, keeps its last rates.

        Args:
            total_steps: The new number of updates.

        Raises:
            ValueError: `total_steps` is below 1.
        """
        total, step = _checked(total_steps), max(0, self.last_epoch)
        if total == self.total_steps:
            return
        self._since = (step, self.progress if step < total else 1.0)
        self.total_steps = total
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the run.

        Returns:
            Plain numbers, which `torch.load(weights_only=True)` reads. The schedule and the ratios
            between groups are not included.
        """
        return {
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "since": list(self._since),
            "step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position in the run, and set lr and momentum of that step in the optimiser.

        The optimiser's own state may be loaded before or after. This object keeps its own
        `total_steps`: if the saved one differs, the run continues from the same progress (see
        `set_total_steps`).

        Args:
            state_dict: What `state_dict()` returned.
        """
        wanted = self.total_steps
        self.last_epoch = int(state_dict["last_epoch"])
        self.total_steps = _checked(state_dict["total_steps"])
        step, progress = state_dict["since"]
        self._since = (int(step), float(progress))
        self._step_count = int(state_dict["step_count"])
        self.set_total_steps(wanted)
        self._apply()

    def _apply(self) -> None:
        momentum = self.rates.momentum
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            _set(group, "lr", lr)
            if "momentum" in group:
                _set(group, "momentum", momentum)
            elif "betas" in group:
                first, *rest = group["betas"]
                if isinstance(first, Tensor):  # in place: a captured graph reads that memory
                    first.fill_(momentum)
                else:
                    group["betas"] = (momentum, *rest)
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]


def _checked(total_steps: int) -> int:
    if total_steps < 1:
        raise ValueError(f"total_steps must be 1 or more, got {total_steps}")
    return int(total_steps)


def _set(group: dict[str, Any], key: str, value: Number) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def _copied(value: Number) -> Number:
    return value.clone() if isinstance(value, Tensor) else value
