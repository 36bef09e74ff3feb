"""`init NAME`: writes a study to start from: config, network and data. It runs as it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from orchestrator.errors import ConfigError

STUDY = """\
# @package _global_
# {name}: my own network on my own data
defaults:
  - override /data: {name}    # conf/data/{name}.yaml
  - override /model: {name}   # conf/model/{name}.yaml
  - _self_

study_name: {name}   # results go to runs/{name}/

# The stages, in this order. Also batch_size and lr_check, and dropout for a network that has it.
plan: [lr_range, momentum, weight_decay, final]
stages:
  final: {{epochs: 8}}   # as long as you would train; short runs are fractions of it
  momentum: {{candidates: [0.95, 0.9, 0.8]}}

recipe:   # where the search starts; a value that no stage decides stays as it is here
  batch_size: 32
  max_momentum: 0.9
  weight_decay: 5.0e-4

threads: 1   # of the processor; so small a network is fastest on one. Leave it out for a large one
seed: 0
"""
MODEL = "_target_: {name}.net\nwidth: 32   # an argument of {name}.net\n"
DATA = "_target_: {name}.data\nexamples: 900   # an argument of {name}.data\n"
MODULE = '''\
"""The network and the data of the study {name}."""

import math

import numpy as np
from torch import nn


def net(num_classes, input_shape, width=32):
    """Return a network; num_classes and input_shape are given by the study, without the batch."""
    inputs = math.prod(input_shape)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def data(examples=900):
    """Return x_train, y_train, x_test, y_test: three spirals, to be replaced by your data.

    Features are (n, d), signals (n, channels, length), images (n, channels, height, width), labels
    whole numbers from 0. Two torch Datasets, for training and test, work too. The study normalises
    inputs and holds out a part of the training data for its decisions; the test data is used once,
    at the end.
    """
    random = np.random.default_rng(0)
    labels = np.arange(examples) % 3
    radius = np.sqrt(random.uniform(0, 1, examples))
    angle = 4 * radius + 2 * math.pi / 3 * labels + random.normal(0, 0.15, examples)
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    cut = examples * 3 // 4
    return points[:cut], labels[:cut], points[cut:], labels[cut:]
'''


def init(name: str) -> None:
    """Write study, model and data configs and their module into the working folder.

    Raises ConfigError for a name that cannot be used, for files that exist (before anything is
    written), and for a folder that cannot be written.
    """
    _check(name)
    files = {
        Path("conf/study") / f"{name}.yaml": STUDY,
        Path("conf/model") / f"{name}.yaml": MODEL,
        Path("conf/data") / f"{name}.yaml": DATA,
        Path(f"{name}.py"): MODULE,
    }
    if there := [str(file) for file in files if file.exists()]:
        raise ConfigError(f"init {name}: {', '.join(there)} exists and is not overwritten")
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(name=name), "utf-8")
        except OSError as error:
            problem = error.strerror or str(error)
            raise ConfigError(f"init {name}: {file} cannot be written ({problem})") from error
        print(f"wrote {file}")
    print(f"now: python -m orchestrator +study={name}")


def _check(name: str) -> None:
    from orchestrator.config.compose import BUILTIN

    if not (name.isidentifier() and name.isascii() and name.islower()):
        raise ConfigError(
            f"init {name}: must be lower-case letters, digits and _, beginning with a letter or _,"
            " since it names a Python module too"
        )
    if any((BUILTIN / group / f"{name}.yaml").exists() for group in ("study", "model", "data")):
        raise ConfigError(f"init {name}: a built-in study has this name, choose another")
    elsewhere = [p for p in sys.path if p and Path(p).resolve() != Path.cwd()]
    if name in sys.builtin_module_names or any(
        importlib.machinery.PathFinder.find_spec(name, [p]) for p in elsewhere
    ):
        raise ConfigError(f"init {name}: a Python module has this name already, choose another")
