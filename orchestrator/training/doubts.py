"""What a network may do wrong without an error: sentences for the report."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training.data.parts import Part
from orchestrator.training.trainer import Setup
from orchestrator.training.trees import tensors_of

EXAMPLES = 2
CLOSE = 1e-3  # relative: what a GPU's order of sums may change


@torch.no_grad()
def doubts(setup: Setup) -> list[str]:
    """Return sentences on a network that is random in eval mode, or hides weights from torch."""
    network, told = setup.network(0).eval(), list[str]()
    part = Part(*(values[:EXAMPLES] for values in setup.inputs.held_out))
    (x,) = (setup.inputs.normalised(x) for x, _ in setup.inputs.pieces(part, 1))
    with setup.autocast():
        first, again = network(x.clone()), network(x.clone())
    if hidden := sorted(_hidden(network)):
        told.append(
            f"Weights in {', '.join(hidden)} are not trained, since torch does not see them there:"
            " nn.ModuleList, nn.ModuleDict and nn.Parameter are seen."
        )
    if not _alike(first, again):
        told.append(
            "The network gives other scores for the same inputs in eval mode: something in it is"
            " random there (F.dropout needs training=self.training), or kept from earlier inputs."
        )
    del network  # not two of them in the memory of a GPU
    with setup.autocast():
        made_again = setup.network(0).eval()(x)
    if not _alike(first, made_again):
        told.append(
            "The network is another one each time it is made, so that runs are not compared by the"
            " same weights: what is random in it must come from torch's or NumPy's global state."
        )
    return told


def _alike(one: Any, other: Any) -> bool:
    return all(
        torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(a.abs().max()))
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True)
    )


def _hidden(network: nn.Module) -> Iterator[str]:
    """Yield the names of attributes with weights to be trained that are not the network's."""
    known = {id(p) for p in network.parameters()}
    for module in network.modules():
        for name, value in vars(module).items():
            if any(id(p) not in known for p in _weights(value)):
                yield name


def _weights(value: Any) -> Iterator[Tensor]:
    """Yield what an attribute holds of weights that can be trained."""
    items = value.values() if isinstance(value, dict) else value
    parts = [*items] if isinstance(value, dict | list | tuple) else [value]
    modules = (part.parameters() for part in parts if isinstance(part, nn.Module))
    tensors = (part for part in parts if isinstance(part, Tensor) and part.is_leaf)
    return (weight for weight in chain(*modules, tensors) if weight.requires_grad)
