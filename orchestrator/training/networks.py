"""The built-in networks, for small images with any number of channels, or features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.config.sections import ModelConfig
from orchestrator.training.compatibility import ModelError


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

    Source: Caffe's `cifar10_full`, without its response normalisation; pooling of size 2 instead of
    3 with overlap, rounding up so that images of any size work.
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
    """A residual connection: x + body(x)."""

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
    """Two 3x3 convolutions; the shortcut has no weights: strided, with zero-padded channels."""

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
