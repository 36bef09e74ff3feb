"""Notes on faults of a network that raise no error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training.data.parts import Part
from orchestrator.training.nested import tensors_of
from orchestrator.training.trainer import Setup

EXAMPLES = 2
CLOSE = 1e-3  # relative: the order of sums on a GPU may change this much


@torch.no_grad()
def doubts(setup: Setup) -> list[str]:
    """Return notes on a network that is random in eval mode, or has weights unknown to torch."""
    network, told = setup.network(0).eval(), list[str]()
    part = Part(*(values[:EXAMPLES] for values in setup.inputs.held_out))
    (x,) = (setup.inputs.normalised(x) for x, _ in setup.inputs.pieces(part, 1))
    with setup.autocast():
        first, again = network(x.clone()), network(x.clone())
    if hidden := sorted(_hidden(network)):
        told.append(
            f"Weights in {', '.join(hidden)} are not trained, since torch does not find them there:"
            " use nn.ModuleList, nn.ModuleDict or nn.Parameter."
        )
    if not _alike(first, again):
        told.append(
            "The network returns different scores for the same inputs in eval mode: it is random"
            " there (F.dropout needs training=self.training), or depends on earlier inputs."
        )
    del network  # to keep only one of them in the memory of a GPU
    with setup.autocast():
        made_again = setup.network(0).eval()(x)
    if not _alike(first, made_again):
        told.append(
            "The network differs each time it is made, so runs do not start from the same weights:"
            " use only the global random state of torch or NumPy in it."
        )
    return told


def _alike(one: Any, other: Any) -> bool:
    return all(
        torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(a.abs().max()))
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True)
    )


def _hidden(network: nn.Module) -> Iterator[str]:
    """Yield the names of attributes with weights that are not parameters of the network."""
    known = {id(p) for p in network.parameters()}
    for module in network.modules():
        for name, value in vars(module).items():
            if any(id(p) not in known for p in _weights(value)):
                yield name


def _weights(value: Any) -> Iterator[Tensor]:
    """Yield the weights in an attribute that can be trained."""
    items = value.values() if isinstance(value, dict) else value
    parts = [*items] if isinstance(value, dict | list | tuple) else [value]
    modules = (part.parameters() for part in parts if isinstance(part, nn.Module))
    tensors = (part for part in parts if isinstance(part, Tensor) and part.is_leaf)
    return (weight for weight in chain(*modules, tensors) if weight.requires_grad)
