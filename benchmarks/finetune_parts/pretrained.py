"""Pretrained networks and what they are fine-tuned on, as a user hands them over by `_target_`.

Nothing is downloaded: a text of the standard library beside another, and classes of CIFAR-10 beside
others. A network is pretrained once, on first use, and kept in benchmarks/.cache.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, scaled_dot_product_attention

from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.training.data.cifar10 import load
from orchestrator.training.networks import resnet9

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
CACHE = Path(__file__).resolve().parents[1] / ".cache"
CHARACTERS, LENGTH, SIDE = 64, 64, 16
OLD, NEW = (0, 1, 2, 3, 4, 5), (6, 7, 8, 9)  # classes of CIFAR-10


class Block(nn.Module):
    """A transformer's layer, with names that adapters can be put on."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (n, places, width)."""
        n, places, width = x.shape
        parts = self.qkv(self.before(x)).view(n, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(*parts, is_causal=self.causal)
        x = x + self.out(seen.transpose(1, 2).reshape(n, places, width))
        grown: Tensor = self.down(nn.functional.gelu(self.up(self.between(x))))
        return x + grown


class Characters(nn.Module):
    """Scores (n, length, characters) of the next character."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CHARACTERS, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.body = nn.Sequential(*(Block(width, 4, True) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of tokens (n, length)."""
        scores: Tensor = self.head(self.body(self.tokens(x) + self.places))
        return scores


class ViT(nn.Module):
    """Scores (n, classes) of images (n, 3, 16, 16): patches of 4x4, mean of the places."""

    def __init__(self, classes: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.places = nn.Parameter(0.02 * torch.randn((SIDE // 4) ** 2, width))
        self.body = nn.Sequential(*(Block(width, 4, False) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.body(tokens).mean(1))
        return scores


def _resnet(classes: int) -> nn.Module:
    return resnet9(ModelConfig(name="resnet9", width=0.25), (3, SIDE, SIDE), classes)


# --- data


def _text(of: str) -> NDArray[np.int64]:
    """Return the code of the standard library, or its manual, as characters 0 to 63."""
    root = Path(sysconfig.get_path("stdlib"))
    code = b"".join(p.read_bytes() for p in sorted(root.glob("[a-z]*.py"))[:80])
    common = np.argsort(-np.bincount(np.frombuffer(code, np.uint8), minlength=256))
    codes = np.full(256, CHARACTERS - 1)
    codes[common[: CHARACTERS - 1]] = np.arange(CHARACTERS - 1)
    manual = (root / "pydoc_data" / "topics.py").read_bytes()
    return codes[np.frombuffer(code if of == "code" else manual, np.uint8)].astype(np.int64)


def manual(train: int = 240, test: int = 400) -> Arrays:
    """Pieces of the manual, and for each character the next; a sixth of `train` is held out."""
    text = _text("manual")
    starts = np.random.default_rng(0).permutation(len(text) // LENGTH - 1)[: train + test]
    at = LENGTH * starts[:, None] + np.arange(LENGTH + 1)
    x, y = text[at[:, :-1]], text[at[:, 1:]]
    return x[:train], y[:train], x[train:], y[train:]


def _images(path: str, part: str, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return images (n, 3, 16, 16), 0 to 255, and labels from 0."""
    raw = load(DataConfig(name="cifar10", path=path), CACHE)
    x, y = getattr(raw, part)
    of = torch.isin(y, torch.tensor(classes))
    small = avg_pool2d(x[of].float(), x.shape[-1] // SIDE).round()
    return small, torch.searchsorted(torch.tensor(classes), y[of])


def new_classes(path: str, train: int = 1200, test: int = 2000) -> Arrays:
    """Images of four classes that pretraining did not see; a sixth of `train` is held out."""
    (x, y), (tx, ty) = (_images(path, part, NEW) for part in ("train", "test"))
    some = np.random.default_rng(0).permutation(len(x))[:train]
    arrays = x[some].byte(), y[some], tx[:test].byte(), ty[:test]
    return arrays[0].numpy(), arrays[1].numpy(), arrays[2].numpy(), arrays[3].numpy()


# --- pretraining


def _batches(x: Tensor, y: Tensor, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(steps):
        some = torch.randint(len(x), (size,))
        yield x[some], y[some]


def _pretrain(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for x, y in batches:
        optimizer.zero_grad()
        scores = model(x)
        loss = cross_entropy(scores.flatten(0, -2), y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    print(f"pretrained to {loss:.3f}", flush=True)


def _kept(name: str, make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Return pretrained weights, from the cache if they are there; random states stay."""
    file = CACHE / f"finetune_{name}.pt"
    if not file.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = make().state_dict()
        file.parent.mkdir(exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        torch.save(weights, unfinished)
        unfinished.replace(file)
    kept: dict[str, Tensor] = torch.load(file, weights_only=True)
    return kept


def characters(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """Return the transformer that has read the code of the standard library."""

    def make(steps: int = 2500) -> nn.Module:
        text, model = torch.tensor(_text("code")), Characters()
        rows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
        _pretrain(model, _batches(rows[:, :-1], rows[:, 1:], 32, steps), steps)
        return model

    model = Characters()
    model.load_state_dict(_kept("characters", make))
    return model


def adapters(num_classes: int, input_shape: tuple[int, ...], rank: int = 4) -> nn.Module:
    """Return it with LoRA (peft): its own weights are frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["qkv", "out", "up", "down"])
    made: nn.Module = get_peft_model(characters(num_classes, input_shape), config)  # type: ignore[arg-type]
    return made


def _with_new_head(name: str, make: Callable[[int], nn.Module], path: str) -> nn.Module:
    def pretrained(steps: int = 2500) -> nn.Module:
        model = make(len(OLD))
        x, y = _images(path, "train", OLD)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
        _pretrain(model, _batches(x, y, 64, steps), steps)
        return model

    model, kept = make(len(NEW)), _kept(name, pretrained)
    own = model.state_dict()
    model.load_state_dict({k: v if v.shape == own[k].shape else own[k] for k, v in kept.items()})
    return model


def vit(num_classes: int, input_shape: tuple[int, ...], path: str) -> nn.Module:
    """Return a vision transformer that knows six other classes, with a new head."""
    return _with_new_head("vit", ViT, path)


def resnet(num_classes: int, input_shape: tuple[int, ...], path: str) -> nn.Module:
    """Return a small ResNet-9 that knows six other classes, with a new head."""
    return _with_new_head("resnet", _resnet, path)
