"""Makes and connects the parts of a study for one command: ledger, executor, tracker, budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.errors import ConfigError, StorageError
from orchestrator.objectives import Objective, describe
from orchestrator.plan.ahead import RunAhead
from orchestrator.plan.budget import Budget
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.pace import Pace, clock_of
from orchestrator.record import SCHEMA
from orchestrator.redact import hidden
from orchestrator.report.terminal import Terminal
from orchestrator.stages.stage import Stage
from orchestrator.storage.backend import (
    Storage,
    disconnect,
    engine_of,
    is_server,
    open_storage,
)
from orchestrator.storage.lease import Lease, leased
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.paths import StudyPaths
from orchestrator.storage.patient import Patience, Patient
from orchestrator.storage.states import open_states
from orchestrator.study import results
from orchestrator.study.watch import Trained, Watch

RETRY_SECONDS, LEASE_SECONDS = 60.0, 30.0


class Parts:
    """The objects that one command needs to run one study.

    `database`: the config's, None if it names none. `lease`: the one on the study, where the
    database is a server. `started`: when the command started
    (`time.monotonic`), before torch and the data were loaded, since the budget includes that time.
    """

    def __init__(
        self,
        config: Config,
        objective: Objective,
        stages: Sequence[Stage],
        paths: StudyPaths,
        terminal: Terminal,
        database: Storage | None,
        lease: Lease | None,
        started: float,
    ) -> None:
        self.config = config
        self.objective = objective
        self.description = describe(objective)
        self.stages = stages
        self.paths = paths
        self.terminal = terminal
        self.started = started
        self.states = open_states(config.storage.checkpoints, config.study_name, paths.checkpoints)
        self.lease = lease
        kept = lease.kept if lease else {}
        self.earlier = results.earlier(paths, kept.get("summary"))
        facts = objective.facts
        self.recipe = build.recipe(config, facts)  # that the first stage gets
        pruner = build.pruner(config, facts.start_loss)
        self.ledger = Ledger(
            database or open_storage(config.storage.name, None, paths.folder),
            config.study_name,
            pruner=repr(pruner),
            context=objective.context,
            formats={"summary": SCHEMA, **self.description.formats},
            # A database may be shared with other machines.
            sole=config.storage.name != "url" or lease is not None,
            check=lease.check if lease else None,
        )
        self.tracker = build.tracker(config, facts.metric)
        self.trained = Trained()
        self.pace = self._pace()
        self.budget = self._budget()
        self.watch = Watch(
            facts.start_loss, [self.trained, self.terminal, self.tracker, self.budget]
        )
        self.ahead = self._ahead()
        self.executor = build.executor(
            config, self.ledger, objective, pruner, self.states, self.watch, self.ahead
        )

    def _pace(self) -> Pace:
        """Return the clock of this command."""
        clock = clock_of(self.objective, self.trained.seconds, time.monotonic)
        return Pace(
            self.stages,
            self.objective.facts,
            clock,
            lambda run: self.ledger.known(run.key(self.objective.context(run)), run),
            test_examples=self.description.test_examples or 0,
            before=time.monotonic() - self.started if clock is time.monotonic else 0.0,
        )

    def _budget(self) -> Budget:
        """Return the budget that earlier commands have left."""
        limit, earlier = self.config.budget.max_seconds, self.earlier
        shut = limit is not None and earlier.used_up == limit
        return Budget(
            self.pace,
            limit,
            self.config.budget.final_runs,
            self.price,
            earlier.budget_seconds,
            shut,
        )

    def _ahead(self) -> RunAhead | None:
        """Return what finds runs for idle workers, None without workers."""
        share: float | None = getattr(self.config.executor, "ahead", None)
        if not share:
            return None
        limit = self.config.budget.final_runs
        return RunAhead(self.pace, self.price, limit, share, self.config.prunes)

    def price(self, outcomes: Sequence[Outcome]) -> FinalRuns:
        """Return the prices of runs in final runs."""
        tested = self.description.test_examples or 0
        return FinalRuns(
            self.objective.facts,
            self.config.recipe.batch_size,
            tested,
            outcomes,
            self.description.continues,
        )


@contextmanager
def database(config: Config, folder: Path) -> Iterator[Storage | None]:
    """Yield the config's database; raise ConfigError if it cannot be opened."""
    if config.storage.name != "url":
        yield None
        return
    try:
        opened = open_storage("url", config.storage.url, folder)
    except StorageError as error:
        raise ConfigError(hidden(str(error))) from error
    try:
        yield opened
    finally:
        disconnect(opened)


@contextmanager
def guarded(
    config: Config, database: Storage | None, note: Callable[[str], object]
) -> Iterator[tuple[Storage | None, Lease | None]]:
    """Yield a server's database that is tried again if it is away, and the lease on the study.

    Other storages have no lease: the lock in the study's folder is enough. Raises ConfigError if
    another command works on the study. `note` is told what this waits for.
    """
    storage = config.storage
    engine = None if database is None else engine_of(database)
    if engine is None or not is_server(storage.url):
        yield database, None
        return
    patience = Patience(RETRY_SECONDS if storage.retry_seconds is None else storage.retry_seconds)
    seconds = storage.lease_seconds or LEASE_SECONDS
    lease = Lease(engine, config.study_name, seconds, patience)
    with leased(lease, note):
        yield Patient(database, patience), lease
