"""The default executor: one run after the other, in this process."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from orchestrator.audit import Audit, best_loss
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
    """Runs rounds. What the ledger knows is not trained again.

    `pruner` None: every run goes to its end.
    """

    def __init__(
        self,
        ledger: Ledger,
        objective: Objective,
        pruner: CluePruner | None,
        checkpoints: Path,
        watcher: Watcher,
    ) -> None:
        self._ledger = ledger
        self._objective = objective
        self._pruner = pruner
        self._checkpoints = checkpoints
        self._watcher = watcher
        self._outcomes: dict[str, list[Outcome]] = {}  # of each stage's rounds so far

    def run(self, stage: str, runs: Sequence[Run]) -> list[Outcome]:
        """Return the outcomes of one round, in the order of `runs`.

        If all training runs of a stage have been pruned so far, the least bad goes on to its end:
        the stage needs something to decide by.
        """
        self._ledger.study(stage, self._pruner)
        earlier = self._outcomes.setdefault(stage, [])
        if self._pruner is not None:
            self._pruner.compare_with(earlier)
        outcomes = [self._outcome(stage, run, place) for place, run in enumerate(runs)]
        if not any(o.state == "finished" and o.run.kind == "train" for o in (*earlier, *outcomes)):
            self._save_one(stage, outcomes)
        earlier += outcomes
        return outcomes

    def audit(self, stage: str, pruned: Sequence[Outcome]) -> list[Audit]:
        """Let pruned runs of a stage that has decided go on to their ends, and judge the pruner."""
        audits = [self._audited(stage, outcome) for outcome in pruned]
        return [audit for audit in audits if audit.end.state == "finished"]

    def _audited(self, stage: str, pruned: Outcome) -> Audit:
        chance = self._objective.facts.chance_loss
        best = best_loss(self._outcomes[stage], pruned.run.steps, chance)
        named = replace(pruned, run=replace(pruned.run, label=f"{pruned.run.label}, audit"))
        key = f"{pruned.key}-audit"  # no stage asks for it: decisions do not depend on audits
        end = self._to_its_end(stage, named, key, lambda end: Audit(pruned, end, best).verdict)
        return Audit(pruned, end, best)

    def _save_one(self, stage: str, outcomes: list[Outcome]) -> None:
        """Replace the least bad of the pruned outcomes by its end: it got furthest, and lowest."""
        pruned = [o for o in outcomes if o.state == "pruned"]
        alive = [o for o in pruned if math.isfinite(o.curve.held_out_loss[-1])]
        if not alive:
            return
        least = min(alive, key=lambda o: (-o.curve.progress[-1], o.curve.held_out_loss[-1]))
        note = f"all {len(pruned)} runs were pruned, this is the least bad ({least.reason})"
        if self._ledger.find(least.key, least.run, prunable=False) is None:  # not said in a replay
            log.warning("%s: %s; it goes on: %s", stage, note, least.run.label)
        end = self._to_its_end(stage, least, least.key, lambda _: note)
        if end.state == "finished":
            outcomes[outcomes.index(least)] = end

    def _to_its_end(
        self, stage: str, pruned: Outcome, key: str, note: Callable[[Outcome], str]
    ) -> Outcome:
        """Return how a pruned run ends if it goes on from its checkpoint, as a new trial."""
        found = self._ledger.find(key, pruned.run, prunable=False)
        return found or self._train(stage, pruned.run, key, checkpoint=pruned.key, note=note)

    def _outcome(self, stage: str, run: Run, place: int) -> Outcome:
        key = run.key(self._objective.context(run))
        seen = self._pruner.seen(run, place) if self._pruner else ""
        if found := self._ledger.find(key, run, seen):
            return found
        return self._train(stage, run, key, place=place, seen=seen)

    def _train(
        self,
        stage: str,
        run: Run,
        key: str,
        *,
        place: int | None = None,
        seen: str = "",
        checkpoint: str = "",
        note: Callable[[Outcome], str] | None = None,
    ) -> Outcome:
        """Train a run. `place` None: it may not be pruned. `note` gives a finished one its reason.

        `checkpoint`: the key of the run to go on from, its own by default.
        """
        trial = self._ledger.ask(stage, run, key, seen)
        self._watcher.run_started(stage, run, key)
        pruner = self._pruner if run.prunable and place is not None else None
        if pruner is not None:
            pruner.start(trial.number, run, place or 0)
        session = TrialSession(
            run,
            checkpoint or key,
            trial,
            pruner,
            self._checkpoints,
            lambda point: self._watcher.point(run, key, point),
        )
        try:
            outcome = self._attempt(run, key, session)
        except BaseException:  # interrupted: nobody owns the trial any more
            self._ledger.abandon(stage, trial)
            raise
        finally:
            if pruner is not None:
                pruner.forget(trial.number)
        if note is not None and outcome.state == "finished":
            outcome = replace(outcome, reason=note(outcome))
        self._ledger.tell(stage, trial, outcome)
        if outcome.state == "finished":  # others may go on from their checkpoint
            session.close()
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
