"""airbench94: a network and a recipe that reach 94 % on CIFAR-10 in seconds, and their own loop.

Source: Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498), and
airbench94.py in github.com/KellerJordan/cifar10-airbench (copyright 2024 Keller Jordan, MIT
licence). Written anew; network, hyper-parameters and order of work are those of the source:

- 2x2 whitening convolution, fixed, from the training images' patches; its bias learns 3 epochs
- three groups of (3x3 convolution, 2x2 pool, norm, GELU, convolution, norm, GELU), widths 64, 256,
  256; the first filters start as the identity; batch norm without weights, scores times 1/9
- images mirrored every other epoch (Jordan's alternating flip), shifted by up to 2 pixels
- SGD, Nesterov, half precision; loss summed over the batch, label smoothing .2
- lr: a triangle, .2 -> 1 -> .07 of its maximum, the top at 23 % of the run; that of the norms'
  biases 64 times as high at the same decay
- from epoch 3 every 5 steps a slow copy of the weights is moved, and copied back (lookahead)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.schedules import Rates, Schedule
from orchestrator.training.data.parts import Part

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10, of 0..1


@dataclass(frozen=True)
class Recipe94:
    """The hyper-parameters. `lr`, `weight_decay`: decoupled, per 1,024 examples."""

    epochs: float = 9.9
    batch_size: int = 1024
    lr: float = 11.5
    momentum: float = 0.85
    weight_decay: float = 0.0153
    bias_scale: float = 64.0
    label_smoothing: float = 0.2
    whitening_epochs: int = 3
    slow_from_epoch: int = 3
    slow_every: int = 5
    slow_decay: float = 0.95
    slow_power: float = 3.0
    translate: int = 2
    width: int = 64

    @property
    def summed_lr(self) -> float:
        """torch's lr for a loss that is summed over the batch."""
        return self.lr / (1024 * (1 + 1 / (1 - self.momentum)))

    @property
    def mean_lr(self) -> float:
        """torch's lr for a loss that is the batch's mean."""
        return self.summed_lr * self.batch_size

    @property
    def summed_decay(self) -> float:
        """torch's weight decay for a summed loss."""
        kilostep = 1024 * (1 + 1 / (1 - self.momentum))
        return self.weight_decay * self.batch_size / kilostep / self.summed_lr

    @property
    def mean_decay(self) -> float:
        """torch's weight decay for the batch's mean loss."""
        return self.summed_decay / self.batch_size

    def steps_per_epoch(self, examples: int) -> int:
        """Return the whole batches in an epoch."""
        return examples // self.batch_size

    def steps(self, examples: int) -> int:
        """Return the steps of a run."""
        return math.ceil(self.steps_per_epoch(examples) * self.epochs)


@dataclass(frozen=True)
class Triangle(Schedule):
    """lr rises from .2 of its maximum to all of it at 23 % of the run, then falls to .07 of it."""

    @classmethod
    def of(cls, recipe: Recipe94) -> Triangle:
        """Return the schedule of a recipe whose loss is the batch's mean."""
        return cls("constant", recipe.mean_lr, recipe.mean_lr, recipe.momentum, recipe.momentum)

    def at(self, progress: float) -> Rates:
        """Return lr and momentum at `progress`."""
        return Rates(self.max_lr * height(progress), self.max_momentum)

    def spec(self) -> dict[str, Any]:
        """Return name and bounds as plain values."""
        return {**vars(self), "name": "airbench's triangle"}


def height(progress: float) -> float:
    """Return lr as a fraction of its maximum at `progress`."""
    top = 0.23
    if progress < top:
        return 0.2 + 0.8 * progress / top
    return 1 - 0.93 * (progress - top) / (1 - top)


# --- the network


class Norm(nn.BatchNorm2d):
    """Batch norm without weights. Its bias is `gain` times its parameter.

    SGD on that parameter is SGD on the bias with `gain`^2 times the lr and the same decay: what the
    source does by parameter groups works in any loop.
    """

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Return x with mean 0 and variance 1, plus the bias."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias * self.gain,
            self.training or self.running_mean is None,  # reports may want the batch's
            self.momentum or 0.0,
            self.eps,
        )


class Whitening(nn.Conv2d):
    """Patches of 2x2 pixels, decorrelated, with both signs; from the first batch that it sees.

    Its bias learns for the first `steps` training steps.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(3, 24, 2)
        self.weight.requires_grad = False
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.steps, self.seen = steps, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, 24, h - 1, w - 1) of images (n, 3, h, w)."""
        assert self.bias is not None
        if not self.training:
            return super().forward(x)
        if self.seen == 0:
            self.fit(x)
        self.seen += 1
        bias = self.bias if self.seen <= self.steps else self.bias.detach()
        return F.conv2d(x, self.weight, bias)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Whiten the patches of images."""
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse for this
            patches = F.unfold(x.float(), 2).transpose(1, 2).flatten(0, 1)  # (patches, 12)
            values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        whitened = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(12, 3, 2, 2)
        self.weight.copy_(torch.cat([whitened, -whitened]))


class Scaled(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return x * self.factor


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(made.weight[:inputs])  # passes its input on
    return made


def network(
    num_classes: int = 10,
    width: int = 64,
    whitening_steps: int = 10**9,
    bias_scale: float = 64.0,
) -> nn.Module:
    """Return the network for images of 32x32."""
    gain, layers, inputs = math.sqrt(bias_scale), [], 24
    for outputs in (width, 4 * width, 4 * width):
        layers += [
            _conv(inputs, outputs),
            nn.MaxPool2d(2),
            Norm(outputs, gain),
            nn.GELU(),
            _conv(outputs, outputs),
            Norm(outputs, gain),
            nn.GELU(),
        ]
        inputs = outputs
    return nn.Sequential(
        Whitening(whitening_steps),
        nn.GELU(),
        *layers,
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes, bias=False),
        Scaled(1 / 9),
    )


# --- its own loop


class Batches:
    """Training batches: padded once, shifted anew each epoch, mirrored every other one."""

    def __init__(self, x: Tensor, y: Tensor, recipe: Recipe94) -> None:
        self.y, self.recipe, self.epoch = y, recipe, 0
        flip = torch.rand(len(x), device=x.device) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        self.size, pad = x.shape[-1], recipe.translate
        self.padded = F.pad(x, (pad,) * 4, mode="reflect")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next epoch."""
        n, device, batch = len(self.y), self.y.device, self.recipe.batch_size
        top, left = torch.randint(2 * self.recipe.translate + 1, (2, n), device=device)
        windows = self.padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        order = torch.randperm(n, device=device)
        x = windows[order, :, top, left]
        if self.epoch % 2:
            x = x.flip(3)
        x = x.contiguous(memory_format=torch.channels_last)
        y = self.y[order]
        self.epoch += 1
        for start in range(0, n - batch + 1, batch):
            yield x[start : start + batch], y[start : start + batch]


class Slow:
    """A slow copy of all weights and statistics (lookahead)."""

    def __init__(self, net: nn.Module) -> None:
        self.fast = [v for v in net.state_dict().values() if v.is_floating_point()]
        self.slow = [v.clone() for v in self.fast]

    def update(self, decay: float) -> None:
        """Move the slow copy towards the weights, then the weights to it."""
        for slow, fast in zip(self.slow, self.fast, strict=True):
            slow.lerp_(fast, 1 - decay)
            fast.copy_(slow)


def normalised(part: Part, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return images, channels last, and labels on the device."""
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (part.x.to(device).float() / 255 - mean) / std
    return x.to(dtype).contiguous(memory_format=torch.channels_last), part.y.to(device)


def train(
    images: tuple[Tensor, Tensor], recipe: Recipe94, seed: int
) -> tuple[nn.Module, float, float]:
    """Return the trained network, seconds and end loss; `images` are on the device already."""
    torch.manual_seed(seed)
    x, y = images
    started = _now(x.device)
    steps, per_epoch = recipe.steps(len(y)), recipe.steps_per_epoch(len(y))
    net = network(10, recipe.width, recipe.whitening_epochs * per_epoch, bias_scale=1.0)
    net = net.to(x.device, x.dtype, memory_format=torch.channels_last).train()
    for module in net.modules():
        if isinstance(module, Norm):
            module.float()
    net[0].fit(x[:5000])
    net[0].seen = 1
    optimizer = _optimizer(net, recipe)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches, slow, done = Batches(x, y, recipe), None, 0
    loss = torch.zeros(())
    for epoch in range(math.ceil(recipe.epochs)):
        for inputs, labels in batches:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * height(done / steps)
            loss = F.cross_entropy(
                net(inputs), labels, label_smoothing=recipe.label_smoothing, reduction="none"
            ).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
            if epoch >= recipe.slow_from_epoch and done % recipe.slow_every == 0:
                if slow is None:
                    slow = Slow(net)
                else:
                    base = recipe.slow_decay**recipe.slow_every
                    slow.update(base * (done / steps) ** recipe.slow_power)
            if done == steps:
                break
        if slow is not None:
            slow.update(1.0)
    seconds = _now(x.device) - started
    return net, seconds, float(loss.detach()) / recipe.batch_size


def _optimizer(net: nn.Module, recipe: Recipe94) -> torch.optim.SGD:
    biases = {id(m.bias): m.bias for m in net.modules() if isinstance(m, Norm)}
    others = [p for p in net.parameters() if p.requires_grad and id(p) not in biases]
    lr, decay = recipe.summed_lr, recipe.summed_decay
    groups = [
        {
            "params": list(biases.values()),
            "lr": lr * recipe.bias_scale,
            "weight_decay": decay / recipe.bias_scale,
        },
        {"params": others, "lr": lr, "weight_decay": decay},
    ]
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=True)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# --- its test


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, *, augment: bool) -> float:
    """Return the fraction that is right; `augment`: over six views (mirrored, shifted by 1)."""
    net.eval()
    right = 0
    for inputs, labels in zip(x.split(2000), y.split(2000), strict=True):
        scores = _six_views(net, inputs) if augment else net(inputs)
        right += int((scores.argmax(1) == labels).sum())
    return right / len(y)


def _six_views(net: nn.Module, x: Tensor) -> Tensor:
    def both(x: Tensor) -> Tensor:
        return (net(x) + net(x.flip(3))) / 2

    size = x.shape[-1]
    padded = F.pad(x, (1,) * 4, mode="reflect")
    shifted = [both(padded[:, :, at : at + size, at : at + size]) for at in (0, 2)]
    return (both(x) + (shifted[0] + shifted[1]) / 2) / 2
