"""What a network does wrong without an error is told in a note, and what is right is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import OwnDataConfig
from orchestrator.training.evaluate import evaluating
from tests.trainings import objective

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 8)).astype("float32")
HIDDEN = " are not trained, since torch does not find them there: use nn.ModuleList"
RANDOM = "The network returns different scores for the same inputs in eval mode: it is random"
OTHER = "The network differs each time it is made"


def features() -> Any:
    """A user's classification."""
    y = (X[:, 0] > X[:, 1]).astype(int)
    return X, y, X[:60], y[:60]


class Net(nn.Module):
    """A network with a part that a function of it and its hidden units uses."""

    def __init__(self, part: Any, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.part, self.use = part, use

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.head(self.use(self, self.body(x)))
        return scores


class Counts(nn.Module):
    """Buffers that change in eval mode too: one in place, one replaced."""

    seen: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        """Return inputs less the mean of those before."""
        self.seen += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def frozen() -> nn.Module:
    return nn.Linear(8, 8).requires_grad_(False)


KINDS: dict[str, Callable[[], Net]] = {
    "list": lambda: Net([nn.Linear(8, 8)], lambda net, x: net.part[0](x)),
    "dict": lambda: Net({"a": nn.Linear(8, 8)}, lambda net, x: net.part["a"](x)),
    "tensor": lambda: Net(torch.ones(8, requires_grad=True), lambda net, x: x * net.part),
    "teacher": lambda: Net([frozen()], lambda net, x: net.part[0](x)),
    "module list": lambda: Net(nn.ModuleList([nn.Linear(8, 8)]), lambda net, x: net.part[0](x)),
    "parameter": lambda: Net(nn.Parameter(torch.ones(8)), lambda net, x: x * net.part),
    "dropout": lambda: Net(None, lambda net, x: F.dropout(x, 0.5)),
    "dropout in training": lambda: Net(None, lambda net, x: F.dropout(x, 0.5, net.training)),
    "noise": lambda: Net(None, lambda net, x: x + torch.randn_like(x)),
    "counts": lambda: Net(Counts(), lambda net, x: net.part(x)),
    "batch norm": lambda: Net(nn.BatchNorm1d(8), lambda net, x: net.part(x)),
    "spectral": lambda: Net(
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), lambda net, x: net.part(x)
    ),
    "tied": lambda: Net(None, lambda net, x: F.linear(x, net.body.weight)),
    "unseeded": lambda: Net(np.random.default_rng().normal(), lambda net, x: x + net.part),
    "seeded": lambda: Net(np.random.normal(), lambda net, x: x + net.part),  # noqa: NPY002
}


def net(kind: str) -> nn.Module:
    """A user's network."""
    return KINDS[kind]()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("list", f"Weights in part{HIDDEN}"),
        ("dict", f"Weights in part{HIDDEN}"),
        ("tensor", f"Weights in part{HIDDEN}"),
        ("dropout", RANDOM),
        ("noise", RANDOM),
        ("counts", RANDOM),
        ("unseeded", OTHER),
        *((kind, "") for kind in ("teacher", "module list", "parameter", "dropout in training")),
        *((kind, "") for kind in ("batch norm", "spectral", "tied", "seeded")),
    ],
)
def test_what_a_network_does_without_a_word_is_told(kind: str, said: str) -> None:
    """In one note of the study; of sound networks nothing is said."""
    model = OwnConfig(_target_=f"{__name__}.net", kind=kind)
    notes = objective(OwnDataConfig(_target_=f"{__name__}.features"), model).describe().notes
    found = [note for note in notes if note.startswith(("Weights", RANDOM, OTHER))]
    assert len(found) == bool(said)
    assert "".join(found).startswith(said)


def test_what_is_evaluated_leaves_buffers_as_they_were() -> None:
    """Held-out and test examples have no part in what is trained and saved."""
    network = KINDS["counts"]().train()
    network(torch.ones(4, 8))
    before = {name: (buffer, buffer.clone()) for name, buffer in network.named_buffers()}
    with torch.no_grad(), evaluating(network) as outputs_of:
        first = outputs_of(lambda: torch.zeros(4, 8))
        assert not torch.equal(first, outputs_of(lambda: torch.zeros(4, 8)))
    for name, buffer in network.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])
    assert network.training
