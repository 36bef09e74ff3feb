"""Schedules that only the benchmarks need: the rivals, and what the method refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.schedules import Rates, Schedule


@dataclass(frozen=True)
class Steps(Schedule):
    """lr falls to a tenth at each of `drops` (fractions of the run), momentum is constant."""

    drops: tuple[float, ...] = (0.5, 0.75)

    @classmethod
    def at_lr(cls, lr: float, momentum: float, drops: tuple[float, ...] = (0.5, 0.75)) -> Steps:
        """Return the policy that starts at `lr`."""
        return cls("constant", lr, lr, momentum, momentum, drops)

    def at(self, progress: float) -> Rates:
        """Return lr and momentum at `progress`."""
        return Rates(self.max_lr * 0.1 ** sum(progress >= d for d in self.drops), self.max_momentum)

    def spec(self) -> dict[str, Any]:
        """Return name and bounds as plain values."""
        return {**vars(self), "name": "steps", "drops": list(self.drops)}


@dataclass(frozen=True)
class MomentumRamp(Schedule):
    """A momentum range test: momentum rises linearly at a constant lr."""

    @classmethod
    def between(cls, lr: float, low: float, high: float) -> MomentumRamp:
        """Return the ramp from `low` to `high`."""
        return cls("constant", lr, lr, low, high)

    def at(self, progress: float) -> Rates:
        """Return lr and momentum at `progress`."""
        rise = self.max_momentum - self.min_momentum
        return Rates(self.max_lr, self.min_momentum + progress * rise)

    def spec(self) -> dict[str, Any]:
        """Return name and bounds as plain values."""
        return {**vars(self), "name": "momentum_ramp"}
