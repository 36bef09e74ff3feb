"""Muon for the matrices of hidden layers, AdamW for all other parameters: one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class MuonAdamW(Optimizer):
    """torch's Muon for the matrices of hidden layers, AdamW for all other parameters.

    A matrix is a weight with two dimensions that belongs neither to an embedding nor to the last
    layer (see `matrices`). Its steps are scaled as those of AdamW are, so that both take the same
    learning rate and weight decay. Momentum is that of Muon, and beta1 of AdamW.

    Source: Jordan 2024 (kellerjordan.github.io/posts/muon); the scale is that of Liu et al. 2025
    (arXiv 2502.16982), `adjust_lr_fn="match_rms_adamw"` of `torch.optim.Muon`.

    Args:
        model: The network; parameters that need no gradient are left out.
        lr: Learning rate per step.
        momentum: Momentum of Muon and beta1 of AdamW.
        beta2: AdamW's decay of the mean of squared gradients.
        eps: Added to the root of that mean.
        weight_decay: Decoupled: a step takes lr x weight_decay of each weight.
        decay_norms_and_biases: Whether parameters of at most one dimension have weight decay too.

    Raises:
        ValueError: The model has no such matrix: AdamW alone would train it.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> optimizer = MuonAdamW(model, lr=1e-3)
    >>> [len(group["params"]) for group in optimizer.param_groups]  # matrices; the rest
    [2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        momentum: float = 0.95,
        *,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay_norms_and_biases: bool = True,
    ) -> None:
        of_muon = matrices(model)
        if not of_muon:
            raise ValueError(
                "the model has no matrix but those of embeddings and of its last layer, which Muon"
                " leaves to AdamW: use AdamW"
            )
        known, least = set(of_muon), 0 if decay_norms_and_biases else 2
        rest = [p for p in model.parameters() if p.requires_grad and p not in known]
        groups = [
            {"params": [p for p in rest if p.ndim >= least], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < least], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._muon = torch.optim.Muon(
            of_muon, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"
        )
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in rest)
        adamw = torch.optim.AdamW  # has no empty list of parameters
        self._adamw = adamw(groups, lr, (momentum, beta2), eps, fused=fused) if groups else None
        others = self._adamw.param_groups if self._adamw else []
        super().__init__([*self._muon.param_groups, *others], {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step of both.

        Args:
            closure: Computes the loss again and returns it.

        Returns:
            Its loss, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # State and groups are this optimiser's own: a loaded state has new ones.
        for part, is_muon in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                part.state = self.state
                part.param_groups = [g for g in self.param_groups if ("ns_steps" in g) == is_muon]
                part.step()  # type: ignore[no-untyped-call]
        return loss


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained matrices of hidden layers, in the order of `model.parameters()`.

    Weights by their names, which places in a sequence are not; neither those of embeddings nor the
    last one, of the layer that gives the scores.
    """
    embedded = {
        p
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(False)
    }
    found = [p for name, p in _weights(model) if p not in embedded]
    return [p for p in found[:-1] if p.requires_grad]


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "weight" in name.rpartition(".")[2]:
            yield name, parameter
