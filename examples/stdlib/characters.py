"""The next character of Python's standard library, by a small transformer."""

import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import nn


def data(files=12, length=32):
    """Return pieces of text as tokens, and for each character the next; every fifth file tests."""
    names = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))[:files]
    texts = [np.frombuffer(name.read_bytes(), np.uint8) for name in names]
    parts = [t for i, t in enumerate(texts) if i % 5], texts[::5]
    return tuple(array for part in parts for array in pieces(np.concatenate(part), length))


def pieces(text, length):
    """Return inputs and targets, both (n, length): printable characters are 1 to 95, others 0."""
    codes = np.where((text >= 32) & (text < 127), text - 31, 0).astype(np.int64)
    end = (len(codes) - 1) // length * length
    return codes[:end].reshape(-1, length), codes[1 : end + 1].reshape(-1, length)


class Transformer(nn.Module):
    """Scores (n, length, characters) of tokens (n, length)."""

    def __init__(self, num_classes, input_shape, width=32, layers=2, heads=4):
        super().__init__()
        self.tokens = nn.Embedding(num_classes, width)
        self.places = nn.Parameter(torch.zeros(*input_shape, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)
        mask = nn.Transformer.generate_square_subsequent_mask(*input_shape)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        """Return scores; a character sees only those before it."""
        return self.head(self.body(self.tokens(x) + self.places, self.mask, is_causal=True))
