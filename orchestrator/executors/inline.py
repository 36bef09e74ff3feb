"""The default executor: one run after the other, in this process."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

import optuna

from orchestrator.audit import Audit, best_loss
from orchestrator.curve import Outcome, Point
from orchestrator.executors.idle import IdleWait
from orchestrator.executors.job import Job, train
from orchestrator.objectives import Objective
from orchestrator.pruners import CluePruner
from orchestrator.pruners.peers import Peers
from orchestrator.recipe import Run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.states import States

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Callbacks of an executor, for runs that are trained and not taken from the ledger."""

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Called when a run starts.

        Args:
            stage: Name of the stage.
            run: What is trained.
            trial_key: The trial's key in later calls.
        """

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Called for each measurement of a run.

        Args:
            run: What is trained.
            trial_key: The trial's key.
            point: The measurement.

        Raises:
            StopRun: The run ends here.
        """

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """Called when a run ended.

        Args:
            stage: Name of the stage.
            outcome: The result of the run.
        """


class InlineExecutor:
    """Trains rounds of runs in this process. Runs that are in the ledger are not trained again.

    `pruner` None: every run is trained to its end. `idle`: the wait before a timed run is repeated.
    """

    def __init__(
        self,
        ledger: Ledger,
        objective: Objective,
        pruner: CluePruner | None,
        states: States,
        watcher: Watcher,
        idle: IdleWait | None = None,
    ) -> None:
        self._ledger = ledger
        self._objective = objective
        self._pruner = pruner
        self._states = states
        self._watcher = watcher
        self._idle = idle or IdleWait()
        self._earlier: dict[str, Peers] = defaultdict(Peers)  # of each stage's rounds so far

    def run(self, stage: str, runs: Sequence[Run]) -> list[Outcome]:
        """Return the outcomes of one round, in the order of `runs`.

        If all training runs of a stage have been pruned so far, the best of them is trained to its
        end: the stage needs a result to decide.
        """
        self._ledger.study(stage, self._pruner)
        earlier = self._earlier[stage]
        if self._pruner is not None:
            self._pruner.compare_with(earlier)
        jobs = [self._job(run, place) for place, run in enumerate(runs)]
        self._ledger.asked(job.trial_key for job in jobs)
        outcomes = self._all(stage, jobs)
        so_far = chain(earlier.outcomes, outcomes)
        if not any(o.state == "finished" and o.run.kind == "train" for o in so_far):
            self._save_one(stage, outcomes)
        earlier.add(outcomes)
        return outcomes

    def audit(self, stage: str, pruned: Sequence[Outcome]) -> list[Audit]:
        """Train pruned runs of a stage that has decided to their ends, to judge the pruner."""
        chance, earlier = self._objective.facts.chance_loss, self._earlier[stage].outcomes
        best = [best_loss(earlier, outcome.run.steps, chance) for outcome in pruned]
        ends = self._all(stage, [_audit(*parts) for parts in zip(pruned, best, strict=True)])
        audits = [Audit(*parts) for parts in zip(pruned, ends, best, strict=True)]
        return [audit for audit in audits if audit.end.state == "finished"]

    def is_kept(self, run: Run) -> bool:
        """Return whether a run has ended and its state was kept."""
        return self._states.is_kept(run.key(self._objective.context(run)))

    def close(self) -> None:
        """Release what the executor holds; this one holds nothing."""

    def _save_one(self, stage: str, outcomes: list[Outcome]) -> None:
        """Train the best of the pruned runs, the one that got furthest and lowest, to its end."""
        pruned = [o for o in outcomes if o.state == "pruned"]
        alive = [o for o in pruned if math.isfinite(o.curve.held_out_loss[-1])]
        if not alive:
            return
        least = min(alive, key=lambda o: (-o.curve.progress[-1], o.curve.held_out_loss[-1]))
        note = f"all {len(pruned)} runs were pruned, this is the best of them ({least.reason})"
        job = Job(least.run, least.key, note=lambda _: note)
        if self._known(job) is None:  # not logged in a replay
            log.warning("%s: %s; it is trained to its end: %s", stage, note, least.run.label)
        (end,) = self._all(stage, [job])
        if end.state == "finished":
            outcomes[outcomes.index(least)] = end

    def _job(self, run: Run, place: int) -> Job:
        run_key = run.key(self._objective.context(run))
        seen = self._pruner.seen(run, place) if self._pruner else ""
        held_out = run.goes_on_from
        goes_on = held_out.key(self._objective.context(held_out)) if held_out else None
        return Job(run, run_key, place, seen, goes_on=goes_on)

    def _known(self, job: Job) -> Outcome | None:
        return self._ledger.find(job.trial_key, job.run, job.seen, prunable=job.place is not None)

    def _all(self, stage: str, jobs: Sequence[Job]) -> list[Outcome]:
        """Return the outcomes of `jobs`, in their order, from the ledger or trained."""
        return [self._known(job) or self._train(stage, job) for job in jobs]

    def _train(self, stage: str, job: Job) -> Outcome:
        """Train a run in this process."""
        if job.run.timed and job.run.attempt:
            self._idle.wait(job.run.label, self._first_attempt(stage, job.run))
        trial = self._open(stage, job)
        try:
            outcome = train(
                job,
                self._objective,
                trial,
                self._pruner,
                self._states,
                lambda point: self._watcher.point(job.run, job.trial_key, point),
            )
        except BaseException:  # interrupted: the trial must not stay open
            self._ledger.abandon(stage, trial)
            raise
        return self._close(stage, job, trial, outcome)

    def _first_attempt(self, stage: str, run: Run) -> float:
        """Return the seconds that the first attempt at a timed run took, inf if it is not known."""
        first = replace(run, attempt=0)
        seen = (o.result.seconds for o in self._earlier[stage].outcomes if o.run == first)
        return next(seen, math.inf)

    def _open(self, stage: str, job: Job, *, ahead: bool = False) -> optuna.Trial:
        trial = self._ledger.ask(stage, job.run, job.trial_key, job.seen, ahead=ahead)
        self._watcher.run_started(stage, job.run, job.trial_key)
        return trial

    def _close(self, stage: str, job: Job, trial: optuna.Trial, outcome: Outcome) -> Outcome:
        if job.note is not None and outcome.state == "finished":
            outcome = replace(outcome, reason=job.note(outcome))
        self._ledger.tell(stage, trial, outcome)
        if outcome.state == "finished" and not job.run.keeps_end:  # others may resume from theirs
            self._states.drop(job.run_key)
        self._watcher.run_ended(stage, outcome)
        return outcome


def _audit(pruned: Outcome, best: float) -> Job:
    """Return the job of training a pruned run to its end."""
    return Job(
        replace(pruned.run, label=f"{pruned.run.label}, audit"),
        pruned.key,
        audit=True,
        note=lambda end: Audit(pruned, end, best).verdict,
    )
