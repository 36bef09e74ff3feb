from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.training.data.parts import Data, Part
from orchestrator.training.models import (
    NETWORKS,
    ModelError,
    build,
    check,
    dropout_of,
    is_random,
    set_dropout,
)


def data(*shape: int, classes: int = 10) -> Data:
    """Return a few examples of that shape."""
    x = torch.zeros(4, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
    part = Part(x, torch.arange(4) % classes)
    mean = torch.zeros(shape[0])
    return Data(part, part, classes, mean, mean + 1, "zeros", "", "", _test=part)


def own(name: str, **arguments: Any) -> OwnConfig:
    return OwnConfig(_target_=f"{__name__}.{name}", **arguments)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 32, 32), (4, 28, 28)])
def test_every_network_takes_small_images(name: str, shape: tuple[int, ...]) -> None:
    """Any channel count and size: right scores, a gradient for every parameter, both layouts."""
    found = data(*shape, classes=7)
    width = 1.0 if name == "resnet18" else 0.25
    model = build(ModelConfig(name=name, width=width), found)  # type: ignore[arg-type]
    assert check(model, found)
    model.train()(torch.randn(2, *shape)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("mlp", 0.411), ("conv3", 0.0896), ("resnet9", 6.57), ("resnet18", 11.2), ("resnet56", 0.853)],
)
def test_networks_have_their_published_size(name: str, millions: float) -> None:
    """On CIFAR-10, in millions, as in the sources: resnet9 6.6, resnet18 11.2, resnet56 .85."""
    model = build(ModelConfig(name=name), data(3, 32, 32))  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_before_the_last_layer(name: str) -> None:
    """In training mode two passes differ, in eval mode they agree."""
    model = build(ModelConfig(name=name, dropout=0.5), data(3, 8, 8))  # type: ignore[arg-type]
    x = torch.randn(8, 3, 8, 8)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_the_same_random_state_gives_the_same_weights() -> None:
    """Weights come from torch's global random state alone."""
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(build(ModelConfig(name="conv3"), data(3, 8, 8)))
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in nets), strict=True))


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (ModelConfig(name="conv3"), (5,), "model.name=conv3: needs images"),
        (ModelConfig(name="conv3"), (8, 8), r"give grey images as \(n, 1, 8, 8\)"),
        (ModelConfig(name="resnet18", width=0.5), (3, 8, 8), "model.width=0.5"),
        (ModelConfig(name="resnet56", width=0.01), (3, 8, 8), "model.width=0.01"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(
    config: ModelConfig, shape: tuple[int, ...], message: str
) -> None:
    """The message names the key and the value."""
    with pytest.raises(ModelError, match=message):
        build(config, data(*shape))


def linear(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """A user's function that takes what is offered."""
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), num_classes))


def fixed() -> nn.Module:
    """A user's function that takes nothing: right for 3 classes only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def frozen() -> nn.Module:
    """A network without anything to train."""
    return fixed().requires_grad_(False)


class Oops(nn.Linear):
    """A network with a mistake."""

    def forward(self, x: Tensor) -> Tensor:
        """Raise."""
        raise KeyError("oops")


def oops() -> nn.Module:
    """A user's function that gives it."""
    return Oops(64, 3)


def nothing() -> str:
    """Not a network."""
    return "net"


class Viewing(nn.Module):
    """A network whose `view` refuses images laid out channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        out: Tensor = self.linear(self.conv(x).view(x.size(0), -1))
        return out


def test_the_users_network_gets_what_it_asks_for() -> None:
    """Class count and input shape are passed by name, to callables that take them."""
    found = data(1, 8, 8, classes=3)
    for name in ("linear", "fixed"):
        check(build(own(name), found), found)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("fixed", (1, 8, 8), r"one score per class, shape \(examples, 4\), got \(2, 3\)"),
        ("fixed", (1, 9, 9), r"cannot take inputs \(1, 9, 9\)"),
        (
            "oops",
            (64,),
            r"cannot take inputs \(64,\): KeyError: 'oops' \(test_models.py, line \d+\)$",
        ),
        ("frozen", (1, 8, 8), "no parameters that can be trained"),
        ("nothing", (1, 8, 8), "returns a str, not an nn.Module"),
    ],
)
def test_an_unusable_network_is_refused_in_one_line(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    """Wrong scores, wrong input, nothing to train, no network."""
    found = data(*shape, classes=4)
    with pytest.raises(ConfigError, match=message) as caught:
        check(build(own(name), found), found)
    assert "\n" not in str(caught.value)


def test_features_given_as_whole_numbers_are_told_apart() -> None:
    """A layer's complaint about types does not say that whole numbers were taken as tokens."""
    found = data(64, classes=3)
    tokens = replace(found, train=Part(found.train.x.long(), found.train.y))
    with pytest.raises(ModelError, match=r"tokens, here 0 to 0 .*, give features as floats$"):
        check(build(own("fixed"), tokens), tokens)


def test_a_network_that_views_its_input_keeps_the_usual_layout(tmp_path: Path) -> None:
    """`check` says so instead of failing: such networks are common in users' code."""
    found = data(2, 8, 8, classes=3)
    assert not check(build(own("Viewing"), found), found)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "resnet18"])
def test_every_network_has_a_dropout_module_to_set(name: str) -> None:
    """Also at probability 0, where it does nothing and draws nothing; resnet18 only above 0."""
    model = build(ModelConfig(name=name), data(3, 8, 8))  # type: ignore[arg-type]
    assert dropout_of(model) == 0
    x, state = torch.randn(8, 3, 8, 8), torch.get_rng_state()
    model.train()(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_all_modules_is_set_also_of_a_users_own() -> None:
    """Every kind of dropout module, however deep; None leaves each as it is."""
    own = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout2d(0.4), nn.AlphaDropout(0.2)))
    assert dropout_of(own) == 0.4
    set_dropout(own, None)
    assert [m.p for m in own.modules() if hasattr(m, "p")] == [0.1, 0.4, 0.2]
    set_dropout(own, 0.3)
    assert [m.p for m in own.modules() if hasattr(m, "p")] == [0.3, 0.3, 0.3]
    assert dropout_of(nn.Linear(2, 2)) is None


def made(seed: int, loaded: bool) -> nn.Module:
    """Return a network with a new last layer; `loaded`: its other weights come from a file."""
    torch.manual_seed(0 if loaded else seed)
    body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    torch.manual_seed(seed)
    return nn.Sequential(body, nn.Linear(64, 10))


def test_weights_that_do_not_depend_on_the_seed_were_loaded() -> None:
    """Most of them decide; constant ones, as of biases and norms, say nothing."""
    assert is_random(made(1, loaded=False), made(2, loaded=False))
    assert not is_random(made(1, loaded=True), made(2, loaded=True))
    norms = [nn.Sequential(nn.BatchNorm1d(500), nn.Linear(8, 2)) for _ in range(2)]
    assert is_random(*norms)
