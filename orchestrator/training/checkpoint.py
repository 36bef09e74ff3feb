"""Checkpoints of a run: all of its state as bytes, bit for bit, and when to keep one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from io import BytesIO
from typing import Any

import torch
from torch import nn

from orchestrator.curve import Point
from orchestrator.objectives import Session
from orchestrator.system import signals

INTERVAL_SECONDS = 5.0


class Keeper:
    """Hands checkpoints to the session, seldom enough to cost little."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._due = time.monotonic() + INTERVAL_SECONDS

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another one, or a signal wants one now."""
        return time.monotonic() >= self._due or signals.noted()

    def save(self, state: Mapping[str, Any], points: Sequence[Point]) -> None:
        """Hand over the state of a run between two steps, and its curve so far."""
        start = time.monotonic()
        self._session.save(write(state, points))
        end = time.monotonic()
        # A large network on a slow disk: never spend more than a twentieth of the time on this.
        self._due = end + max(INTERVAL_SECONDS, 20 * (end - start))


def write(state: Mapping[str, Any], points: Sequence[Point]) -> bytes:
    """Return a trainer's `state_dict()` and its points as bytes."""
    return _saved({**state, "points": [astuple(point) for point in points]})


def read(saved: bytes) -> tuple[dict[str, Any], list[Point]]:
    """Return what `write` was given, on the CPU. Runs no code from the bytes.

    Raises all kinds of exceptions for bytes that `write` did not make.
    """
    state = torch.load(BytesIO(saved), map_location="cpu", weights_only=True)
    return state, [Point(*row) for row in state["points"]]


def model_bytes(model: nn.Module) -> bytes:
    """Return a state_dict file, as `torch.load(..., weights_only=True)` reads it anywhere."""
    return _saved({name: value.cpu().contiguous() for name, value in model.state_dict().items()})


def _saved(value: object) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
