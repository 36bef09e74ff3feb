"""A job: one run to train, in this process or in a worker."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.errors import StorageError
from orchestrator.executors.session import TrialSession, reason_of
from orchestrator.objectives import Objective, StopRun
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run
from orchestrator.storage.states import RunFiles

log = logging.getLogger(__name__)
SIGNAL_SECONDS = 0.2  # the longest time until the signal of a dead child process arrives


@dataclass(frozen=True)
class Job:
    """A run, and the properties of its trial.

    Attributes:
        run: The run.
        run_key: Its key in the objective's context (`Run.key`), which names its files.
        place: Its place in its round, from 0. None: it must not be pruned.
        seen: Name of what it is compared with (`CluePruner.seen`).
        goes_on: Key of the kept run that it starts from (`Run.kept`).
        audit: Whether it continues a pruned run to its end.
        note: Returns the reason of the outcome if the run finishes.
    """

    run: Run
    run_key: str
    place: int | None = None
    seen: str = ""
    audit: bool = False
    goes_on: str | None = None
    note: Callable[[Outcome], str] | None = None

    @property
    def trial_key(self) -> str:
        """The key of the trial.

        An audit has a key of its own that no stage looks up, so decisions do not depend on audits.
        """
        return f"{self.run_key}-audit" if self.audit else self.run_key

    @property
    def may_be_pruned(self) -> bool:
        """Whether a pruner may stop it."""
        return self.run.prunable and self.place is not None

    @property
    def alone(self) -> bool:
        """Whether no other run may train in parallel: it measures time or memory."""
        return self.run.timed or self.run.kind in ("probe", "calibrate")


@dataclass(frozen=True)
class Differs:
    """A worker's reply to a job if its own objective has another context, and so another key."""

    context: Mapping[str, Any]


def train(
    job: Job,
    objective: Objective,
    trial: optuna.Trial,
    pruner: CluePruner | None,
    files: RunFiles,
    watch: Callable[[Point], None],
) -> Outcome:
    """Train a run in this process. Its exceptions are logged and give a failed outcome.

    Raises StorageError, which is not an error of the run, and Interrupted after a signal.
    """
    pruner = pruner if job.may_be_pruned else None
    if pruner is not None:
        pruner.start(trial.number, job.run, job.place or 0)
    session = TrialSession(job.run, job.run_key, trial, pruner, files, watch, job.goes_on)
    run, key = job.run, job.trial_key
    try:
        result = objective(run, session)
    except StopRun as stop:
        return Outcome.stopped(run, key, session.points, stop.reason, pruned=stop.pruned)
    except StorageError:
        raise
    except (Exception, SystemExit) as error:  # a user's sys.exit() must not end the study
        error = _told_late() or error
        log.error("run %s (%s) failed\n%s", run.label, key, _trace(error))
        ended = failed(job, session.points, reason_of(error))
    else:
        return Outcome(run, key, "finished", Curve.of(session.points), result)
    finally:
        if pruner is not None:
            pruner.forget(trial.number)
    gc.collect()  # after out-of-memory: the tensors of the failed step are in reference cycles
    return ended


def _told_late() -> Exception | None:
    """Return the exception that a signal raises just after a failure, None without one.

    When a DataLoader's worker dies, its pipe breaks first. torch raises the cause a moment later,
    in its handler of SIGCHLD, so this waits for it while the exception can still be caught.
    """
    try:
        time.sleep(SIGNAL_SECONDS)
    except Exception as cause:
        return cause
    return None


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def failed(job: Job, points: list[Point], reason: str) -> Outcome:
    """Return the outcome of a run that failed for this reason, after these points."""
    return Outcome(job.run, job.trial_key, "failed", Curve.of(points), Result(), reason)
