"""The optimiser of a run, and what may be frozen in its network."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from orchestrator.config import OptimizerConfig
from orchestrator.training.models import ModelError


def sgd(model: nn.Module, options: OptimizerConfig, weight_decay: float) -> torch.optim.SGD:
    """Return SGD for all parameters that are trained; lr and momentum are set before each step.

    Two groups where norms and biases, the parameters of one dimension or none, do not decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    device = trained[0].device.type
    return torch.optim.SGD(
        _groups(trained, options, weight_decay),
        momentum=0.9,  # until the first step; nesterov refuses 0 here
        nesterov=options.nesterov,
        # fused is the fastest on CPU and CUDA (small nets on a CPU: 10-20 % of a step)
        fused=device in ("cpu", "cuda"),
    )


def _groups(
    trained: list[nn.Parameter], options: OptimizerConfig, weight_decay: float
) -> list[dict[str, Any]]:
    if options.decay_norms_and_biases:
        return [{"params": trained, "weight_decay": weight_decay}]
    decaying = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = ({"params": decaying, "weight_decay": weight_decay}, {"params": others})
    return [group for group in groups if group["params"]]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters whose names match one of `patterns` out of the training.

    Batch norm in frozen layers still uses and keeps the statistics of what it sees. Raises
    ModelError for a pattern that no name matches, and if nothing is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        matching = [name for name in named if fnmatchcase(name, pattern)]
        if not matching:
            some = ", ".join(list(named)[:6])
            raise ModelError(
                f"optimizer.frozen: {pattern!r} matches none of the model's {len(named)}"
                f" parameters ({some}{', ...' if len(named) > 6 else ''})"
            )
        for name in matching:
            named[name].requires_grad_(False)
    if patterns and not any(p.requires_grad for p in named.values()):
        raise ModelError(f"optimizer.frozen: {list(patterns)} leaves nothing to train")
