"""The study: the walk from a config to an answer, stage by stage.

    for stage in plan:
        while runs := stage.propose(recipe, outcomes):
            outcomes += executor.run(runs)
        decision = stage.decide(recipe, outcomes)
        recipe = recipe.with_(decision)

The outer loop is `_Study._walk`, the inner one `stages.stage.walk`, which `Budget.walk` ends early
where a budget does not suffice.
Resume is replay: the loop starts from nothing each time, and known runs are not trained again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import yaml  # comes with Hydra

from orchestrator import audit, build, changes
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.errors import ConfigError, StorageError, one_line
from orchestrator.paths import StudyPaths
from orchestrator.plan.budget import OutOfTime
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.record import StageRecord, Status, StudyRecord
from orchestrator.redact import hidden
from orchestrator.report.terminal import Terminal
from orchestrator.schedules import Schedule
from orchestrator.stages.stage import Stage
from orchestrator.study.closing import close, record_of
from orchestrator.study.folder import logged, owned, writable
from orchestrator.study.parts import Parts, database
from orchestrator.system import signals
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
    objective = build.objective(config)
    stages = build.stages(config, objective.facts)
    paths = StudyPaths.of(config.runs, config.study_name)
    with (
        database(config, paths.folder) as opened,
        owned(config, paths.folder, opened),
        logged(paths.log),
    ):
        terminal = terminal or Terminal(quiet=config.quiet)
        parts = Parts(config, objective, stages, paths, terminal, opened, started)
        return _Study(parts).run(tuple(map(hidden, overrides)))


class _Study:
    """One command's work on one study."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._records: list[StageRecord] = []
        self._at = ""  # name of the stage
        self._changed: list[str] = []  # settings, since the command before

    @property
    def _recipe(self) -> Recipe:
        """The recipe as the stages so far have decided it."""
        if self._records:
            return self._records[-1].recipe
        return build.recipe(self._parts.config, self._parts.objective.facts)

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
            again = "the same command" + (" without fresh=true" if self._parts.config.fresh else "")
            status, reason = "interrupted", f"interrupted; {again} goes on"
        except (StorageError, ConfigError) as error:
            log.exception("the study stopped")
            status, reason = "failed", str(error)
        except Exception as error:  # ours or that of a user's stage: the records must still close
            log.exception("the study stopped")
            status, reason = "failed", f"stage {self._at}: {one_line(error, named=True)}"
        finally:
            self._parts.executor.close()
        record = record_of(self._parts, status, reason, self._records, self._recipe, overrides)
        return close(self._parts, record)

    def _open(self) -> None:
        """Keep the config, and tell everybody that the study begins."""
        parts, config = self._parts, self._parts.config.public()
        changed = changes.since(parts.paths.config, config)
        self._changed = changes.of_training(changed)
        with writable(parts.paths.folder):
            write_atomically(parts.paths.config, yaml.safe_dump(config, sort_keys=False).encode())
        parts.terminal.study_started(
            parts.config.study_name,
            parts.description.device,
            list(parts.config.plan),
            list(parts.description.notes),
        )
        if changed:
            parts.terminal.note(
                f"settings differ from the study that was here ({changes.some(changed)}):"
                " what they affect runs again, and its answer replaces the old one"
            )
        parts.tracker.start(
            config,
            {"study_id": parts.ledger.id, "config": changes.digest(config)},
            parts.description.datasets,
        )

    def _walk(self) -> tuple[Status, str]:
        """Let one stage after the other decide; return the study's status and its reason."""
        stages, budget = self._parts.stages, self._parts.budget
        for number, stage in enumerate(stages):
            self._at = stage.name
            fitting = budget.final_that_fits(stage, self._recipe)
            decision = self._stage(number, fitting, self._recipe) if fitting else None
            if decision is None:  # the budget is over before the final runs
                continue
            needed = {f for s in stages[number + 1 :] for f in getattr(s, "needs", ())}
            last = number + 1 == len(stages)
            if not decision.answered and (last or not self._goes_on(decision, needed)):
                return self._records[-1].without_answer()
        return "complete", budget.reason

    def _stage(self, number: int, stage: Stage, recipe: Recipe) -> Decision | None:
        """Let a stage decide; None if the budget ends it before it has an answer to show."""
        parts = self._parts
        parts.terminal.stage_started(stage.name)
        parts.pace.stage_started(number, recipe)
        decision, outcomes = parts.budget.walk(stage, recipe, self._rounds(stage.name))
        parts.pace.stage_ended(number)
        if decision is None:
            return None
        if decision.kind == "lr_range" and not decision.answered:  # stages cannot train
            way_out = getattr(stage, "way_out", "")
            decision = decision.explained(parts.description.diagnose(way_out), way_out)
        read = {o.key: clue for o in outcomes if (clue := parts.watch.clue(o))}
        self._records.append(StageRecord(decision, recipe.with_(decision), outcomes, read))
        self._tell(self._records[-1])
        self._audit(stage.name)
        return decision

    def _rounds(self, stage: str) -> Callable[[list[Run]], list[Outcome]]:
        """Return what runs the rounds of a stage; before the first it says why they run again."""
        parts, first = self._parts, True

        def run_round(runs: list[Run]) -> list[Outcome]:
            nonlocal first
            signals.check()
            if first and (why := parts.ledger.why(stage, runs, self._changed)):
                parts.terminal.note(f"{stage} runs again: {why}")
            first = False
            parts.terminal.round_started(len(runs), parts.budget.left())
            return parts.executor.run(stage, runs)

        return run_round

    def _tell(self, record: StageRecord) -> None:
        """Tell everybody what a stage has decided, and the tracker what it may not know yet."""
        parts, decision = self._parts, record.decision
        parts.terminal.decided(decision, parts.budget.left())
        for outcome in record.outcomes:
            if outcome.key not in parts.trained.ended:
                clue = record.clues.get(outcome.key)
                parts.tracker.known(decision.stage, outcome, clue.label if clue else "")
        parts.tracker.decided(decision)
        log.info("%s: %s", decision.stage, decision.reason)

    def _audit(self, stage: str) -> None:
        """Let some of the stage's pruned runs go on to their ends, now that it has decided."""
        parts, record = self._parts, self._records[-1]
        if pruned := audit.chosen(record.outcomes, parts.config.audit):
            parts.terminal.round_started(len(pruned), parts.budget.left())
            with suppress(OutOfTime):  # audits are the first that a budget does without
                parts.budget.check()
                audits = parts.executor.audit(stage, pruned)
                self._records[-1] = replace(record, audits=tuple(audits))

    def _goes_on(self, decision: Decision, needed: set[str]) -> bool:
        """Whether a stage without an answer leaves enough: a range test whose max_lr was given."""
        return decision.kind == "lr_range" and all(
            getattr(self._recipe, field) is not None for field in needed
        )

    def _refuse_moving_data(self) -> None:
        """Have data that are not those of the command before checked."""
        parts = self._parts
        schedule = Schedule("constant", 1e-4, 1e-4, 0.9, 0.9)
        some_run = Run("train", schedule, 0.0, self._recipe.batch_size, 1, 0)
        moved = changes.of_data(parts.ledger.surroundings(some_run))
        if moved and (why := parts.description.recheck()):
            raise ConfigError(why)
