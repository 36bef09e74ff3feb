"""Two real training steps before anything else: what only training shows is one line, or works."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.optimizer import AdamWConfig, OptimizerConfig, OwnOptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.config.sections import LossConfig, OwnDataConfig, TrainingConfig
from orchestrator.errors import ConfigError
from orchestrator.plan import plan_study
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Trainer
from tests.trainings import a_run, objective, train

N = 300
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 8)).astype("float32")


def features() -> Any:
    """A user's classification."""
    y = (X[:, 0] > X[:, 1]).astype(int)
    return X, y, X[:60], y[:60]


def words() -> Any:
    """Twelve tokens of fifty, and whether small ones are among them; 49 in one example alone."""
    x = np.random.default_rng(0).integers(0, 49, (N, 12))
    x[123, 5] = 49
    y = ((x < 10).sum(1) > 2).astype(int)
    return x, y, x[:60], y[:60]


def bytes_as_words() -> Any:
    """Tokens in the type that is taken for features."""
    x, y, x_test, y_test = words()
    return x.astype(np.uint8), y, x_test.astype(np.uint8), y_test


def waves() -> Any:
    """Signals, to be smoothed."""
    f = np.fft.rfft(X.reshape(N, 1, 8), axis=-1)
    f[..., 3:] = 0
    y = np.fft.irfft(f, n=8, axis=-1).astype("float32")
    x = X.reshape(N, 1, 8)
    return x, y, x[:60], y[:60]


class TwoHeads(nn.Module):
    """A second head in training mode alone, as in Inception and GoogLeNet."""

    def __init__(self, num_classes: int, how: str = "tuple", always: bool = False) -> None:
        super().__init__()
        self.body, self.how, self.always = nn.Linear(8, 16), how, always
        self.head, self.aux = nn.Linear(16, num_classes), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Any:
        """Return scores, or both."""
        hidden = self.body(x).relu()
        scores = self.head(hidden)
        if not self.training and not self.always:
            return scores
        ways: dict[str, Callable[[], Any]] = {
            "tuple": lambda: (scores, self.aux(hidden)),
            "dict": lambda: {"out": scores},
            "shape": lambda: scores[:, :1],
            "nan": lambda: scores * torch.nan,
            "raises": lambda: scores.unflatten(0, (3, -1)),
            "backward": lambda: _NoBackward.apply(scores),  # type: ignore[no-untyped-call]
        }
        return ways[self.how]()


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: D102
        return x * 1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: D102
        raise NotImplementedError("no gradient of this")


def both(outputs: Any, y: Tensor) -> Tensor:
    """A loss that takes what a network with two heads gives, in both modes."""
    cross_entropy = nn.functional.cross_entropy
    if isinstance(outputs, tuple):
        return cross_entropy(outputs[0], y) + 0.3 * cross_entropy(outputs[1], y)
    return cross_entropy(outputs, y)


class Bag(nn.Module):
    """A network on tokens."""

    def __init__(self, num_classes: int, sparse: bool = False, size: int = 50) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(size, 16, sparse=sparse), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.head(self.bag(x))
        return scores


class Stateful(nn.Module):
    """A recurrent network that goes on where the last batch ended, with its graph."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 16), nn.Linear(16, num_classes)
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        known = self.hidden is not None and len(self.hidden) == len(x)
        self.hidden = self.cell(x, self.hidden if known else None)
        scores: Tensor = self.head(self.hidden)
        return scores


class OfType(nn.Module):
    """A network whose weights are of another type than its inputs."""

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.head = nn.Linear(8, num_classes, dtype=getattr(torch, kind))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.head(x)
        return scores


class InPlace(nn.Module):
    """A network that changes what its backward pass needs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        hidden = self.body(x).sigmoid()
        scores: Tensor = self.head(hidden)
        hidden += 1
        return scores


class Spectral(nn.Module):
    """A Fourier layer with complex weights, as in neural operators."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 1, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, dtype=torch.cfloat) / 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smoothed signal."""
        h = torch.fft.rfft(self.inner(x))
        o = torch.zeros_like(h)
        o[..., :3] = torch.einsum("bim,iom->bom", h[..., :3], self.weight)
        scores: Tensor = self.outer(torch.fft.irfft(o, n=x.shape[-1]))
        return scores


class Shifted(Bag):
    """A network that makes room for padding in place."""

    def __init__(self, num_classes: int, in_place: bool = True) -> None:
        super().__init__(num_classes, size=51)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        if self.in_place:
            x += 1
        return super().forward(x if self.in_place else x + 1)


def lazy(num_classes: int) -> nn.Module:
    """A network whose first layer takes its size from the data."""
    return nn.Sequential(
        nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(16, num_classes)
    )


def my(name: str, **arguments: Any) -> OwnConfig:
    return OwnConfig(_target_=f"{__name__}.{name}", **arguments)


def made(data: str, model: OwnConfig, **more: Any) -> TrainingObjective:
    return objective(OwnDataConfig(_target_=f"{__name__}.{data}"), model, **more)


@pytest.mark.parametrize(
    ("data", "model", "more", "line"),
    [
        (
            "features",
            my("TwoHeads"),
            {},
            "model: in training mode it returns a tuple (Tensor, Tensor), in eval mode a"
            " tensor: return the scores alone, or use a loss of your own, which gets both",
        ),
        ("features", my("TwoHeads", how="dict"), {}, "in training mode it returns a dict"),
        (
            "features",
            my("TwoHeads", how="shape"),
            {},
            "in training mode: model: must return one sc",
        ),
        ("features", my("TwoHeads", how="nan"), {}, "in training mode its loss is nan before any"),
        ("features", my("TwoHeads", how="raises"), {}, "a training step on 2 examples raised Runt"),
        ("features", my("TwoHeads", how="backward"), {}, "raised NotImplementedError: no gradient"),
        (
            "features",
            my("Stateful"),
            {},
            ": it keeps tensors of the step before: .detach() them",
        ),
        ("features", my("OfType", kind="bfloat16"), {}, "; inputs come as float32, and its weigh"),
        ("features", my("OfType", kind="float64"), {}, "weights are torch.float64: leave them flo"),
        ("bytes_as_words", my("Bag"), {}, "(n, length) are features: give tokens as int64"),
        ("features", my("TwoHeads", how="tuple", always=True), {}, "got 2 values (Tensor, Tensor"),
        ("features", my("TwoHeads", how="dict", always=True), {}, "got a dict with keys out: let"),
        ("features", my("TwoHeads", how="shape", always=True), {}, "0 or 1: loss=bce_with_logits"),
        ("features", my("InPlace"), {}, "modified by an inplace operation"),
        ("words", my("Bag", sparse=True), {"optimizer": AdamWConfig()}, "which adamw cannot take"),
        (
            "words",
            my("Bag", size=49),
            {},
            "are taken as tokens, here 0 to 49 (an embedding of 50), give features as floats",
        ),
        (
            "features",
            my("TwoHeads", how="tuple"),
            {"loss": OwnConfig(_target_="torch.nn.CrossEntropyLoss")},
            "a training step on 2 examples raised TypeError",
        ),
    ],
)
def test_what_only_training_shows_is_one_line(
    data: str, model: OwnConfig, more: dict[str, Any], line: str
) -> None:
    """Before the first run, with the cure where one is known."""
    with pytest.raises(ConfigError) as caught:
        made(data, model, **more)
    assert line in str(caught.value)
    assert len(caught.value.lines) == 1
    assert "\n" not in caught.value.lines[0]


def test_a_dry_run_tells_it_too(here: Any) -> None:
    """The same line."""
    config = {
        "data": {"_target_": f"{__name__}.features"},
        "model": {"_target_": f"{__name__}.TwoHeads"},
    }
    with pytest.raises(ConfigError, match="in training mode it returns a tuple"):
        plan_study(Config.from_mapping(config))


def steps(**changes: Any) -> Any:
    return a_run(steps=80, batch_size=20, **changes)


SGD, ADAMW = OptimizerConfig(), AdamWConfig()


@pytest.mark.parametrize("optimizer", [SGD, ADAMW, OptimizerConfig(ema=0.9, max_grad_norm=1.0)])
def test_complex_weights_are_trained(optimizer: Any) -> None:
    """Not fused, where torch has no fused optimiser for them; averaged as the others are."""
    found = made("waves", my("Spectral"), loss=LossConfig(name="mse"), optimizer=optimizer)
    session, _ = train(found, steps())
    assert session.points[-1].held_out_loss < 0.2 * found.facts.chance_loss


@pytest.mark.parametrize("optimizer", [SGD, OptimizerConfig(ema=0.9), ADAMW])
def test_lazy_layers_are_trained(optimizer: Any) -> None:
    """Their weights are made before the optimiser and the average ask for them; runs repeat."""
    first, second = (
        train(made("features", my("lazy"), optimizer=optimizer), steps())[0] for _ in range(2)
    )
    assert first.points[-1].metric > 0.9
    assert [p.train_loss for p in first.points] == [p.train_loss for p in second.points]


def test_an_average_of_complex_weights_is_one() -> None:
    """Their mean over the last steps, not the last of them."""
    found = made(
        "waves", my("Spectral"), loss=LossConfig(name="mse"), optimizer=OptimizerConfig(ema=0.99)
    )
    trainer = Trainer(found._setup, steps())
    trainer.advance(20)
    assert trainer.average is not None
    last, mean = (m.get_parameter("weight") for m in (trainer.model, trainer.average.model))
    assert not torch.allclose(last, mean)


def test_two_heads_are_trained_by_a_loss_that_takes_both() -> None:
    """A loss of the user's own gets what the network gives."""
    session, _ = train(made("features", my("TwoHeads"), loss=my("both")), steps())
    assert session.points[-1].held_out_loss < 0.5


def test_sparse_gradients_are_trained_by_sgd_without_their_weight_decay() -> None:
    """Not fused, for torch's fused step takes none; the other weights do decay."""
    made_of = made("words", my("Bag", sparse=True))
    session, _ = train(made_of, steps())
    losses = [p.train_loss for p in session.points]
    assert losses[-1] < losses[0]
    optimizer = Trainer(made_of._setup, steps()).optimizer
    assert {len(g["params"]): g["weight_decay"] for g in optimizer.param_groups}[1] == 0
    assert not optimizer.defaults["fused"]


def test_sparse_gradients_go_to_an_optimiser_that_takes_them() -> None:
    """Of the user's own: without weight decay in the sparse part torch's does."""

    mine = OwnOptimizerConfig(_target_=f"{__name__}.Dense")
    session, _ = train(made("words", my("Bag", sparse=True), optimizer=mine), steps())
    assert session.points[-1].metric > 0.6


class Dense(torch.optim.SGD):
    """An optimiser that makes sparse gradients dense."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Make a step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_dense()
        return super().step(closure)


@pytest.mark.parametrize("resident", [True, False])
def test_tokens_that_a_network_changes_in_place_stay_what_they_are(resident: bool) -> None:
    """The same losses as out of place, with an embedding that is as large as it has to be."""
    how = TrainingConfig(resident=resident)
    one, two = (made("words", my("Shifted", in_place=way), objective=how) for way in (True, False))
    data = one._setup.data
    before = [part.x.clone() for part in (data.train, data.held_out, data.open_test())]
    first, second = (train(m, steps(opens_test=True))[0] for m in (one, two))
    assert [p.held_out_loss for p in first.points] == [p.held_out_loss for p in second.points]
    parts = (data.train, data.held_out, data.open_test())
    assert all(torch.equal(part.x, x) for part, x in zip(parts, before, strict=True))


def test_features_that_a_network_changes_in_place_stay_what_they_are() -> None:
    """Also those that the network is tried on."""

    found = made("features", my("Subtracting"))
    before = torch.tensor(X)
    rows = {tuple(row) for row in before.tolist()}
    train(found, steps())
    assert {tuple(row) for row in found._setup.data.train.x.tolist()} <= rows


class Subtracting(nn.Linear):
    """A network that centres its input in place."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x -= x.mean(1, keepdim=True)
        return super().forward(x)


def test_a_frozen_batch_norm_of_a_study_is_evaluated_with_its_own_statistics() -> None:
    """A network whose `train` keeps it in eval mode, as those do that are fine-tuned."""
    found = made("features", my("Tuned"))
    session, _ = train(found, steps(kind="ramp"))
    assert session.points[0].held_out_loss > 5  # of statistics far off; the batch's would give .7


class Tuned(nn.Module):
    """A network with a batch norm that stays as it is."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, num_classes)
        self.norm.running_mean.fill_(100.0)  # type: ignore[union-attr]

    def train(self, mode: bool = True) -> Any:
        """Keep the batch norm as it is."""
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.head(self.norm(x))
        return scores


def test_one_held_out_example_is_enough_for_batch_norm() -> None:
    """It is evaluated with the running statistics."""
    data = OwnDataConfig(_target_=f"{__name__}.features", held_out_examples=1)
    session, _ = train(objective(data, my("lazy")), steps())
    assert len(session.points) == 4


def test_a_loss_of_zero_is_the_smallest_there_is() -> None:
    """Separable data: losses stay above 0, for they are compared by factors, and end in ties."""
    found = made("separable", my("lazy"))
    session, result = train(found, steps(opens_test=True))
    least = 1e-7 * found.facts.chance_loss
    assert session.points[-1].held_out_loss >= least
    assert result.test_loss >= least


def separable() -> Any:
    """Two clusters far apart."""
    y = np.arange(N) % 2
    x = X / 3
    x[:, 0] += 300 * (2 * y - 1)
    return x, y, x[:60], y[:60]
