"""Before a range test gives up: what one would look at, named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from orchestrator import lr_range_test, run_study
from orchestrator.recipe import Decision
from orchestrator.training.diagnose import Patient, finding

N = 300
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
SHUFFLED = Y[torch.randperm(N, generator=torch.Generator().manual_seed(1))]
LOSS = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Dead(nn.Sequential):
    """Units that are always 0."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self[0].bias.data.fill_(-100.0)  # type: ignore[union-attr, operator]


class Softmaxed(nn.Sequential):
    """A softmax over a dimension of size 1: the scores are all 1."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3), nn.Unflatten(1, (3, 1)), nn.Softmax(2), nn.Flatten())


class Blind(nn.Module):
    """A network whose scores do not depend on its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.bias.expand(len(x), 3)


class Faint(nn.Module):
    """A network that can only say a little."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = 0.05 * self.layer(x).tanh()
        return scores


def mlp(width: int = 64, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, outputs))


class Deep(nn.Sequential):
    """Slow to begin: twelve layers, and a head of zeros."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [m for _ in range(12) for m in (nn.Linear(32, 32), nn.GELU())]
        super().__init__(nn.Linear(6, 32), *layers, nn.Linear(32, 3))
        self[-1].weight.data.zero_()  # type: ignore[union-attr, operator]


def told(network: nn.Module, x: Tensor = X, y: Tensor = Y, loss: Any = LOSS) -> str:
    start = {k: v.clone() for k, v in network.state_dict().items()}
    batch, rest = (x[:64], y[:64]), [(x[64:], y[64:])]
    return finding(Patient(network, loss, batch, rest, lambda: network.load_state_dict(start)))


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (lambda: told(mlp(), torch.ones(N, 6)), "all inputs of a batch are the same"),
        (lambda: told(Dead()), "the model gives the same outputs for all inputs"),
        (lambda: told(Blind()), "the model gives the same outputs for all inputs"),
        (lambda: told(Softmaxed()), "the weights get no gradient"),
        (lambda: told(Faint()), "in 50 steps on 64 examples the loss fell by"),
        (
            lambda: told(mlp(512), y=SHUFFLED),
            "the held-out loss no more than with shuffled targets: are inputs and targets in",
        ),
        (
            lambda: told(mlp(outputs=1), y=1e4 + X[:, :1], loss=nn.MSELoss()),
            "the targets are around 1e+04 (standard deviation ",
        ),
    ],
)
def test_what_keeps_a_network_from_learning_is_named(case: Any, line: str) -> None:
    """The cause, not the number of steps."""
    assert line in case()


@pytest.mark.parametrize(
    "case",
    [
        lambda: told(mlp()),
        lambda: told(Deep()),
        lambda: told(mlp(outputs=1), y=X.sum(1, keepdim=True), loss=nn.MSELoss()),
        lambda: told(mlp(), loss=lambda o, t: 1 / 0),
    ],
)
def test_a_network_that_learns_is_not_blamed(case: Any) -> None:
    """Slow ones are not either, and what raises has another problem."""
    assert case() == ""


def test_a_way_out_that_does_not_help_gives_way() -> None:
    """The reason keeps what was seen."""
    decision = Decision("lr_range", "lr_range", "no answer: it fell too little: allow more steps")
    assert decision.explained("", "allow more steps") is decision
    found = decision.explained("all inputs are the same", "allow more steps")
    assert found.reason == "no answer: it fell too little: all inputs are the same"
    assert decision.explained("why", "other").reason == f"{decision.reason}: why"


def loader(y: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[:200], y[:200]), 20, shuffle=True)


def test_the_range_test_names_it() -> None:
    """In its reason, and the model is left as it was found all the same."""
    model = mlp(256)
    before = [p.detach().clone() for p in model.parameters()]
    found = lr_range_test(model, LOSS, loader(SHUFFLED), (X[200:], SHUFFLED[200:]), steps=40)
    assert not found.answered
    assert found.reason.startswith("no answer: the ramps fell too little, by")
    assert "are inputs and targets in the same order" in found.reason
    assert found.reason.endswith("in the same order? If so, allow more steps")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_data_that_any_rate_learns_have_an_answer() -> None:
    """No ramp breaks where nothing is left to lose: the rate from which on that is so."""
    x = X / 10 + 6 * nn.functional.one_hot(Y, 6)
    train = DataLoader(TensorDataset(x[:200], Y[:200]), 20, shuffle=True)
    found = lr_range_test(mlp(), LOSS, train, (x[200:], Y[200:]), steps=40)
    assert found.answered
    assert "from there on the held-out loss is 0, and no rate up to" in found.reason
    assert found.max_lr is not None
    assert found.max_lr < max(ramp.lr[-1] for ramp in found.ramps) / 100
    assert str(found.max_lr)[:4] in str(found)


def noise() -> Any:
    """A user's data whose labels belong to other rows."""
    return X[:200].numpy(), SHUFFLED[:200].numpy(), X[200:].numpy(), SHUFFLED[200:].numpy()


def test_a_study_names_it(here: Path, without_figures: None) -> None:
    """Where its range test has no answer."""
    record = run_study(
        {
            "effort": "thorough",
            "data": {"_target_": f"{__name__}.noise"},
            "model": {"name": "mlp", "width": 4},
            "plan": ["lr_range", "final"],
            "recipe": {"batch_size": 20},
            "stages": {"final": {"epochs": 5}, "lr_range": {"min_drop": 0.3}},
            "tracking": {"name": "none"},
            "threads": 1,
        }
    )
    assert record.status == "undecided"
    assert "are inputs and targets in the same order?" in record.reason
    assert "in the same order? If so, allow more steps (max_steps, share)" in record.reason
    assert np.isfinite(record.total_seconds)
