"""The schedules as a `torch.optim.lr_scheduler`, for people who only want the schedule."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from orchestrator.schedules import Rates, Schedule
from orchestrator.training.optimizer import rate_ratios

Number: TypeAlias = "float | Tensor"


class ScheduleLR(LRScheduler):
    """Sets lr and momentum of every param group by `schedule`, one `step()` after each update.

    The update of index k (from 0) of `total_steps` is made with the rates at progress
    k / `total_steps`, as in the studies; `step()` beyond `total_steps` leaves them at their last
    value. They depend on nothing but this index, so mixed precision may skip updates
    (`torch.amp.GradScaler`): the schedule counts calls of `step()`.

    lr: `schedule` is that of the first param group; the others keep the ratio that their lr had to
    the first one's when this object was made (lr .1 and .01: the second group's rates are a tenth).
    Momentum: `momentum` of SGD (Nesterov or not) and RMSprop, the first of `betas` of the Adam
    family; an optimiser with neither gets lr alone.

    `last_epoch`: index of the update already made, -1 at the start. No `initial_lr` is needed to
    resume, neither with `last_epoch` nor by `load_state_dict`.
    Raises ValueError for `total_steps` below 1 or a first group whose lr is not above 0.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, total_steps: int, last_epoch: int = -1
    ) -> None:
        self.schedule = schedule
        self.total_steps = _checked(total_steps)
        self._since = (0, 0.0)  # step and progress where `total_steps` was last set
        groups = optimizer.param_groups
        for group in groups:  # torch wants it there to resume; all it serves for here is the ratio
            lr = group["lr"]
            group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
        self._ratios = rate_ratios(groups)
        super().__init__(optimizer, last_epoch)

    @property
    def progress(self) -> float:
        """Fraction of the schedule that is done, in [0, 1]."""
        start, done = self._since
        if self.last_epoch <= start or self.total_steps <= start:
            return done
        return min(1.0, done + (1 - done) * (self.last_epoch - start) / (self.total_steps - start))

    @property
    def rates(self) -> Rates:
        """lr (of the first param group) and momentum of the next update."""
        return self.schedule.at(self.progress)

    def get_lr(self) -> list[Number]:
        """Return the lr of each param group at the present step."""
        lr = self.rates.lr
        return [lr * ratio for ratio in self._ratios]

    def step(self, epoch: int | None = None) -> None:
        """Go to the next step (call it after `optimizer.step()`), set lr and momentum."""
        super().step(epoch)
        self._apply()

    def set_total_steps(self, total_steps: int) -> None:
        """Change the length of the run from here on, to `total_steps` in all.

        The progress stays what it is, and the rest of the schedule is stretched or squeezed over
        the steps that remain: no jump of the rates, and the run still ends at the schedule's end.
        (Going on at the same *step* would throw a run that is extended late back to a high lr.) A
        run already past its new length counts as done, and so does one that was done before: its
        rates stay the last ones. Raises ValueError for a length below 1.
        """
        total, step = _checked(total_steps), max(0, self.last_epoch)
        if total == self.total_steps:
            return
        self._since = (step, self.progress if step < total else 1.0)
        self.total_steps = total
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return where the run is, as plain numbers (`torch.load(weights_only=True)` takes them).

        Schedule and ratios are not in it: they come from the code that makes the object.
        """
        return {
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "since": list(self._since),
            "step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go where `state_dict` was taken, and set the rates of that step in the optimiser.

        The optimiser's own state may be loaded before or after. The `total_steps` that this object
        was made with holds: where the saved one differs, the run goes on from the same progress
        (see `set_total_steps`).
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
