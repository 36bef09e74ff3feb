"""The training objective: runs are trained with PyTorch."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import platform
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from orchestrator import own
from orchestrator.config import Config, DataConfig, ModelConfig, OptimizerConfig, OwnConfig
from orchestrator.curve import Result
from orchestrator.errors import ConfigError
from orchestrator.objectives import Session
from orchestrator.recipe import Facts, Run
from orchestrator.training import clock, data, loop, memory, models
from orchestrator.training.batches import Inputs

# Raise it with every change to training that changes losses: results of older versions are then not
# taken for new ones. tests/test_training.py fails when the losses move.
TRAINING_VERSION = 1
PLACES = {"path", "folder", "download"}  # of the data: the content hashes say it better


def from_config(config: Config, cache: Path) -> TrainingObjective:
    """Return the objective that `config` describes; decoded images are kept under `cache`."""
    return TrainingObjective(
        config.data,
        config.model,
        config.optimizer,
        device=config.device,
        threads=config.threads,
        precision=config.precision,
        seed=config.seed,
        final_epochs=config.final_epochs,
        cache=cache,
    )


class TrainingObjective:
    """Trains `model` on `data` (see `objectives.Objective`), in this process.

    `device`: "auto" takes CUDA if there is one, else the CPU. `threads` None: torch's default.
    `precision`: "float32", or "bfloat16" by autocast. `seed`: the study's; with a run's replicate
    it decides weights, data order, crops and dropout. Losses are cross-entropies in nats, the
    metric is accuracy as a fraction. `notes` are sentences for the report, `device` and `versions`
    say what it ran on. Raises ConfigError (DataError, ModelError), one line, before any training.
    """

    def __init__(
        self,
        data: DataConfig | OwnConfig,
        model: ModelConfig | OwnConfig,
        optimizer: OptimizerConfig,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "float32",
        seed: int = 0,
        final_epochs: float = 10,
        cache: Path,
    ) -> None:
        where = _device(device)
        self._threads = threads or torch.get_num_threads()
        torch.set_num_threads(self._threads)
        self._config = {"data": data, "model": model, "optimizer": optimizer}
        self._setup = _setup(data, model, optimizer, where, precision, seed, cache)
        found = self._setup.data
        self.facts = Facts(
            train_examples=len(found.train),
            held_out_examples=len(found.held_out),
            chance_loss=math.log(found.classes),
            final_epochs=final_epochs,
            metric="accuracy",
        )
        self.notes = (found.source, *_asides(found, model))
        self.device = _device_name(where, self._threads)
        self.versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
        self.versions |= {name: version(name) for name in ("torchvision", "numpy")}

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return everything but the run that determines its result."""
        found = self._setup.data
        context = {
            "objective": "training",
            "version": TRAINING_VERSION,
            **{key: _described(part) for key, part in self._config.items()},
            "train_hash": found.train_hash,
            "held_out_hash": found.held_out_hash,
            "device": self._setup.device.type,
            "threads": self._threads,
            "precision": self._setup.precision,
            "seed": self._setup.seed,
        }
        return {**context, "test_hash": found.test_hash()} if run.opens_test else context

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run. Raises ValueError if its batch is larger than the training data."""
        torch.set_num_threads(self._threads)  # another objective may have set it since
        device = self._setup.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if run.kind == "probe":
                return memory.probe(self._setup, run)
            if run.kind == "calibrate":
                return clock.calibrate(self._setup, run)
            return loop.train(self._setup, run, session)


def _setup(
    data_config: DataConfig | OwnConfig,
    model_config: ModelConfig | OwnConfig,
    optimizer: OptimizerConfig,
    device: torch.device,
    precision: str,
    seed: int,
    cache: Path,
) -> loop.Setup:
    found = data.load(data_config, cache)
    make_model = partial(models.build, model_config, found)
    inputs = Inputs(found, device)
    with torch.random.fork_rng([]):
        model = make_model()
    models.check(model, found)
    inputs.channels_last = inputs.images and models.takes_channels_last(model, found)
    return loop.Setup(make_model, found, inputs, optimizer.nesterov, precision, seed)


def _device(name: str) -> torch.device:
    """Return the device, made deterministic. Raises ConfigError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        problem = str(error).splitlines()[0]
        raise ConfigError(f"device={name} is not there ({problem}): use auto or cpu") from error
    if name.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return torch.device(name)


def _device_name(device: torch.device, threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})"


def _described(config: DataConfig | ModelConfig | OptimizerConfig | OwnConfig) -> dict[str, Any]:
    """Return a part of the config as JSON-able values, the user's callables with their source."""
    if not isinstance(config, OwnConfig):
        return config.model_dump(mode="json", exclude=PLACES)
    return {**config.model_dump(mode="json", by_alias=True), "source": _source(config.target)}


def _source(target: str) -> str:
    """Return a hash of the source text of the callable, its name where there is no text."""
    try:
        text = inspect.getsource(inspect.unwrap(own.resolve(target)))
    except (OSError, TypeError):
        text = target
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _asides(found: data.Data, model: ModelConfig | OwnConfig) -> list[str]:
    sentences = []
    if found.scale != 1:
        sentences.append(f"Normalised inputs are multiplied by {found.scale:g}.")
    if found.augment:
        what = "mirrored and shifted" if found.mirrored else "shifted"
        sentences.append(f"Training images are {what} at random.")
    name = model.target if isinstance(model, OwnConfig) else model.name
    width = "" if isinstance(model, OwnConfig) or model.width == 1 else f" of width {model.width:g}"
    return [*sentences, f"The network is {name}{width}."]
