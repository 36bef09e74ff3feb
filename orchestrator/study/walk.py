"""The study: the walk from a config to an answer, stage by stage.

    for stage in plan:
        while runs := stage.propose(recipe, outcomes):
            outcomes += executor.run(runs)
        decision = stage.decide(recipe, outcomes)
        recipe = recipe.with_(decision)

The outer loop is `_Study._walk`, the inner one `stages.stage.walk`, which `Pace.walk` ends early
where a budget does not suffice.
Resume is replay: the loop starts from nothing each time, and known runs are not trained again.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml  # comes with Hydra

from orchestrator import audit, build, changes
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.errors import ConfigError, StorageError
from orchestrator.objectives import Objective, describe
from orchestrator.plan.pace import OutOfTime, Pace, clock_of
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.record import SCHEMA, StageRecord, Status, StudyRecord
from orchestrator.redact import hidden
from orchestrator.report.terminal import Terminal
from orchestrator.schedules import Schedule
from orchestrator.stages.stage import Stage
from orchestrator.storage.backend import Storage, disconnect, open_storage
from orchestrator.storage.ledger import Ledger
from orchestrator.study import results
from orchestrator.study.folder import logged, owned, writable
from orchestrator.study.model_files import is_served, served, set_aside
from orchestrator.study.watch import Watch
from orchestrator.system import host, signals
from orchestrator.system.files import write_atomically

log = logging.getLogger(__name__)


def run_study(
    config: Config, terminal: Terminal | None = None, overrides: Sequence[str] = ()
) -> StudyRecord:
    """Run the study that `config` describes, or go on with it, and return what came out.

    Writes `runs/<study_name>/` (see the README). Raises ConfigError where the request turns out to
    be wrong before anything trains, or if another process runs this study; StorageError if what it
    keeps cannot be opened. Ctrl-C gives a record with status "interrupted". `overrides`, as typed,
    are kept with it.
    """
    if config.dry_run:
        raise ConfigError("dry_run: run_study trains; orchestrator.plan.plan_study makes the plan")
    started = time.monotonic()
    runs = Path(config.runs)
    objective = build.objective(config, runs / ".cache")
    stages = build.stages(config, objective.facts)
    folder = runs / config.study_name
    with (
        _database(config, folder) as database,
        owned(config, folder, database),
        logged(folder / "study.log"),
    ):
        terminal = terminal or Terminal(quiet=config.quiet)
        study = _Study(config, objective, stages, folder, terminal, database, started)
        return study.run(tuple(map(hidden, overrides)))


class _Study:
    """One command's work on one study: the rooms wired together."""

    def __init__(
        self,
        config: Config,
        objective: Objective,
        stages: Sequence[Stage],
        folder: Path,
        terminal: Terminal,
        database: Storage | None,
        started: float,
    ) -> None:
        self.started = started  # before torch and the data were loaded: a budget counts that too
        self.config = config
        self.objective = objective
        self.description = describe(objective)
        self.stages = stages
        self.folder = folder
        self.terminal = terminal
        self.earlier = results.earlier(folder)
        self.records: list[StageRecord] = []
        self.at = ""  # name of the stage
        self.changed: list[str] = []  # settings, since the command before
        pruner = build.pruner(config, objective.facts.start_loss)
        self.ledger = Ledger(
            database or open_storage(config.storage.name, None, folder),
            config.study_name,
            pruner=repr(pruner),
            context=objective.context,
            formats={"summary": SCHEMA, **self.description.formats},
            sole=config.storage.name != "url",  # a database may be shared with other machines
        )
        self.tracker = build.tracker(config, objective.facts.metric, folder)
        self.watch = Watch(self.terminal, self.tracker, objective.facts.start_loss)
        self.pace = self.watch.pace = self._pace()
        self.executor = build.executor(
            config, self.ledger, objective, pruner, folder / results.CHECKPOINTS, self.watch
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe as the stages so far have decided it."""
        return self.records[-1].recipe if self.records else build.recipe(self.config)

    def run(self, overrides: tuple[str, ...]) -> StudyRecord:
        """Walk the stages; write and tell whatever came of it.

        Raises ConfigError, before anything is written, for data that are others at every call.
        """
        self._refuse_moving_data()
        self._open()
        status: Status
        try:
            with signals.patiently():
                status, reason = self._walk()
        except KeyboardInterrupt:
            again = "the same command" + (" without fresh=true" if self.config.fresh else "")
            status, reason = "interrupted", f"interrupted; {again} goes on"
        except (StorageError, ConfigError) as error:
            log.exception("the study stopped")
            status, reason = "failed", str(error)
        except Exception as error:  # ours or that of a user's stage: the records must still close
            log.exception("the study stopped")
            status, reason = "failed", f"stage {self.at}: {type(error).__name__}: {error}"
        finally:
            self.executor.close()
        return self._close(self._record(status, reason, overrides))

    # --- the walk

    def _walk(self) -> tuple[Status, str]:
        """Let one stage after the other decide; return the study's status and its reason."""
        for number, stage in enumerate(self.stages):
            self.at = stage.name
            fitting = self.pace.final_that_fits(stage, self.recipe)
            decision = self._stage(number, fitting, self.recipe) if fitting else None
            if decision is None:  # the budget is over before the final runs
                continue
            needed = {f for s in self.stages[number + 1 :] for f in getattr(s, "needs", ())}
            last = number + 1 == len(self.stages)
            if not decision.answered and (last or not self._goes_on(decision, needed)):
                return self.records[-1].without_answer()
        return "complete", self.pace.said

    def _stage(self, number: int, stage: Stage, recipe: Recipe) -> Decision | None:
        """Let a stage decide; None if the budget ends it before it has an answer to show."""
        self.terminal.stage_started(stage.name)
        self.pace.stage_started(number, recipe)
        decision, outcomes = self.pace.walk(stage, recipe, self._rounds(stage.name))
        self.pace.stage_ended(number)
        if decision is None:
            return None
        if decision.kind == "lr_range" and not decision.answered:  # stages cannot train
            way_out = getattr(stage, "way_out", "")
            decision = decision.explained(self.description.diagnose(way_out), way_out)
        read = {o.key: clue for o in outcomes if (clue := self.watch.clue(o))}
        self.records.append(StageRecord(decision, recipe.with_(decision), outcomes, read))
        self._tell(self.records[-1])
        self._audit(stage.name)
        return decision

    def _rounds(self, stage: str) -> Callable[[list[Run]], list[Outcome]]:
        """Return what runs the rounds of a stage; before the first it says why they run again."""
        first = True

        def run_round(runs: list[Run]) -> list[Outcome]:
            nonlocal first
            signals.check()
            if first and (why := self.ledger.why(stage, runs, self.changed)):
                self.terminal.note(f"{stage} runs again: {why}")
            first = False
            self.watch.round_started(len(runs))
            return self.executor.run(stage, runs)

        return run_round

    def _tell(self, record: StageRecord) -> None:
        """Tell everybody what a stage has decided, and the tracker what it may not know yet."""
        decision = record.decision
        self.terminal.decided(decision, self.pace.left())
        for outcome in record.outcomes:
            if outcome.key not in self.watch.ended:
                self.tracker.known(decision.stage, outcome, record.clues.get(outcome.key, ""))
        self.tracker.decided(decision)
        log.info("%s: %s", decision.stage, decision.reason)

    def _audit(self, stage: str) -> None:
        """Let some of the stage's pruned runs go on to their ends, now that it has decided."""
        record = self.records[-1]
        if pruned := audit.chosen(record.outcomes, self.config.audit):
            self.watch.round_started(len(pruned))
            with suppress(OutOfTime):  # audits are the first that a budget does without
                self.pace.point()
                audits = self.executor.audit(stage, pruned)
                self.records[-1] = replace(record, audits=tuple(audits))

    def _goes_on(self, decision: Decision, needed: set[str]) -> bool:
        """Whether a stage without an answer leaves enough: a range test whose max_lr was given."""
        return decision.kind == "lr_range" and all(
            getattr(self.recipe, field) is not None for field in needed
        )

    # --- before and after it

    def _refuse_moving_data(self) -> None:
        """Have data that are not those of the command before checked."""
        schedule = Schedule("constant", 1e-4, 1e-4, 0.9, 0.9)
        some_run = Run("train", schedule, 0.0, self.recipe.batch_size, 1, 0)
        moved = changes.of_data(self.ledger.surroundings(some_run))
        if moved and (why := self.description.recheck()):
            raise ConfigError(why)

    def _open(self) -> None:
        """Keep the config, and tell everybody that the study begins."""
        config = self.config.public()
        file = self.folder / results.CONFIG
        changed = changes.since(file, config)
        self.changed = changes.of_training(changed)
        with writable(self.folder):
            write_atomically(file, yaml.safe_dump(config, sort_keys=False).encode())
        self.terminal.study_started(
            self.config.study_name,
            self.description.device,
            list(self.config.plan),
            list(self.description.notes),
        )
        if changed:
            self.terminal.note(
                f"settings differ from the study that was here ({changes.some(changed)}):"
                " what they affect runs again, and its answer replaces the old one"
            )
        self.tracker.start(
            config,
            {"study_id": self.ledger.id, "config": changes.digest(config)},
            self.description.datasets,
        )

    def _pace(self) -> Pace:
        """Return the clock of this command, and what earlier ones left of the budget."""
        limit = self.config.budget.max_seconds
        clock = clock_of(self.objective, self.watch.seconds, time.monotonic)
        return Pace(
            self.stages,
            self.objective.facts,
            clock,
            lambda run: self.ledger.known(run.key(self.objective.context(run)), run),
            limit,
            self.earlier.budget_seconds,
            shut=limit is not None and self.earlier.used_up == limit,
            test_examples=self.description.test_examples or 0,
            before=time.monotonic() - self.started if clock is time.monotonic else 0.0,
        )

    def _record(self, status: Status, reason: str, overrides: tuple[str, ...]) -> StudyRecord:
        seconds = time.monotonic() - self.started if self.watch.trained else 0.0
        return StudyRecord(
            study=self.config.study_name,
            status=status,
            recipe=self.recipe,
            stages=self.records,
            device=self.description.device,
            machine=host.machine(),
            versions=_versions(self.description.versions),
            metric=self.objective.facts.metric,
            larger_is_better=self.objective.facts.larger_is_better,
            total_seconds=self.earlier.total_seconds + seconds,
            notes=self.description.notes,
            reason=hidden(reason),
            model_dropout=self.objective.facts.dropout,
            budget=self.pace.summary(self.watch.trained),
            first_test_seconds=self._first_test(),
            overrides=overrides,
            folder=self.folder,
            inputs=self.description.inputs,
            task=self.description.task,
            final_epochs=self.config.final_epochs,
        )

    def _close(self, record: StudyRecord) -> StudyRecord:
        """Write what came of the study and tell everybody; return it as it is then."""
        files: list[Path] = []
        try:
            try:
                files = results.write(record, self.folder)
                if old := set_aside(record, self.folder):
                    self.terminal.note(f"of an earlier answer, not of this one: {', '.join(old)}")
            except OSError as error:  # a full disk: the trials are kept, the answer comes again
                log.exception("the results cannot be written")
                why = (
                    f"the results cannot be written: {error}; make room, then the same command"
                    " writes them"
                )
                record = replace(record, status="failed", reason=record.reason or why)
            self.terminal.finished(record, self.folder)
        finally:
            try:
                self.tracker.finish(record.status, record.summary(), files, self._served(record))
            finally:
                self.terminal.close()  # now only: the tracker may have something to say
        return record

    def _first_test(self) -> float | None:
        """Return the study's seconds until its first sealed result, None before that."""
        if any(o.key not in self.watch.tested for r in self.records for o in r.tested):
            return self.earlier.first_test_seconds  # an earlier command had it
        first = min(self.watch.tested.values(), default=None)
        return None if first is None else self.earlier.total_seconds + first - self.started

    def _served(self, record: StudyRecord) -> Mapping[str, Any] | None:
        """Return the network of an answer, ready for MLflow; made only where somebody takes it."""
        wanted = record.status == "complete" and record.final is not None
        if not wanted or self.config.tracking.name == "none" or not self.config.tracking.model:
            return None
        if not self.watch.trained and is_served(self.folder):  # an answer told again: it was sent
            return None
        return served(self.description, self.folder)


@contextmanager
def _database(config: Config, folder: Path) -> Iterator[Storage | None]:
    """Yield the config's database; ConfigError if it cannot be opened, before a folder is made."""
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


def _versions(own: Mapping[str, str]) -> dict[str, str]:
    names = ("orchestrator", "optuna", "numpy")
    ours = {name: _version(name) for name in names}
    return {"python": platform.python_version(), **ours, **own}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # ourselves, on PYTHONPATH
        return "not installed"
