"""Optimisers that are used to do without a learning rate: one full run as their authors recommend.

`prodigy` (Mishchenko and Defazio 2024, arXiv 2306.06101): lr 1 with cosine annealing.
`schedule_free` (Defazio et al. 2024, arXiv 2405.15682): AdamW at its default lr of .0025 with a
warm-up over 5 % of the run; statistics of batch norm are measured anew before the test. Both have
no weight decay, their default. Network, data order, batch size and length are those of our first
full run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from typing import Any

import torch
from lab import Lab
from torch import nn

from orchestrator import build
from orchestrator.curve import Outcome, Result
from orchestrator.recipe import Run
from orchestrator.stages.expected.first_run import full_run
from orchestrator.training import device
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Trainer

PACKAGES = {"prodigy": "prodigyopt", "schedule_free": "schedulefree"}
WARM_UP = 0.05  # of the run
STATISTICS_BATCHES = 50  # by the package's README


def tested(lab: Lab, name: str) -> Outcome:
    """Return the outcome of the one run, with its test loss."""
    recipe = build.recipe(lab.config, lab.facts).at_lr(1.0)  # of which only the batch size is used
    run = full_run(recipe, lab.facts, opens_test=True)
    package = PACKAGES[name]
    how = {"optimiser": name, package: version(package)}
    return lab.by(run, how, lambda: _trained(lab.objective, run, name))


def _trained(objective: Any, run: Run, name: str) -> Result:
    assert isinstance(objective, TrainingObjective)
    setup = objective._setup
    device.use_threads(objective._threads)
    with objective._at_work():
        trainer = Trainer(setup, run)
        start = setup.now()
        {"prodigy": _prodigy, "schedule_free": _schedule_free}[name](trainer)
        seconds = setup.now() - start
        loss, metric = trainer.evaluate(setup.inputs.placed(setup.data.open_test()))
    return Result(seconds, run.examples, loss, metric)


def _prodigy(trainer: Trainer) -> None:
    optimizer = import_module("prodigyopt").Prodigy(_parameters(trainer.model))
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=trainer.run.steps)
    for _ in _steps(trainer, optimizer):
        annealed.step()


def _schedule_free(trainer: Trainer) -> None:
    optimizer = import_module("schedulefree").AdamWScheduleFree(
        _parameters(trainer.model), warmup_steps=round(WARM_UP * trainer.run.steps)
    )
    optimizer.train()
    for _ in _steps(trainer, optimizer):
        pass
    optimizer.eval()
    with torch.no_grad():
        for x, _ in islice(trainer.batches, STATISTICS_BATCHES):
            trainer.model(x)


def _steps(trainer: Trainer, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Make the run's steps; yield after each."""
    for _ in range(trainer.run.steps):
        optimizer.zero_grad()
        trainer.gradient()
        optimizer.step()
        yield


def _parameters(model: nn.Module) -> Iterable[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
