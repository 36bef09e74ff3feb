"""The interface between a study and what it trains: `objective(run, session) -> Result`.

There are four kinds: `training` (PyTorch), `quadratic` (a fake objective, numpy only), the user's
own training function (`training.function`), and the user's own objective.
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
    """Raised by `Session.report` to end a run; an objective must not catch it.

    It is a BaseException so that a user's `except Exception` around a training step does not catch
    it.

    Args:
        reason: Why the run ends.
        pruned: False where the run ended by its own stop rule, which counts as finished.
    """

    def __init__(self, reason: str, *, pruned: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pruned = pruned


class Session(Protocol):
    """What an objective gets to report its measurements and to keep its state."""

    def report(self, point: Point) -> None:
        """Report one measurement.

        Args:
            point: The measurement.

        Raises:
            StopRun: The run ends here. Let it pass.
        """

    def save(self, state: bytes) -> None:
        """Write a checkpoint atomically; it replaces the last one.

        Args:
            state: All that is needed to continue the run.
        """

    def load(self) -> bytes | None:
        """Return the run's checkpoint.

        Returns:
            What `save` was last given, None without a checkpoint.
        """

    def save_model(self, state: bytes) -> None:
        """Write the trained model.

        Args:
            state: The model; for the training objective a file of its torch state_dict.
        """


class Objective(Protocol):
    """What trains a run. It must be deterministic: on one machine equal runs give equal results.

    It may also have a method `describe()` that returns a `Description`.

    Attributes:
        facts: What is known of the task before any run.
    """

    facts: Facts

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return all that determines a result besides the run, as JSON values.

        A result is reused only for an equal run in an equal context.

        Args:
            run: The run.

        Returns:
            Settings of model and data, hashes of the data, device, threads, precision, version of
            the training code. The test data only if `run.opens_test`.
        """

    def __call__(self, run: Run, session: Session) -> Result:
        """Train a run and report `len(run.report_steps())` points, or measure.

        Args:
            run: The run. Kinds "train" and "ramp" train `run.steps` steps by `run.schedule`.
                "probe" measures memory and "calibrate" time, for each of `run.batch_sizes`.
            session: Where to report points, and to keep checkpoint and model.

        Returns:
            What was measured besides the points. "probe" returns
            `measured={"fits": {batch_size: bool}, "bytes": {batch_size: int}, "estimated": bool}`;
            `estimated` is False, or left out, where the bytes are those of real training.
            "calibrate" returns
            `measured={"seconds_per_step": {batch_size: float}, "spread": {batch_size: float}}`,
            the batch sizes measured in interleaved rounds. Batch sizes are strings, as JSON keys.
        """


def _nothing(_: int) -> Sequence[str]:
    return ()


def _unknown(_: str) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an objective may describe besides its facts; every field has a default.

    Attributes:
        device: What it trains on.
        notes: Sentences for the report.
        datasets: The parts of its data (see `Tracker.start`).
        versions: Versions of the libraries that train.
        formats: Versions of what its results depend on. A study with other versions is refused.
        inputs: How inputs are normalised (see `StudyRecord`).
        task: The loss as code (see `StudyRecord`).
        test_examples: Size of the sealed test data, None if not known.
        continues: Whether a sealed run starts from the kept end of the same run (`Run.kept`)
            instead of training again.
        fake_clock: Whether time is what the runs report, not wall-clock time.
        own_loop: Whether the user's own code trains, so that the report has no code for it.
        advice: `advice(batch_size)` returns sentences on how to train faster, for a dry run.
        export: `export(weights, to)` writes the trained network as a torch.export program, and
            returns `input_shape`, `input_type` and `output_shape` of one example.
        diagnose: `diagnose(way_out)` returns why the network does not learn, "" if that is not
            clear; called where a range test found no learning rate. `way_out` is the general
            advice, to be included where it may still help.
        recheck: `recheck()` returns why the data differ if they are loaded again, "" if they do
            not; called where they differ from those of an earlier command.
    """

    device: str = field(default_factory=platform.machine)
    notes: tuple[str, ...] = ()
    datasets: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None
    test_examples: int | None = None
    continues: bool = False
    fake_clock: bool = False
    own_loop: bool = False
    advice: Callable[[int], Sequence[str]] = _nothing
    export: Callable[[Path, Path], Mapping[str, Any]] | None = None
    diagnose: Callable[[str], str] = _unknown
    recheck: Callable[[], str] = str


def describe(objective: Objective) -> Description:
    """Return what the objective's own `describe()` returns, the defaults where it has none."""
    own: Callable[[], Description] = getattr(objective, "describe", Description)
    return own()
