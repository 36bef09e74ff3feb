"""The named networks, made for the data: small images of any number of channels, or features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import ModelConfig
from orchestrator.config.user_code import build as build_own
from orchestrator.config.user_code import raised
from orchestrator.errors import ConfigError
from orchestrator.training import fit
from orchestrator.training.data.parts import Data
from orchestrator.training.task import CLASSIFY, Task

SOME = 64  # targets that a loss of the user's own is tried on


class ModelError(ConfigError):
    """The network cannot be built for these data, or cannot be trained; one line says why."""


def build(config: ModelConfig | OwnConfig, data: Data) -> nn.Module:
    """Return the network with fresh weights from torch's global random state, on the CPU.

    The user's own callable is offered `num_classes` (the same as `num_outputs`) and `input_shape`.
    Raises ModelError.
    """
    if isinstance(config, OwnConfig):
        count, shape = data.classes, data.input_shape
        made = build_own(config, num_classes=count, num_outputs=count, input_shape=shape)
        if not isinstance(made, nn.Module):
            raise ModelError(f"model {config.target}: gives a {type(made).__name__}, no nn.Module")
        return _materialised(made, data)
    if data.tokens:
        raise ModelError(
            f"model.name={config.name}: whole-number inputs {data.input_shape} are tokens, for a"
            " network of your own with an embedding; if they are features, give them as floats"
        )
    if config.name != "mlp" and len(data.input_shape) != 3:
        what, cure = "features", ""
        if len(data.input_shape) == 2:
            sides = ", ".join(map(str, data.input_shape))
            what, cure = f"signals (n, {sides})", f"; grey images are to come as (n, 1, {sides})"
        raise ModelError(f"model.name={config.name}: needs images, these are {what}: use mlp{cure}")
    return NETWORKS[config.name](config, data.input_shape, data.classes)


def _materialised(made: nn.Module, data: Data) -> nn.Module:
    """Return the network with the weights of lazy layers made, by two examples."""
    if any(isinstance(p, UninitializedParameter) for p in made.parameters()):
        training = made.training
        with torch.no_grad():
            _scores(made.eval(), data.sample().x, data)
        made.train(training)
    return made


def check(model: nn.Module, data: Data, task: Task = CLASSIFY) -> bool:
    """Try the network on two examples, return whether it also takes images laid out channels last.

    Raises ModelError or TaskError, one line, if it cannot learn these targets. (`view` in a user's
    forward may refuse the other layout.)
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("model: it has no parameters that can be trained (requires_grad)")
    x, y = data.sample()
    if data.tokens:
        x = data.extreme_tokens()
    scores = _scores(model.eval(), x.clone(), data)
    fit.check_shape(task, scores, y, data.classes)
    assert isinstance(scores, Tensor)
    if not scores.requires_grad:  # detached, whole numbers, or parameters that are not used
        raise ModelError("model: its scores do not depend on parameters that can be trained")
    if not torch.isfinite(scores).all():
        raise ModelError("model: it gives NaN or infinite scores before any training")
    fit.try_out(task, scores, y, data.train.y[:SOME])
    if x.dim() != 4:
        return False
    try:
        _tried(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def _scores(model: nn.Module, x: Tensor, data: Data) -> object:
    """Return what the network gives. Raises ModelError, one line, for whatever it raises."""
    try:
        return model(x)
    except (Exception, SystemExit) as error:
        problem = f"model: it cannot take inputs {data.input_shape}: {raised(error)}"
        if data.tokens:
            low, high = int(x.min()), int(x.max())
            problem += (
                f"; whole numbers are taken as tokens, here {low} to {high} (an embedding of"
                f" {high + 1}), give features as floats"
            )
        raise ModelError(problem) from error


@torch.no_grad()
def _tried(model: nn.Module, x: Tensor) -> object:
    return model(x)


def _dropouts(model: nn.Module) -> list[nn.modules.dropout._DropoutNd]:
    """Return the dropout modules (nn.Dropout, Dropout2d, AlphaDropout, ...), also a user's own.

    Dropout that is an argument of another module (of attention, of an LSTM) is not among them.
    """
    return [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]


def dropout_of(model: nn.Module) -> float | None:
    """Return the largest probability of the model's dropout modules, None if it has none."""
    return max((float(m.p) for m in _dropouts(model)), default=None)


def set_dropout(model: nn.Module, p: float | None) -> None:
    """Set the probability of all dropout modules to `p`; None leaves them as they are."""
    if p is not None:
        for module in _dropouts(model):
            module.p = p


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def mlp(config: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return two hidden layers of 128 units (times `width`), ReLU."""
    hidden = _scaled(128, config.width)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(torch.Size(shape).numel(), hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(hidden, classes),
    )


def conv3(config: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the paper's 3-layer net: 5x5 convolutions of 32, 32 and 64 channels, no batch norm.

    Source: Caffe's `cifar10_full`, without its response normalisation; pools of 2 for its 3 with
    overlap, rounding up so that images of any size work.
    """
    low, high = _scaled(32, config.width), _scaled(64, config.width)
    side = [-(-size // 8) for size in shape[1:]]
    return nn.Sequential(
        nn.Conv2d(shape[0], low, 5, padding=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(low, low, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(low, high, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(high * side[0] * side[1], classes),
    )


def _conv_bn(inputs: int, outputs: int, *more: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(), *more)


class Residual(nn.Module):
    """Adds what `body` makes of the input to the input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return x + body(x)."""
        return x + self.body(x)  # type: ignore[no-any-return]


class MaxHead(nn.Module):
    """The largest value of each channel, then a linear layer whose scores are scaled down."""

    def __init__(self, inputs: int, classes: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(inputs, classes, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, classes) of feature maps (n, inputs, h, w)."""
        return self.linear(self.dropout(x.amax((2, 3)))) * self.scale  # type: ignore[no-any-return]


def resnet9(config: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the fast 9-layer ResNet, channels 64 to 512 (times `width`).

    Source: David Page, "How to train your ResNet" (DAWNBench CIFAR-10), without its whitening.
    """
    a, b, c, d = (_scaled(channels, config.width) for channels in (64, 128, 256, 512))
    pool = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(
        _conv_bn(shape[0], a),
        _conv_bn(a, b, pool),
        Residual(nn.Sequential(_conv_bn(b, b), _conv_bn(b, b))),
        _conv_bn(b, c, pool),
        _conv_bn(c, d, pool),
        Residual(nn.Sequential(_conv_bn(d, d), _conv_bn(d, d))),
        MaxHead(d, classes, config.dropout, scale=0.125),
    )


def resnet18(config: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3x3 first layer and no first pooling (small images)."""
    if config.width != 1:
        raise ModelError(f"model.width={config.width}: resnet18 is torchvision's, of width 1 only")
    from torchvision.models import resnet18 as torchvision_resnet18

    net: nn.Module = torchvision_resnet18(num_classes=classes)
    net.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    if config.dropout:
        net.fc = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(512, classes))
    return net


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut has no weights: every second pixel, zeros for channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.more = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, outputs, h / stride, w / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(out + x)


def resnet56(config: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the CIFAR ResNet-56: three groups of nine blocks, channels 16, 32, 64 (x `width`).

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2, shortcuts of option A.
    """
    a, b, c = (_scaled(channels, config.width) for channels in (16, 32, 64))
    if not a < b < c:
        raise ModelError(f"model.width={config.width}: too small for resnet56, need 0.1 or more")
    sizes = [a] * 10 + [b] * 9 + [c] * 9
    blocks = [BasicBlock(i, o) for i, o in pairwise(sizes)]
    net = nn.Sequential(
        _conv_bn(shape[0], a),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(c, classes),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


Network = Callable[[ModelConfig, tuple[int, ...], int], nn.Module]
NETWORKS: dict[str, Network] = {f.__name__: f for f in (mlp, conv3, resnet9, resnet18, resnet56)}
