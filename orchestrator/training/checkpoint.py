"""Checkpoints of a run: all of its state as bytes, bit for bit."""

from __future__ import annotations

import time
from dataclasses import astuple
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from torch import nn

from orchestrator import signals
from orchestrator.curve import Point
from orchestrator.objectives import Session

if TYPE_CHECKING:
    from orchestrator.training.loop import Trainer

INTERVAL_SECONDS = 5.0


class Unreadable(Exception):
    """The bytes are no checkpoint of this run; the run has to start over."""


class Keeper:
    """Hands checkpoints to the session, seldom enough to cost little."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._due = time.monotonic() + INTERVAL_SECONDS

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another one, or a signal wants one now."""
        return time.monotonic() >= self._due or signals.noted()

    def save(self, trainer: Trainer, points: list[Point]) -> None:
        """Hand over the state of a run between two steps."""
        start = time.monotonic()
        self._session.save(write(trainer, points))
        end = time.monotonic()
        # A large network on a slow disk: never spend more than a twentieth of the time on this.
        self._due = end + max(INTERVAL_SECONDS, 20 * (end - start))


def write(trainer: Trainer, points: list[Point]) -> bytes:
    """Return the state of a run between two steps as bytes; `points` is its curve so far."""
    state = {
        "model": trainer.model.state_dict(),
        "average": trainer.average and trainer.average.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step,
        "reported": trainer.reported,
        "total": trainer.total,
        "seconds": trainer.seconds,
        "points": [astuple(point) for point in points],
        "random": torch.get_rng_state(),
        "random_cuda": _cuda_state(trainer),
    }
    return _saved(state)


def restore(trainer: Trainer, saved: bytes) -> list[Point]:
    """Put `trainer` where `write` found it, return the points so far. Runs no code from the bytes.

    Raises Unreadable; the trainer may then be half restored.
    """
    try:
        state = torch.load(BytesIO(saved), map_location="cpu", weights_only=True)
        points = [Point(*row) for row in state["points"]]
        trainer.model.load_state_dict(state["model"])
        if trainer.average:
            trainer.average.model.load_state_dict(state["average"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.batches_from(state["step"])
        trainer.reported = state["reported"]
        trainer.total = state["total"].to(trainer.setup.device)
        trainer.seconds = state["seconds"]
        trainer.evaluation_seconds = points[-1].evaluation_seconds if points else 0.0
        torch.set_rng_state(state["random"])
        if trainer.setup.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], trainer.setup.device)
    except Exception as error:  # torn, foreign or older bytes raise anything
        raise Unreadable(str(error)) from error
    return points


def model_bytes(model: nn.Module) -> bytes:
    """Return a state_dict file, as `torch.load(..., weights_only=True)` reads it anywhere."""
    return _saved({name: value.cpu().contiguous() for name, value in model.state_dict().items()})


def _cuda_state(trainer: Trainer) -> torch.Tensor | None:
    device = trainer.setup.device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _saved(value: object) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
