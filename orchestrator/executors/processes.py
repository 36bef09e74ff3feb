"""The executor that trains runs in parallel, each in a worker process of this machine.

Only the parent uses Optuna's ask and tell and calls the watcher. A worker trains, with a copy of
the pruner that decides in the worker. A run is compared with completed rounds only, so outcomes
equal those of the inline executor to the last bit, whichever run finishes first. Trials are opened
in the order proposed. Runs that measure time or memory are trained in the parent, while all workers
are idle.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from orchestrator.changes import surroundings
from orchestrator.curve import Outcome, Point
from orchestrator.errors import ConfigError, StorageError, storing
from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.job import Differs, Job, failed
from orchestrator.executors.pool import Worker, WorkerPool
from orchestrator.recipe import Run

log = logging.getLogger(__name__)
TRIES = 2  # attempts at a run whose worker dies


@dataclass
class Flight:
    """A job that a worker is training, and the points it has reported."""

    job: Job
    trial: optuna.Trial
    points: list[Point] = field(default_factory=list)
    tries: int = 1


class ProcessExecutor(InlineExecutor):
    """Trains the runs of a round in parallel, in the processes of `pool` (see the module).

    All other arguments are those of `InlineExecutor`. A run whose worker dies is retried once, from
    its checkpoint; then it has failed. There is no timeout: a worker that hangs cannot be
    distinguished from a slow one.
    """

    def __init__(self, *parts: Any, pool: WorkerPool, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._pool = pool
        self._flights: dict[Worker, Flight] = {}

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()

    def _all(self, stage: str, jobs: Sequence[Job]) -> list[Outcome]:
        return [outcome for group in groups(jobs) for outcome in self._group(stage, group)]

    def _group(self, stage: str, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes = {job.trial_key: found for job in jobs if (found := self._known(job))}
        missing = [job for job in jobs if job.trial_key not in outcomes]
        if len(missing) == 1:  # nothing to train in parallel
            outcomes[missing[0].trial_key] = self._train(stage, missing[0])
        elif missing:
            outcomes |= {o.key: o for o in self._side_by_side(stage, missing)}
        return [outcomes[job.trial_key] for job in jobs]

    def _side_by_side(self, stage: str, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcomes as they come."""
        waiting = deque(jobs)
        try:
            while waiting or self._flights:
                while waiting and (worker := self._pool.free()):
                    job = waiting.popleft()
                    self._send(worker, Flight(job, self._open(stage, job)))
                worker, message = self._pool.listen()
                if outcome := self._take(stage, worker, message):
                    yield outcome
        finally:  # interrupted: no trial must stay open
            if self._flights:
                self._pool.close()
            for flight in self._flights.values():
                self._ledger.abandon(stage, flight.trial)
            self._flights.clear()

    def _send(self, worker: Worker, flight: Flight) -> None:
        self._flights[worker] = flight
        job = replace(flight.job, note=None)  # a function, which the worker does not need
        pruner = self._pruner and self._pruner.only_for(job.run)
        worker.send((job, pruner, self._paths))

    def _take(self, stage: str, worker: Worker, message: object) -> Outcome | None:
        """Process a worker's message; return the outcome if its run has ended."""
        flight = self._flights.get(worker)
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, StorageError):
            raise message
        elif isinstance(message, Differs) and flight:
            raise ConfigError(self._refusal(flight.job.run, message))
        elif message is None:
            return self._dead(stage, worker)
        elif isinstance(message, Point) and flight:
            self._point(flight, message)
        elif isinstance(message, Outcome) and flight:
            del self._flights[worker]
            self._pool.done(worker)
            return self._close(stage, flight.job, flight.trial, message)
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

    def _dead(self, stage: str, worker: Worker) -> Outcome | None:
        """Retry the run of a worker that died once; return a failed outcome after that."""
        how, flight = self._pool.remove(worker), self._flights.pop(worker, None)
        if flight is None:
            return None
        job = flight.job
        if flight.tries < TRIES and (other := self._pool.free()):
            flight.tries += 1
            log.warning("%s: its worker process died (%s); it is retried once", job.run.label, how)
            self._send(other, flight)
            return None
        reason = f"its worker process died twice ({how}): out of memory?"
        log.error("run %s (%s) failed: %s", job.run.label, job.trial_key, reason)
        return self._close(stage, job, flight.trial, failed(job, flight.points, reason))


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
