"""The executor that trains runs in parallel, by the workers of a pool.

Only the parent uses Optuna's ask and tell and calls the watcher. A worker trains, with a copy of
the pruner that decides in the worker. A run is compared with completed rounds only, so outcomes
equal those of the inline executor to the last bit, whichever run finishes first. Trials are opened
in the order proposed. Runs that measure time or memory are trained alone.

While a round leaves workers without work, they train what later stages are expected to ask for
(`plan.ahead`). Such a run is a trial of the stage that will ask for it; no stage sees it before.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import optuna

from orchestrator.changes import surroundings
from orchestrator.curve import Outcome, Point
from orchestrator.errors import ConfigError, StorageError, storing
from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.job import Differs, Job, failed
from orchestrator.executors.worker import Task, Written
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run

log = logging.getLogger(__name__)
TRIES = 2  # attempts at a run whose worker dies


class Worker(Protocol):
    """One worker of a pool."""

    def send(self, message: object) -> None:
        """Send it a `Task`."""


class Pool(Protocol):
    """Workers, each of which trains one run at a time.

    Attributes:
        shares_disk: Whether workers read and write the study's checkpoints themselves.
        trains_alone: Whether a worker can have a device to itself, for runs that measure time or
            memory; otherwise this process trains them, while all workers are idle.
    """

    shares_disk: bool
    trains_alone: bool

    def free(self, wanted: int, alone: bool = False) -> Any:
        """Return an idle worker, None while there is none; may start up to `wanted` workers.

        `alone`: one that has a device to itself.
        """

    def done(self, worker: Any) -> None:
        """Mark a worker as idle."""

    def listen(self) -> tuple[Any, object]:
        """Wait for the next message of any worker; None: it has died (see `remove`).

        Raises Interrupted after a signal.
        """

    def remove(self, worker: Any) -> tuple[str, bool]:
        """Remove a worker, dead or alive; return how it ended, and whether its machine is lost."""

    def rest(self) -> None:
        """Give back a device that a worker had to itself: the round has ended."""

    def close(self) -> None:
        """Stop all workers."""


class Ahead(Protocol):
    """What later stages are expected to ask for (see `plan.ahead`)."""

    def pays(self, now: Sequence[Run]) -> bool:
        """Whether `now` are trained for long enough to train others beside them."""

    def runs(self) -> Sequence[tuple[str, int, Run]]:
        """Return what to train, in this order, with its stage and its place in the round."""

    def started(self, run: Run) -> None:
        """Note that a run is trained ahead."""

    def asked(self, run: Run) -> None:
        """Note that a stage asks for a run."""


@dataclass
class Flight:
    """A job that a worker is training, and the points it has reported."""

    stage: str
    job: Job
    trial: optuna.Trial
    pruner: CluePruner | None
    points: list[Point] = field(default_factory=list)
    tries: int = 1


class ParallelExecutor(InlineExecutor):
    """Trains the runs of a round in parallel, by the workers of `pool` (see the module).

    All other arguments are those of `InlineExecutor`. A run whose worker dies is retried once, from
    its checkpoint; then it has failed. If its machine is lost the run is not to blame, and this is
    no attempt. `ahead` None: nothing is trained before a stage asks for it.
    """

    def __init__(self, *parts: Any, pool: Pool, ahead: Ahead | None = None, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._pool = pool
        self._ahead = ahead
        self._stage = ""  # whose round it is
        self._flights: dict[Any, Flight] = {}  # by worker
        self._again: deque[Flight] = deque()  # their workers died
        self._coming: deque[tuple[str, Job]] | None = None  # to be trained ahead; None: not known

    def close(self) -> None:
        """Stop the workers; runs in training are given up."""
        self._pool.close()
        self._give_up()

    def _all(self, stage: str, jobs: Sequence[Job]) -> list[Outcome]:
        self._stage, self._coming = stage, None
        if self._ahead is not None:
            for job in jobs:
                self._ahead.asked(job.run)
        outcomes = [outcome for group in groups(jobs) for outcome in self._group(stage, group)]
        self._pool.rest()
        return outcomes

    def _group(self, stage: str, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes = {job.trial_key: found for job in jobs if (found := self._known(job))}
        missing = [job for job in jobs if job.trial_key not in outcomes]
        if missing and missing[0].alone:
            self._stop_ahead()
        if len(missing) == 1 and self._trains_here(missing[0]):
            outcomes[missing[0].trial_key] = self._train(stage, missing[0])
        elif missing:
            outcomes |= self._side_by_side(stage, missing)
        return [outcomes[job.trial_key] for job in jobs]

    def _trains_here(self, job: Job) -> bool:
        """Whether this process trains a run that has no other beside it."""
        if self._pool.trains_alone:
            return False
        ahead = self._ahead is not None and self._ahead.pays([job.run])
        return job.alone or not (ahead or self._in_training())

    def _side_by_side(self, stage: str, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Return the outcomes by trial key; runs ahead may still be in training."""
        asked = {job.trial_key: job for job in jobs}
        flying = [f for f in self._in_training() if f.job.trial_key in asked]
        under_way = {f.job.trial_key for f in flying if self._serves(f, asked[f.job.trial_key])}
        waiting = deque(job for job in jobs if job.trial_key not in under_way)
        outcomes: dict[str, Outcome] = {}
        try:
            while len(outcomes) < len(jobs):
                self._start(stage, waiting, alone=jobs[0].alone)
                if not waiting and not jobs[0].alone:
                    self._start_ahead(jobs)
                worker, message = self._pool.listen()
                outcome = self._take(worker, message)
                self._ledger.asked(asked)  # one that was begun ahead may have ended
                if outcome is not None and (job := asked.get(outcome.key)):
                    outcomes[outcome.key] = replace(outcome, run=job.run)
        except BaseException:  # interrupted: no trial must stay open
            self.close()
            raise
        return outcomes

    def _in_training(self) -> list[Flight]:
        return [*self._flights.values(), *self._again]

    def _serves(self, flight: Flight, job: Job) -> bool:
        """Whether a run ahead is what the stage asks for; stop it if it is compared otherwise."""
        if not job.may_be_pruned or (flight.job.seen, flight.job.place) == (job.seen, job.place):
            return True
        for worker in [w for w, other in self._flights.items() if other is flight]:
            self._pool.remove(worker)
            del self._flights[worker]
        self._again = deque(other for other in self._again if other is not flight)
        self._ledger.abandon(flight.stage, flight.trial)
        return False

    def _start(self, stage: str, waiting: deque[Job], alone: bool) -> None:
        """Give work to idle workers: lost runs again, those of the round, then runs ahead."""
        while self._again or waiting:
            worker = self._pool.free(len(self._again) + len(waiting), alone)
            if worker is None:
                return
            if self._again:
                self._send(worker, self._again.popleft())
            else:
                self._send(worker, self._flight(stage, waiting.popleft()))

    def _start_ahead(self, jobs: Sequence[Job]) -> None:
        """Give work to workers that a round of `jobs` leaves idle."""
        if self._ahead is None or self._coming == deque():
            return
        if self._coming is None:  # found while the round is trained
            self._coming = deque(self._look_ahead(self._ahead, jobs))
        while self._coming and (worker := self._pool.free(len(self._coming))):
            then, job = self._coming.popleft()
            with self._as_in(then):
                self._send(worker, self._flight(then, job, ahead=True))
            self._ahead.started(job.run)

    def _flight(self, stage: str, job: Job, *, ahead: bool = False) -> Flight:
        pruner = self._pruner.only_for(job.run) if self._pruner and job.may_be_pruned else None
        return Flight(stage, job, self._open(stage, job, ahead=ahead), pruner)

    def _look_ahead(self, ahead: Ahead, jobs: Sequence[Job]) -> Iterator[tuple[str, Job]]:
        """Yield what idle workers may train during a round of `jobs`, with its stage."""
        asked = [job.run for job in jobs]
        if not ahead.pays(asked):
            return
        runs = {*asked, *(flight.job.run for flight in self._in_training())}
        for stage, place, run in ahead.runs():
            with self._as_in(stage):
                job = self._job(run, place)
                if run not in runs and not job.alone and self._known(job) is None:
                    self._ledger.study(stage, self._pruner)
                    yield stage, job

    @contextmanager
    def _as_in(self, stage: str) -> Iterator[None]:
        """Return a context in which runs are compared as in the next round of `stage`."""
        if self._pruner is not None:
            self._pruner.compare_with(self._earlier[stage])
        yield
        if self._pruner is not None:
            self._pruner.compare_with(self._earlier[self._stage])

    def _send(self, worker: Worker, flight: Flight) -> None:
        self._flights[worker] = flight
        job = replace(flight.job, note=None)  # a function, which the worker does not need
        if self._pool.shares_disk:
            worker.send(Task(job, flight.pruner, self._states))
            return
        keys = filter(None, (job.run_key, job.goes_on))
        states = {key: state for key in keys if (state := self._states.load(key)) is not None}
        worker.send(Task(job, flight.pruner, None, states))

    def _take(self, worker: Worker, message: object) -> Outcome | None:
        """Process a worker's message; return the outcome if its run has ended."""
        flight = self._flights.get(worker)
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, StorageError):
            raise message
        elif isinstance(message, Differs) and flight:
            raise ConfigError(self._refusal(flight.job.run, message))
        elif message is None:
            return self._dead(worker)
        elif isinstance(message, Point) and flight:
            self._point(flight, message)
        elif isinstance(message, Written) and flight:
            write = self._states.save_model if message.model else self._states.save
            write(message.key, message.state)
        elif isinstance(message, Outcome) and flight:
            del self._flights[worker]
            self._pool.done(worker)
            return self._close(flight.stage, flight.job, flight.trial, message)
        return None

    def _point(self, flight: Flight, point: Point) -> None:
        if flight.points and point.step <= flight.points[-1].step:
            return  # reported before its worker died
        flight.points.append(point)
        self._watcher.point(flight.job.run, flight.job.trial_key, point)
        with storing():
            flight.trial.report(point.held_out_loss, point.step)

    def _refusal(self, run: Run, worker: Differs) -> str:
        """Return why a worker's runs would differ from those of this process."""
        differ = ", ".join(surroundings(self._objective.context(run), worker.context))
        return (
            f"a worker process would train something else than this one ({differ}): seed what is"
            " random in a data function, do not edit code and data while a study runs, then run"
            " the same command to resume"
        )

    def _dead(self, worker: Worker) -> Outcome | None:
        """Retry the run of a worker that died once; return a failed outcome after that."""
        (how, lost), flight = self._pool.remove(worker), self._flights.pop(worker, None)
        if flight is None:
            return None
        job = flight.job
        if lost or flight.tries < TRIES:
            flight.tries += not lost
            once = "trained again elsewhere" if lost else "retried once"
            log.warning("%s: its worker process died (%s); it is %s", job.run.label, how, once)
            self._again.append(flight)
            return None
        reason = f"its worker process died twice ({how}): out of memory?"
        log.error("run %s (%s) failed: %s", job.run.label, job.trial_key, reason)
        return self._close(flight.stage, job, flight.trial, failed(job, flight.points, reason))

    def _stop_ahead(self) -> None:
        """Interrupt runs ahead: what comes now has the machine to itself. They go on later."""
        for worker in list(self._flights):
            self._pool.remove(worker)
        self._give_up()

    def _give_up(self) -> None:
        """Close the trials of all runs in training."""
        for flight in self._in_training():
            self._ledger.abandon(flight.stage, flight.trial)
        self._flights.clear()
        self._again.clear()


def groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Return the jobs in groups whose members may train in parallel, in order.

    A run that measures time or memory is a group by itself, and no group has the same run twice.
    """
    group: list[Job] = []
    for job in jobs:
        twice = job.trial_key in (other.trial_key for other in group)
        if group and (job.alone or group[-1].alone or twice):
            yield group
            group = []
        group.append(job)
    if group:
        yield group
