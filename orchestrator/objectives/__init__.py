"""The seam between the study and whatever trains: `objective(run, session) -> Result`.

Four kinds ship or are invited: `training` (torch), `quadratic` (the fake objective, numpy only),
a training function of the user's own (`training.function`), and an objective of the user's own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.curve import Point, Result
from orchestrator.recipe import Facts, Run


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
    """What trains. Deterministic: the same run gives the same points and result on one machine.

    It may also have a method `describe()` that returns a `Description`.
    """

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


def _nothing(_: int) -> Sequence[str]:
    return ()


def _unknown(_: str) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an objective says of itself beside its facts; none of it need be given.

    `device`: what it trains on. `notes`: sentences for the report. `datasets`: see `Tracker.start`.
    `versions`: of the libraries that train. `formats`: versions of what its results depend on; a
    study with others is refused. `inputs`, `task`: how inputs are normalised, and the loss as code
    (see `StudyRecord`). `test_examples`: size of the sealed test, None: not known. `fake_clock`:
    time is what the runs say. `advice(batch_size)`: sentences on how to train faster here, for a
    dry run. `own_loop`: what trains is code of the user's, which no code in the report stands for.
    `export(weights, to)`: writes the trained network as a program that runs alone, returns
    `input_shape`, `input_type` and `output_shape` of one example (see `study.model_files`).
    `diagnose(way_out)`: why its network does not learn, "" if that is not clear, with `way_out`
    where that may help all the same; asked where a range test has no answer. `recheck()`: why its
    data would be others if they were asked for again, "" if they would not; asked where they are
    not those of an earlier command.
    """

    device: str = field(default_factory=platform.machine)
    notes: tuple[str, ...] = ()
    datasets: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None
    test_examples: int | None = None
    fake_clock: bool = False
    own_loop: bool = False
    advice: Callable[[int], Sequence[str]] = _nothing
    export: Callable[[Path, Path], Mapping[str, Any]] | None = None
    diagnose: Callable[[str], str] = _unknown
    recheck: Callable[[], str] = str


def describe(objective: Objective) -> Description:
    """Return what the objective's own `describe()` says, the defaults where it has none."""
    own: Callable[[], Description] = getattr(objective, "describe", Description)
    return own()
