"""Tries two real training steps on two examples, for errors that only training shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from orchestrator.config.user_code import raised
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.training import compatibility
from orchestrator.training.compatibility import ModelError
from orchestrator.training.task import TaskError
from orchestrator.training.trainer import Setup, Trainer

EXAMPLES = STEPS = 2
SCHEDULE = Schedule("constant", 1e-4, 1e-4, 0.9, 0.9)
TWICE = "backward through the graph a second time"  # in torch's message
WEIGHT_DECAY = 1e-4  # some, since not every optimiser takes it with every kind of gradient


def check(setup: Setup) -> None:
    """Make two steps with a new network and optimiser. Raises ModelError, one line, if one fails.

    Two, since a network that keeps tensors of the first step fails only in the second.
    """
    size = min(EXAMPLES, len(setup.data.train))
    run = Run("train", SCHEDULE, WEIGHT_DECAY, size, STEPS, 0)
    trainer = None
    try:
        trainer = Trainer(setup, run)
        _check_scores(trainer)
        trainer.advance(STEPS)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # any error of the user's network or optimiser
        problem = f"a training step on {size} examples raised {raised(error)}"
        raise ModelError(f"model: {problem}{_cure(trainer, error)}") from error
    if not math.isfinite(loss := float(trainer.total)):
        raise ModelError(f"model: in training mode its loss is {loss} before any training")


@torch.no_grad()
def _check_scores(trainer: Trainer) -> None:
    """Raise ModelError if the network returns something else than in eval mode."""
    setup = trainer.setup
    (x, y), shapes = next(trainer.batches), setup.data
    trainer.batches_from(0)
    with setup.autocast():
        scores = trainer.model(x)
    if setup.task.kind == "own":  # a user's loss takes any output
        return
    if not isinstance(scores, Tensor):
        kinds = ", ".join(type(part).__name__ for part in scores) if _is_nest(scores) else ""
        raise ModelError(
            f"model: in training mode it returns a {type(scores).__name__} ({kinds}), in eval mode"
            " a tensor: return the scores alone, or use a loss of your own, which gets both"
        )
    try:
        compatibility.check_shape(setup.task, scores, y, shapes.classes)
    except TaskError as error:
        raise ModelError(f"in training mode: {error}") from error


def _is_nest(scores: object) -> bool:
    return isinstance(scores, tuple | list)


def _cure(trainer: Trainer | None, error: BaseException) -> str:
    """Return what to do about the error of a step, "" if that is not known."""
    if trainer is None:
        return ""
    if TWICE in str(error):
        return ": it keeps tensors of the step before: .detach() them"
    sparse = [n for n, p in trainer.model.named_parameters() if p.grad is not None and _sparse(p)]
    if sparse:
        name = trainer.setup.optimizer.name
        return (
            f": {', '.join(sparse)} has sparse gradients, which {name} cannot take here: make its"
            " module with sparse=False"
        )
    return ""


def _sparse(parameter: Tensor) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse
