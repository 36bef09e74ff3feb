"""The seam between the study and whatever trains: `objective(run, session) -> Result`.

Three kinds ship or are invited: `training` (torch), `quadratic` (the fake objective, numpy only)
and the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from orchestrator.curve import Point, Result
from orchestrator.recipe import Facts, Run

T = TypeVar("T")


class StopRun(BaseException):
    """Raised by `Session.report` to end a run; an objective lets it pass.

    `pruned` is False where the run ended by its own stop rule, which counts as finished. It is a
    BaseException so that a user's `except Exception` around a training step does not swallow it.
    """

    def __init__(self, reason: str, *, pruned: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pruned = pruned


class Session(Protocol):
    """What a run may ask of its surroundings."""

    def report(self, point: Point) -> None:
        """Hand back one measurement. Raises `StopRun` when the run is to end here."""

    def save(self, state: bytes) -> None:
        """Keep a checkpoint, in one piece or not at all; the latest one wins."""

    def load(self) -> bytes | None:
        """Return the latest checkpoint of this very run, None if there is none."""

    def save_model(self, state: bytes) -> None:
        """Keep the trained model (a torch state_dict file for the training objective)."""


class Objective(Protocol):
    """What trains. Deterministic: the same run gives the same points and result on one machine."""

    facts: Facts

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return everything but the run that determines its result, as JSON-able values.

        Model and data configuration, content hashes of the data, device kind, threads, precision,
        the version of the training code. The sealed test data only if `run.opens_test`.
        """

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run, report `len(run.report_steps())` points, return what else was measured.

        kind "train" and "ramp": train `run.steps` steps by `run.schedule`. "probe": return
        `measured={"fits": {batch_size: bool}, "bytes": {batch_size: int}, "estimated": bool}`, the
        last one false or left out where the bytes are those of real training. "calibrate": return
        `measured={"seconds_per_step": {batch_size: float}, "spread": {batch_size: float}}`, the
        batch sizes measured in interleaved rounds. JSON keys of batch sizes are strings.
        """


def about(objective: Objective, name: str, default: T) -> T:
    """Return what an objective says of itself; a user's own need not say anything.

    `device`, `notes` (lines for the reader), `datasets` (see `Tracker.start`), `versions`,
    `formats` (what must not change within a study), `inputs` (how they were normalised) and `task`
    (the loss as code; of both see `StudyRecord`), `test_examples`, `fake_clock`,
    `advice(batch_size)` (sentences on how to train faster here, for a dry run).
    """
    said: T = getattr(objective, name, default)
    return said
