"""The param groups of an optimiser of the user's own, under the rates of a study."""

from __future__ import annotations

from torch.optim import Optimizer

from orchestrator.schedules import Rates
from orchestrator.training.optimizer import momentum_of, rate_ratios, set_rates


class Groups:
    """Sets lr, momentum and weight decay of an optimiser; groups keep what sets them apart.

    The rates keep their ratios to that of the first group, the decays theirs to the largest one, so
    that 0 stays 0. Where no group has a decay, all get that of the study. `momentum` of the first
    group and the largest `weight_decay` are those found. Raises ValueError for a first group whose
    lr is not above 0.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        first = optimizer.param_groups[0]
        self.momentum = momentum_of(first) or 0.0
        self._ratios = rate_ratios(optimizer.param_groups)
        decays = [float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
        self.weight_decay = max(decays)
        self._shares = [decay / max(decays) if any(decays) else 1.0 for decay in decays]

    def apply(self, rates: Rates, weight_decay: float) -> None:
        """Set the rates and the decay of the next step."""
        groups = self.optimizer.param_groups
        set_rates(groups, rates)
        for group, ratio, share in zip(groups, self._ratios, self._shares, strict=True):
            group["lr"] *= ratio
            if "weight_decay" in group:
                group["weight_decay"] = weight_decay * share
