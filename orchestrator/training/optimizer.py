"""Makes the optimiser of a run, sets its rates, and freezes parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from orchestrator.config import user_code
from orchestrator.config.optimizer import (
    AdamWConfig,
    AnyOptimizer,
    MuonConfig,
    OwnOptimizerConfig,
)
from orchestrator.schedules import Rates
from orchestrator.training.compatibility import ModelError
from orchestrator.training.muon import MuonAdamW


def make(model: nn.Module, options: AnyOptimizer, weight_decay: float) -> Optimizer:
    """Return the optimiser of all trained parameters; its rates are set before each step.

    Norms and biases (parameters with at most one dimension) may have no weight decay. Embeddings
    with sparse gradients have none: torch cannot add the two. Raises ModelError if a user's own
    optimiser is not an Optimizer, or has no weight decay; if there is no matrix for Muon.
    """
    if isinstance(options, MuonConfig):
        return _muon(model, options, weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    sparse = {
        p for m in model.modules() if getattr(m, "sparse", False) for p in m.parameters(False)
    }
    groups = _groups(trained, options, weight_decay, sparse)
    # fused is fastest on CPU and CUDA (small nets on a CPU: 10-20 % of a step), for real weights
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    fused = fused and sparse.isdisjoint(trained)
    if isinstance(options, OwnOptimizerConfig):
        return _own(options, groups, weight_decay)
    if isinstance(options, AdamWConfig):
        return torch.optim.AdamW(
            groups, betas=(0.9, options.beta2), eps=options.eps, weight_decay=0.0, fused=fused
        )
    return torch.optim.SGD(
        groups,
        momentum=0.9,  # until the first step; nesterov refuses 0 here
        nesterov=options.nesterov,
        fused=fused,
    )


def _muon(model: nn.Module, options: MuonConfig, weight_decay: float) -> Optimizer:
    try:
        return MuonAdamW(
            model,
            beta2=options.beta2,
            eps=options.eps,
            weight_decay=weight_decay,
            decay_norms_and_biases=options.decay_norms_and_biases,
        )
    except ValueError as error:
        raise ModelError(f"optimizer muon: {error}") from None


def _own(
    options: OwnOptimizerConfig, groups: list[dict[str, Any]], weight_decay: float
) -> Optimizer:
    made = user_code.build(options, params=groups, lr=1e-3, weight_decay=weight_decay)
    if not isinstance(made, Optimizer):
        raise ModelError(
            f"optimizer {options.target}: returns a {type(made).__name__}, not an Optimizer"
        )
    if missing := [key for key in ("lr", "weight_decay") if key not in made.defaults]:
        raise ModelError(f"optimizer {options.target}: has no {missing[0]}, which the recipe sets")
    return made


def set_rates(groups: list[dict[str, Any]], rates: Rates) -> None:
    """Set lr and momentum: `momentum` of SGD, or the first of Adam's betas, if there is one."""
    lr, momentum = rates
    for group in groups:
        group["lr"] = lr
        if "momentum" in group:
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])


def rate_ratios(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return each group's lr as a share of the first one's, before any lr scheduler changed it.

    Raises ValueError for a first group whose lr is not above 0.
    """
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    if not rates[0] > 0:
        raise ValueError(f"the first param group needs an lr above 0, got {rates[0]}")
    return [rate / rates[0] for rate in rates]


def momentum_of(group: Mapping[str, Any]) -> float | None:
    """Return the momentum of a param group, as `set_rates` sets it, None without one."""
    if "momentum" in group:
        return float(group["momentum"])
    return float(group["betas"][0]) if "betas" in group else None


def name_of(optimizer: Optimizer) -> str:
    """Return the name of an optimiser in a recipe: its torch class in lower case.

    A user's subclass of torch's SGD is "sgd"; other classes have their own name.
    """
    kinds = type(optimizer).__mro__
    known = [k for k in kinds if k.__module__.startswith("torch.optim.") and k is not Optimizer]
    return (known or kinds)[0].__name__.lower()


def _groups(
    trained: list[nn.Parameter],
    options: AnyOptimizer,
    weight_decay: float,
    sparse: set[nn.Parameter],
) -> list[dict[str, Any]]:
    least = 0 if options.decay_norms_and_biases else 2  # dimensions of what decays
    decaying = [p for p in trained if p.ndim >= least and p not in sparse]
    others = [p for p in trained if p.ndim < least or p in sparse]
    groups = (
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of `patterns`.

    Batch norm in frozen layers still uses batch statistics and updates the running ones. Raises
    ModelError for a pattern that matches no name, and if nothing is left to train.
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
