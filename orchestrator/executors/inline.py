"""The default executor: one run after the other, in this process."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import optuna

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.executors.session import TrialSession
from orchestrator.ledger import Ledger
from orchestrator.objectives import Objective, StopRun
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who is told of runs that are really trained."""

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """A run begins."""

    def point(self, run: Run, key: str, point: Point) -> None:
        """It measured something."""

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """It ended."""


class InlineExecutor:
    """Runs rounds. What the ledger knows is not trained again."""

    def __init__(
        self,
        ledger: Ledger,
        objective: Objective,
        pruner: optuna.pruners.BasePruner | None,
        checkpoints: Path,
        watcher: Watcher,
    ) -> None:
        self._ledger = ledger
        self._objective = objective
        self._pruner = pruner or optuna.pruners.NopPruner()
        self._checkpoints = checkpoints
        self._watcher = watcher

    def run(self, stage: str, runs: Sequence[Run]) -> list[Outcome]:
        """Return the outcomes of one round, in the order of `runs`."""
        self._ledger.study(stage, self._pruner)
        return [self._outcome(stage, run) for run in runs]

    def _outcome(self, stage: str, run: Run) -> Outcome:
        key = run.key(self._objective.context(run))
        return self._ledger.find(key, run) or self._train(stage, run, key)

    def _train(self, stage: str, run: Run, key: str) -> Outcome:
        trial = self._ledger.ask(stage, run, key)
        self._watcher.run_started(stage, run, key)
        session = TrialSession(
            run,
            key,
            trial,
            self._pruner,
            self._checkpoints,
            lambda point: self._watcher.point(run, key, point),
        )
        try:
            outcome = self._attempt(run, key, session)
        except BaseException:  # interrupted: nobody owns the trial any more
            self._ledger.abandon(stage, trial)
            raise
        self._ledger.tell(stage, trial, outcome)
        if outcome.state == "finished":  # others may go on from their checkpoint
            session.close()
        if isinstance(self._pruner, CluePruner):
            self._pruner.forget(trial.number)
        self._watcher.run_ended(stage, outcome)
        return outcome

    def _attempt(self, run: Run, key: str, session: TrialSession) -> Outcome:
        try:
            result = self._objective(run, session)
        except StopRun as stop:
            return Outcome.stopped(run, key, session.points, stop.reason, pruned=stop.pruned)
        except Exception as error:
            log.error("run %s (%s) failed\n%s", run.label, key, traceback.format_exc())
            reason = f"{type(error).__name__}: {error}"
            return Outcome(run, key, "failed", Curve.of(session.points), Result(), reason)
        return Outcome(run, key, "finished", Curve.of(session.points), result)
