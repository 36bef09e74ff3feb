"""A job: one run that has to be trained, in this process or in another one."""

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
from orchestrator.storage.paths import StudyPaths

log = logging.getLogger(__name__)
SIGNAL_SECONDS = 0.2  # until the signal of a dead child has come, at the latest


@dataclass(frozen=True)
class Job:
    """A run, and what its trial is to be.

    `run_key`: that of the run in its surroundings (`Run.key`), after which its files are named.
    `place`: the run's place in its round, from 0; None: it may not be pruned. `seen`: what it is
    compared with (`CluePruner.seen`). `audit`: a pruned run goes on to its end. `note` gives a run
    that finishes its reason.
    """

    run: Run
    run_key: str
    place: int | None = None
    seen: str = ""
    audit: bool = False
    note: Callable[[Outcome], str] | None = None

    @property
    def trial_key(self) -> str:
        """The key that the trial is kept and told by.

        An audit has one of its own, which no stage asks for: decisions do not depend on audits.
        """
        return f"{self.run_key}-audit" if self.audit else self.run_key

    @property
    def may_be_pruned(self) -> bool:
        """Whether a pruner may stop it."""
        return self.run.prunable and self.place is not None

    @property
    def alone(self) -> bool:
        """Whether nothing may run beside it: it measures time or memory."""
        return self.run.timed or self.run.kind in ("probe", "calibrate")


@dataclass(frozen=True)
class Differs:
    """A worker's answer to a job: its own objective has another context, and so another key."""

    context: Mapping[str, Any]


def train(
    job: Job,
    objective: Objective,
    trial: optuna.Trial,
    pruner: CluePruner | None,
    paths: StudyPaths,
    watch: Callable[[Point], None],
) -> Outcome:
    """Train a run in this process. What goes wrong in it is logged and gives a failed outcome.

    Raises StorageError, which is not the run's fault, and Interrupted after a signal.
    """
    pruner = pruner if job.may_be_pruned else None
    if pruner is not None:
        pruner.start(trial.number, job.run, job.place or 0)
    session = TrialSession(job.run, job.run_key, trial, pruner, paths, watch)
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
    gc.collect()  # after out-of-memory: what the failed step held hangs on its traceback, in cycles
    return ended


def _told_late() -> Exception | None:
    """Return what a signal still has to say of a failure, None if nothing.

    When a DataLoader's worker dies, its pipe breaks first; torch raises the cause a moment later,
    in the handler of SIGCHLD, wherever the program is then: it must be in the run's reach.
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
