"""Losses and metrics of the user's own that would be wrong without a word."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import LossConfig, OwnDataConfig, OwnMetricConfig
from orchestrator.errors import ConfigError
from orchestrator.training.objective import TrainingObjective
from tests.trainings import a_run, objective, train

N = 300
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")


def numbers(column: bool = False) -> Any:
    """A user's regression: targets (n,) or (n, 1)."""
    y = X.sum(1) / 2
    y = y[:, None] if column else y
    return X, y, X[:60], y[:60]


def classes() -> Any:
    """A user's classification."""
    y = X[:, :3].argmax(1)
    return X, y, X[:60], y[:60]


class Wide(nn.Module):
    """A network that gives (n, 1), or (n,)."""

    def __init__(self, flat: bool = False, outputs: int = 1) -> None:
        super().__init__()
        self.body, self.flat = nn.Linear(4, outputs), flat

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.body(x)
        return scores[:, 0] if self.flat else scores


def squared(scores: Tensor, y: Tensor) -> Tensor:
    """A loss without a warning."""
    return (scores - y).square().mean()


def squeezed(scores: Tensor, y: Tensor) -> Tensor:
    """A loss that takes the last dimension off itself."""
    return (scores.reshape(y.shape) - y).square().mean()


def summed(scores: Tensor, y: Tensor) -> Tensor:
    """A loss that is a sum."""
    return nn.functional.cross_entropy(scores, y, reduction="sum")


def r2(scores: Tensor, y: Tensor) -> Tensor:
    """A metric that broadcasts."""
    return 1 - (scores - y).square().mean() / y.var(correction=0)


class Temperature(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self, trained: bool = True) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.0), requires_grad=trained)

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(scores * self.log_scale.exp(), y)


class Weighted(nn.Module):
    """A loss with constant weights of classes, as a buffer."""

    weights: Tensor

    def __init__(self, counts: bool = False) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor([1.0, 2.0, 1.0]))
        self.register_buffer("calls", torch.zeros(()))
        self.counts = counts

    def forward(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        if self.counts:
            self.calls += 1
        return nn.functional.cross_entropy(scores, y, self.weights)


def careless(scores: Tensor, y: Tensor) -> Tensor:
    """A loss that changes the targets it is given."""
    y *= 0.5
    return (scores.squeeze(-1) - y).square().mean()


def careless_metric(scores: Tensor, y: Tensor) -> Tensor:
    """A metric that does."""
    y -= 1
    return (scores.squeeze(-1) - y).abs().mean()


def my(name: str, **arguments: Any) -> OwnConfig:
    return OwnConfig(_target_=f"{__name__}.{name}", **arguments)


def made(loss: Any, data: str = "numbers", model: Any = None, **more: Any) -> TrainingObjective:
    column = more.pop("column", False)
    arguments = {"column": True} if column else {}
    own = OwnDataConfig(_target_=f"{__name__}.{data}", **arguments)
    return objective(own, model or my("Wide"), loss=loss or LossConfig(), **more)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        my("squared"),
        OwnConfig(_target_="torch.nn.SmoothL1Loss"),
        OwnConfig(_target_="torch.nn.MSELoss"),
        OwnConfig(_target_="torch.nn.PoissonNLLLoss", log_input=False),
    ],
)
def test_a_loss_that_broadcasts_is_refused(loss: OwnConfig, flat: bool) -> None:
    """(n, 1) against (n,), either way round: one line with the cure, and no warning of torch's."""
    with pytest.raises(
        ConfigError, match=r"broadcasts scores .* let the model or the function squee"
    ):
        made(loss, model=my("Wide", flat=flat), column=flat)


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        (my("squeezed"), {}),
        (my("squared"), {"model": my("Wide", flat=True)}),
        (my("squared"), {"column": True}),
        (LossConfig(name="mse"), {}),
    ],
)
def test_a_loss_that_pairs_examples_rightly_is_taken(loss: Any, more: dict[str, Any]) -> None:
    """It squeezes itself, or shapes are the same."""
    session, _ = train(made(loss, **more), a_run(steps=60))
    assert session.points[-1].held_out_loss < 0.1


def test_a_metric_that_broadcasts_is_refused() -> None:
    """Its value would be shown for that of the pairs."""
    own = OwnMetricConfig(_target_=f"{__name__}.r2")
    with pytest.raises(ConfigError, match=r"metric r2: it broadcasts scores \(2, 1\) and targets"):
        made(LossConfig(name="mse"), metric=own)
    made(LossConfig(name="mse"), metric=own, model=my("Wide", flat=True))


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (
            my("summed"),
            "loss test_own_loss.summed: is a sum (twice as large for twice the examples)",
        ),
        (OwnConfig(_target_="torch.nn.CrossEntropyLoss", reduction="sum"), "is a sum"),
        (OwnConfig(_target_="torch.nn.CrossEntropyLoss", reduction="none"), "scalar tensor"),
        (
            my("Temperature"),
            "has weights of its own (log_scale), but a study trains only those of the m",
        ),
        (my("Weighted", counts=True), "its buffers (calls) change with each call"),
    ],
)
def test_a_loss_that_a_study_cannot_use_is_refused_with_the_cure(loss: Any, line: str) -> None:
    """One line, before anything trains."""
    with pytest.raises(ConfigError) as caught:
        made(loss, "classes", my("Wide", outputs=3))
    assert line in str(caught.value)
    assert len(caught.value.lines) == 1


CLASS_WEIGHTS = OwnConfig(_target_="torch.nn.CrossEntropyLoss", weight=[1.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "loss", [my("Temperature", trained=False), my("Weighted"), CLASS_WEIGHTS], ids=str
)
def test_a_loss_with_constant_weights_is_taken(loss: OwnConfig) -> None:
    """Buffers and frozen parameters that stay as they are."""
    session, _ = train(made(loss, "classes", my("Wide", outputs=3)), a_run(steps=60))
    assert session.points[-1].held_out_loss < 0.6


def test_targets_that_a_loss_or_a_metric_changes_in_place_stay_what_they_are() -> None:
    """Both get copies, in training, at reports and for the loss of a guess."""
    metric = OwnMetricConfig(_target_=f"{__name__}.careless_metric", larger_is_better=False)
    found = made(my("careless"), metric=metric)
    inputs, data = found._setup.inputs, found._setup.data
    parts = (inputs.train, inputs.held_out, data.train, data.held_out, data.open_test())
    before = [part.y.clone() for part in parts]
    session, _ = train(found, a_run(steps=60, opens_test=True))
    assert all(torch.equal(part.y, y) for part, y in zip(parts, before, strict=True))
    assert session.points[-1].held_out_loss < 0.01  # of half of the targets


def test_a_loss_that_is_not_a_number_everywhere_is_one_line() -> None:
    """The search for the best guess meets NaN, in which torch's own search stumbles."""
    loss = OwnConfig(_target_="torch.nn.PoissonNLLLoss", log_input=False)
    with pytest.raises(ConfigError, match="for the best constant prediction; it must be a finite"):
        made(loss, model=my("Wide", flat=True))


class Square(nn.Module):
    """As many classes as places: the layout of the scores can be read in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, length, classes)."""
        scores: Tensor = self.head(self.embedding(x))
        return scores


def sequences() -> Any:
    """Five tokens of five kinds, each to be told again."""
    x = np.random.default_rng(0).integers(0, 5, (N, 5))
    return x, x, x[:60], x[:60]


def test_scores_that_can_be_read_in_two_ways_are_told() -> None:
    """Classes last are what is taken."""
    found = made(None, "sequences", my("Square"))
    told = "Scores (2, 5, 5) are taken with the classes last."
    assert told in found.describe().notes
    assert train(found, a_run(steps=100))[0].points[-1].metric == 1.0
