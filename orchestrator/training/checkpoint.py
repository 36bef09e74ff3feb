"""Checkpoints of a run: its whole state as bytes, and when to write one."""

from __future__ import annotations

import time
import warnings
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
    """Passes checkpoints to the session, rarely enough to cost little."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._due = time.monotonic() + INTERVAL_SECONDS

    def is_due(self) -> bool:
        """Whether a checkpoint is due: the last one is old enough, or a signal has arrived."""
        return time.monotonic() >= self._due or signals.noted()

    def save(self, state: Mapping[str, Any], points: Sequence[Point]) -> None:
        """Save the state of a run between two steps, and its curve so far."""
        start = time.monotonic()
        self._session.save(write(state, points))
        end = time.monotonic()
        # For a large network on a slow disk: at most a twentieth of the time.
        self._due = end + max(INTERVAL_SECONDS, 20 * (end - start))


def write(state: Mapping[str, Any], points: Sequence[Point]) -> bytes:
    """Return a trainer's `state_dict()` and its points as bytes."""
    return _saved({**state, "points": [astuple(point) for point in points]})


def read(saved: bytes) -> tuple[dict[str, Any], list[Point]]:
    """Return what `write` was given, on the CPU, without unpickling code.

    Raises various exceptions for other bytes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Validating sparse tensor")  # a momentum may be sparse
        state = torch.load(BytesIO(saved), map_location="cpu", weights_only=True)
    return state, [Point(*row) for row in state["points"]]


def model_bytes(model: nn.Module) -> bytes:
    """Return a state_dict file for `torch.load(..., weights_only=True)` on any device."""
    return _saved({name: value.cpu().contiguous() for name, value in model.state_dict().items()})


def _saved(value: object) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
