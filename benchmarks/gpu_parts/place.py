"""Device, data and time of the GPU parts: CUDA and CIFAR-10, or a CPU and a few made-up images."""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from speed_parts.contest import folder

from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.training.calibration import idle, per_step
from orchestrator.training.device import private_random
from orchestrator.training.objective import TrainingObjective, TrainingSettings


def device(options: argparse.Namespace) -> str:
    """Return where to train."""
    return "cpu" if options.cpu_check else "cuda"


def left(options: argparse.Namespace) -> float:
    """Return the seconds that are left for this part."""
    return float(options.until - time.monotonic())


def data(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Return the data section: all of CIFAR-10, or with `--cpu-check` 32x32 images by the dozen."""
    if not options.cpu_check:
        return {"name": "cifar10", "path": options.cifar, "augment": True, **more}
    return {"name": "arrays", "path": str(_images()), "augment": True}


@cache
def _images() -> Path:
    """Return a file with made-up images of ten classes, told apart by their mean colours."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 160), ("test", 40)):
        y = np.arange(count) % 10
        mean = 80 + 10 * y[:, None, None, None] * np.array([1, -0.5, 0.3]).reshape(3, 1, 1)
        x = np.clip(mean + rng.normal(0, 30, (count, 3, 32, 32)), 0, 255)
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y}
    file = folder() / "images.npz"
    np.savez(file, **arrays)
    return file


def objective(
    options: argparse.Namespace,
    model: dict[str, Any],
    *,
    precision: str,
    optimizer: dict[str, Any] | None = None,
    **more: Any,
) -> TrainingObjective:
    """Return the training objective; sections as in the config, `more` goes to the data."""
    own = "_target_" in model
    return TrainingObjective(
        TrainingSettings(
            DataConfig.model_validate(data(options, **more)),
            OwnConfig.model_validate(model) if own else ModelConfig.model_validate(model),
            OptimizerConfig.model_validate(optimizer or {}),
            device=device(options),
            threads=1 if options.cpu_check else None,  # two would wait for each other's core
            precision="float32" if options.cpu_check else precision,
        ),
        cache=folder(),
    )


def examples_per_second(made: TrainingObjective, batch_size: int, steps: int) -> float:
    """Return how many examples a second are trained on, over `steps` steps after as many others."""
    with private_random(made._setup.device):
        trainer = idle(made._setup, batch_size)
        per_step(trainer, steps)
        return batch_size / per_step(trainer, steps)
