"""Data and networks of the workloads, as a user would hand them over by `_target_`."""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def _shuffled(x: NDArray[Any], y: NDArray[Any], train: int, seed: int = 0) -> Arrays:
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    return x[:train], y[:train], x[train:], y[train:]


def few_digits(train: int = 400) -> Arrays:
    """Scikit-learn's digits, few to train on (a sixth of them is held out), the rest tests."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _shuffled(found.data.astype(np.float32), found.target, train)


def noisy_digits(share: float = 0.2) -> Arrays:
    """The digits; a share of all labels, also of those that test, is random."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rng = np.random.default_rng(1)
    y = np.where(
        rng.random(len(found.target)) < share, rng.integers(0, 10, len(found.target)), found.target
    )
    return _shuffled(found.data.astype(np.float32), y, 1437)


def cancer() -> Arrays:
    """Breast cancer: 30 features, standardised by the tool; two classes."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return _shuffled(found.data.astype(np.float32), found.target, 400)


def diabetes() -> Arrays:
    """How far a disease has come, from ten measurements; targets standardised."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y, tx, ty = _shuffled(x.astype(np.float32), y.astype(np.float32), 330)
    mean, std = y.mean(), y.std()
    return x, (y - mean) / std, tx, (ty - mean) / std


def _text(files: int) -> tuple[NDArray[Any], NDArray[Any]]:
    names = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))[:files]
    texts = [np.frombuffer(name.read_bytes(), np.uint8) for name in names]
    parts = np.concatenate([t for i, t in enumerate(texts) if i % 5]), np.concatenate(texts[::5])
    common = np.argsort(-np.bincount(parts[0], minlength=256))[:63]  # all others are one: 63
    codes = np.full(256, 63)
    codes[common] = np.arange(63)
    return codes[parts[0]], codes[parts[1]]


def windows(files: int = 12, length: int = 12, train: int = 24_000, test: int = 6_000) -> Arrays:
    """Windows of characters of the standard library, and the next character of each."""
    made: list[NDArray[Any]] = []
    for codes, count in zip(_text(files), (train, test), strict=True):
        starts = np.random.default_rng(2).integers(0, len(codes) - length - 1, count)
        at = starts[:, None] + np.arange(length + 1)
        made += [codes[at[:, :-1]], codes[at[:, -1]]]
    return made[0], made[1], made[2], made[3]


def sequences(files: int = 12, length: int = 32, train: int = 3_000, test: int = 700) -> Arrays:
    """Pieces of the same text as tokens, and for each character the next."""
    made: list[NDArray[Any]] = []
    for codes, count in zip(_text(files), (train, test), strict=True):
        end = min(count, (len(codes) - 1) // length) * length
        made += [codes[:end].reshape(-1, length), codes[1 : end + 1].reshape(-1, length)]
    return made[0], made[1], made[2], made[3]


def signals(train: int = 2_400, test: int = 800, length: int = 64) -> Arrays:
    """Made-up signals of four shapes in noise, at any phase and speed: (n, 1, length)."""
    rng = np.random.default_rng(3)
    n = train + test
    y = rng.integers(0, 4, n)
    t = np.linspace(0, 1, length)[None]
    phase, speed = rng.random((n, 1)), rng.uniform(2, 4, (n, 1))
    turn = (speed * t + phase) % 1
    shapes = np.stack(
        [np.sin(2 * np.pi * turn), np.sign(turn - 0.5), 2 * turn - 1, 4 * np.abs(turn - 0.5) - 1]
    )
    x = shapes[y, np.arange(n)] + rng.normal(0, 1.0, (n, length))
    x = x[:, None].astype(np.float32)
    return x[:train], y[:train], x[train:], y[train:]


class Windows(nn.Module):
    """Scores of the next character: embeddings side by side, one hidden layer."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_classes, 16)
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * math.prod(input_shape), width),
            nn.ReLU(),
            nn.Linear(width, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, characters)."""
        scores: Tensor = self.body(self.tokens(x))
        return scores


class Transformer(nn.Module):
    """Scores (n, length, characters) of tokens (n, length): two causal layers."""

    def __init__(
        self, num_classes: int, input_shape: tuple[int, ...], width: int = 32, layers: int = 2
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_classes, width)
        self.places = nn.Parameter(torch.zeros(*input_shape, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)
        mask = nn.Transformer.generate_square_subsequent_mask(*input_shape)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores; a character sees only those before it."""
        scores: Tensor = self.head(
            self.body(self.tokens(x) + self.places, self.mask, is_causal=True)
        )
        return scores


class ViT(nn.Module):
    """A small vision transformer: patches of 2x2, mean of the places."""

    def __init__(
        self, num_classes: int, input_shape: tuple[int, ...], width: int = 32, layers: int = 2
    ) -> None:
        super().__init__()
        channels, height, _ = input_shape
        self.patches = nn.Conv2d(channels, width, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, (height // 2) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.body(tokens).mean(1))
        return scores


def conv1d(num_classes: int, input_shape: tuple[int, ...], width: int = 16) -> nn.Module:
    """Return three convolutions over time and a linear layer on their means."""
    layers: list[nn.Module] = []
    inputs = input_shape[0]
    for outputs in (width, 2 * width, 2 * width):
        layers += [nn.Conv1d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)]
        inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, num_classes)
    )


def noisy_cancer(share: float = 0.1) -> Arrays:
    """Breast cancer; a share of all labels, also of those that test, is the other one."""
    x, y, tx, ty = cancer()
    rng = np.random.default_rng(4)
    flipped = [np.where(rng.random(len(part)) < share, 1 - part, part) for part in (y, ty)]
    return x, flipped[0], tx, flipped[1]
