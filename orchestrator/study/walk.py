"""The main loop of a study: from a config to a recipe, stage by stage.

    for stage in plan:
        while runs := stage.propose(recipe, outcomes):
            outcomes += executor.run(runs)
        decision = stage.decide(recipe, outcomes)
        recipe = recipe.with_(decision)

The outer loop is `_Study._walk`. The inner one is `stages.stage.walk`, which `Budget.walk` ends
early if the budget is too small. Resuming is a replay: the loop starts from the beginning each
time, and runs in the ledger are not trained again.
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
from orchestrator.plan.budget import OutOfTime
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.record import StageRecord, Status, StudyRecord
from orchestrator.redact import hidden
from orchestrator.report.terminal import Terminal
from orchestrator.schedules import Schedule
from orchestrator.stages.expected.answer import Answer
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.stage import Stage
from orchestrator.storage.paths import StudyPaths
from orchestrator.study.closing import close, record_of
from orchestrator.study.folder import logged, owned, writable
from orchestrator.study.parts import Parts, database, guarded
from orchestrator.system import signals
from orchestrator.system.files import write_atomically

log = logging.getLogger(__name__)
INTERRUPTED = 130  # exit code after Ctrl-C


def run_study(
    config: Config, terminal: Terminal | None = None, overrides: Sequence[str] = ()
) -> StudyRecord:
    """Run the study of `config`, or resume it, and return its record.

    Writes `runs/<study_name>/` (see the README). Raises ConfigError if the config is wrong or
    another process runs this study, before anything trains; StorageError if the storage cannot be
    opened. Ctrl-C returns a record with status "interrupted". `overrides`, as typed, are stored
    with the study.
    """
    if config.dry_run:
        raise ConfigError("dry_run: run_study trains; call orchestrator.plan.plan_study for a plan")
    started = time.monotonic()
    objective = build.objective(config)
    stages = build.stages(config, objective.facts)
    paths = StudyPaths.of(config.runs, config.study_name)
    terminal = terminal or Terminal(quiet=config.quiet)
    with (
        database(config, paths.folder) as opened,
        guarded(config, opened, terminal.note) as (storage, lease),
        owned(config, paths.folder, storage, lease),
        logged(paths.log),
    ):
        parts = Parts(config, objective, stages, paths, terminal, storage, lease, started)
        return _Study(parts).run(tuple(map(hidden, overrides)))


class _Study:
    """One command on one study."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._records: list[StageRecord] = []
        self._at = ""  # name of the stage
        self._changed: list[str] = []  # settings, since the last command

    @property
    def _recipe(self) -> Recipe:
        """The recipe after the stages so far."""
        return self._records[-1].recipe if self._records else self._parts.recipe

    def run(self, overrides: tuple[str, ...]) -> StudyRecord:
        """Run the stages, write the results, and return the record.

        Raises ConfigError, before anything is written, for data that differ at every call.
        """
        self._refuse_moving_data()
        self._open()
        status: Status
        try:
            with signals.patiently():
                status, reason = self._walk()
        except KeyboardInterrupt:
            self._test_what_is_there()
            again = "the same command" + (" without fresh=true" if self._parts.config.fresh else "")
            status, reason = "interrupted", f"interrupted; run {again} to resume"
        except (StorageError, ConfigError) as error:
            log.exception("the study stopped")
            status, reason = "failed", str(error)
        except Exception as error:  # ours or of a user's stage: the results must still be written
            log.exception("the study stopped")
            status, reason = "failed", f"stage {self._at}: {one_line(error, named=True)}"
        finally:
            self._parts.executor.close()
        record = record_of(self._parts, status, reason, self._records, self._recipe, overrides)
        return close(self._parts, record)

    def _open(self) -> None:
        """Write the config, and start terminal and tracker."""
        parts, config = self._parts, self._parts.config.public()
        before = parts.lease and parts.lease.kept.get("config")
        changed = changes.since(before or changes.kept(parts.paths.config), config)
        self._changed = changes.of_training(changed)
        with writable(parts.paths.folder):
            write_atomically(parts.paths.config, yaml.safe_dump(config, sort_keys=False).encode())
        if parts.lease is not None:
            parts.lease.keep(config=config)
        parts.terminal.study_started(
            parts.config.study_name,
            parts.description.device,
            list(parts.config.plan),
            list(parts.description.notes),
        )
        if changed:
            parts.terminal.note(
                f"settings differ from the study that was here ({changes.some(changed)}):"
                " what they affect runs again, and the new result replaces the old one"
            )
        parts.tracker.start(
            config,
            {"study_id": parts.ledger.id, "config": changes.digest(config)},
            parts.description.datasets,
        )

    def _walk(self) -> tuple[Status, str]:
        """Run one stage after the other; return the study's status and its reason."""
        stages, budget = self._parts.stages, self._parts.budget
        for number, stage in enumerate(stages):
            self._at = stage.name
            fitting = budget.final_that_fits(stage, self._recipe)
            decision = self._stage(number, fitting, self._recipe) if fitting else None
            if decision is None and isinstance(stage, Answer):
                decision = self._best_so_far(number, stage)
            if decision is None:  # the budget is over before the final runs
                continue
            needed = {f for s in stages[number + 1 :] for f in getattr(s, "needs", ())}
            last = number + 1 == len(stages)
            if not decision.answered and (last or not self._goes_on(decision, needed)):
                return self._records[-1].without_answer()
        warning = self._records[-1].decision.evidence.get("warning", "") if self._records else ""
        return "complete", "; ".join(filter(None, (warning, budget.reason)))

    def _stage(self, number: int, stage: Stage, recipe: Recipe) -> Decision | None:
        """Run a stage to its decision; None if the budget ends it before it can decide."""
        parts = self._parts
        parts.terminal.stage_started(stage.name)
        parts.pace.stage_started(number, recipe)
        decision, outcomes = parts.budget.walk(stage, recipe, self._rounds(stage.name))
        parts.pace.stage_ended(number)
        if decision is None:
            return None
        # No later stage can train.
        if decision.kind in ("lr_range", "first_run") and not decision.answered:
            way_out = getattr(stage, "way_out", "")
            decision = decision.explained(parts.description.diagnose(way_out), way_out)
        read = {o.key: clue for o in outcomes if (clue := parts.watch.clue(o))}
        self._records.append(StageRecord(decision, recipe.with_(decision), outcomes, read))
        self._tell(self._records[-1])
        self._audit(stage.name)
        return decision

    def _best_so_far(self, number: int, stage: Answer) -> Decision | None:
        """Test the best full run there is, None without one: its network is there too."""
        smaller = self._parts.budget.tested_as_it_is(stage, self._recipe)
        return self._stage(number, smaller, self._recipe) if smaller else None

    def _test_what_is_there(self) -> None:
        """After Ctrl-C: an answer, if some full run has ended; it is only evaluated."""
        stages, done = self._parts.stages, len(self._records)
        left = [(n, s) for n, s in enumerate(stages) if n >= done and isinstance(s, Answer)]
        if not left or self._recipe.max_lr is None:
            return
        if signals.exit_code() != INTERRUPTED:  # a machine that is taken away
            return
        number, stage = left[0]
        rivals = [full_run(r, stage.facts) for r in stage.rivals(self._recipe)]
        known = [run for run in rivals if self._parts.pace.known(run)]
        if not known or not all(map(self._parts.executor.is_kept, known)):  # it would be retrained
            return
        try:
            self._best_so_far(number, stage)
        except (Exception, KeyboardInterrupt):
            log.exception("the best full run so far cannot be tested")

    def _rounds(self, stage: str) -> Callable[[list[Run]], list[Outcome]]:
        """Return the function that runs a round; the first one prints why a stage runs again."""
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
        """Report a decision to terminal and tracker, to the tracker also its runs in the ledger."""
        parts, decision = self._parts, record.decision
        parts.terminal.decided(decision, parts.budget.left())
        for outcome in record.outcomes:
            if outcome.key not in parts.trained.ended:
                clue = record.clues.get(outcome.key)
                parts.tracker.known(decision.stage, outcome, clue.label if clue else "")
        parts.tracker.decided(decision)
        log.info("%s: %s", decision.stage, decision.reason)

    def _audit(self, stage: str) -> None:
        """Train some of the stage's pruned runs to their ends, after its decision."""
        parts, record = self._parts, self._records[-1]
        if pruned := audit.chosen(record.outcomes, parts.config.audit):
            parts.terminal.round_started(len(pruned), parts.budget.left())
            with suppress(OutOfTime):  # audits are the first to be left out of a budget
                parts.budget.check()
                audits = parts.executor.audit(stage, pruned)
                self._records[-1] = replace(record, audits=tuple(audits))

    def _goes_on(self, decision: Decision, needed: set[str]) -> bool:
        """Whether the study can continue without the answer: a range test with a given max_lr."""
        return decision.kind == "lr_range" and all(
            getattr(self._recipe, field) is not None for field in needed
        )

    def _refuse_moving_data(self) -> None:
        """Raise ConfigError if the data changed since the last command and change at every call."""
        parts = self._parts
        schedule = Schedule("constant", 1e-4, 1e-4, 0.9, 0.9)
        some_run = Run("train", schedule, 0.0, self._recipe.batch_size, 1, 0)
        moved = changes.of_data(parts.ledger.surroundings(some_run))
        if moved and (why := parts.description.recheck()):
            raise ConfigError(why)
