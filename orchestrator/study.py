"""The study: the walk from a config to an answer, stage by stage.

    for stage in plan:
        while runs := stage.propose(recipe, outcomes):
            outcomes += executor.run(runs)
        decision = stage.decide(recipe, outcomes)
        recipe = recipe.with_(decision)

Resume is replay: the loop starts from nothing each time, and known runs are not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml  # comes with Hydra

from orchestrator import audit, clues, executors, ledger, lock, signals
from orchestrator.changes import differences
from orchestrator.config import Config
from orchestrator.curve import Outcome, Point
from orchestrator.errors import ConfigError, StorageError
from orchestrator.files import write_atomically
from orchestrator.ledger import Ledger
from orchestrator.objectives import Objective
from orchestrator.plan.pace import OutOfTime, Pace, clock_of, spent_before
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.record import SCHEMA, StageRecord, Status, StudyRecord
from orchestrator.redact import Formatter, hidden
from orchestrator.report.terminal import Terminal
from orchestrator.serving import is_served, served
from orchestrator.stages.stage import Stage
from orchestrator.tracking import Tracker

log = logging.getLogger(__name__)
UNIMPORTANT = (
    "fresh",
    "quiet",
    "runs",
    "executor",
    "dry_run",
    "budget",
)  # settings that change no result


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
    objective = config.build_objective(runs / ".cache")
    stages = config.build_stages(objective.facts)
    folder = runs / config.study_name
    database = _database(config, folder)
    with _owned(config, folder, database), _LogFile(folder / "study.log"):
        terminal = terminal or Terminal(quiet=config.quiet)
        study = _Study(config, objective, folder, terminal, database)
        study.overrides = tuple(map(hidden, overrides))
        return study.run(stages, started)


class _Study:
    """One command's work on one study: the rooms wired together."""

    def __init__(
        self,
        config: Config,
        objective: Objective,
        folder: Path,
        terminal: Terminal,
        database: ledger.Storage | None,
    ) -> None:
        self.config = config
        self.objective = objective
        self.folder = folder
        self.terminal = terminal
        self.records: list[StageRecord] = []
        self.overrides: tuple[str, ...] = ()
        pruner = config.build_pruner(objective.facts.chance_loss)
        self.ledger = Ledger(
            database or ledger.open_storage(config.storage.name, None, folder),
            config.study_name,
            pruner=repr(pruner),
            context=objective.context,
            formats={"summary": SCHEMA, **_about(objective, "formats", {})},
            sole=config.storage.name != "url",  # a database may be shared with other machines
        )
        self.tracker = _tracker(config, objective, folder)
        self.watch = _Watch(self.terminal, self.tracker, objective.facts.chance_loss)
        self.executor = executors.build(
            config, self.ledger, objective, pruner, folder / "checkpoints", self.watch
        )

    def run(self, stages: Sequence[Stage], started: float) -> StudyRecord:
        """Walk the stages; write and tell whatever came of it."""
        config = self.config.public()
        changed = _changed(self.folder / "config.yaml", config)
        text = yaml.safe_dump(config, sort_keys=False)
        with _writable(self.folder):
            write_atomically(self.folder / "config.yaml", text.encode())
        self.terminal.study_started(
            self.config.study_name,
            _about(self.objective, "device", platform.machine()),
            list(self.config.plan),
            list(_about(self.objective, "notes", ())),
        )
        if changed:
            self.terminal.note(
                f"settings differ from the study that was here ({_some(changed)}):"
                " what they affect runs again, and its answer replaces the old one"
            )
        self.tracker.start(
            config,
            {"study_id": self.ledger.id, "config": _digest(config)},
            _about(self.objective, "datasets", ()),
        )
        recipe, status, reason = self.config.build_recipe(), "complete", ""
        self.pace = self.watch.pace = self._pace(stages)
        try:
            with signals.patiently():
                for number, stage in enumerate(stages):
                    fitting = self.pace.final_that_fits(stage, recipe)
                    record = self._stage(number, fitting, recipe) if fitting else None
                    if record is None:  # the budget is over before the final runs
                        continue
                    decision, recipe = record.decision, record.recipe
                    later = {f for s in stages[number + 1 :] for f in getattr(s, "needs", ())}
                    if not decision.answered and not self._goes_on(decision, recipe, later):
                        status, reason = self._without_answer(), self._why_not(decision)
                        break
        except KeyboardInterrupt:
            again = "the same command" + (" without fresh=true" if self.config.fresh else "")
            status, reason = "interrupted", f"interrupted; {again} goes on"
        except StorageError as error:
            log.exception("the study stopped")
            status, reason = "failed", str(error)
        except Exception as error:  # ours or that of a user's stage: the records must still close
            log.exception("the study stopped")
            where = self.config.plan[len(self.records)]
            status, reason = "failed", f"stage {where}: {type(error).__name__}: {error}"
        finally:
            self.executor.close()
        if status == "complete":
            reason = self.pace.said
        return self._finish(recipe, status, reason, started)

    def _pace(self, stages: Sequence[Stage]) -> Pace:
        """Return the clock of this command, and what earlier ones left of the budget."""
        limit = self.config.budget.max_seconds
        return Pace(
            stages,
            self.objective.facts,
            clock_of(self.objective, self.watch.seconds, time.monotonic),
            lambda run: self.ledger.known(run.key(self.objective.context(run)), run),
            limit,
            *spent_before(self.folder / "summary.json", limit),
            test_examples=_about(self.objective, "test_examples", 0),
            prunes=self.config.pruner.name != "none",  # type: ignore[attr-defined]  # all have one
        )

    def _stage(self, number: int, stage: Stage, recipe: Recipe) -> StageRecord | None:
        """Let a stage decide; None if the budget ends it before it has an answer to show."""
        self.terminal.stage_started(stage.name)
        self.pace.stage_started(number, recipe)
        first = True

        def run_round(runs: list[Run]) -> list[Outcome]:
            nonlocal first
            signals.check()
            if first and (why := self.ledger.why(stage.name, runs)):
                self.terminal.note(f"{stage.name} runs again: {why}")
            first = False
            self.watch.round_started(len(runs))
            return self.executor.run(stage.name, runs)

        decision, outcomes = self.pace.walk(stage, recipe, run_round)
        if decision is None:
            return None
        after = recipe.with_(decision)
        read = {o.key: clue for o in outcomes if (clue := self.watch.clue(o))}
        self.records.append(StageRecord(decision, after, outcomes, read))
        self.terminal.decided(decision, self.pace.left())
        for outcome in outcomes:
            if outcome.key not in self.watch.ended:
                self.tracker.known(stage.name, outcome, read.get(outcome.key, ""))
        self.tracker.decided(decision, after.values())
        log.info("%s: %s", stage.name, decision.reason)
        self._audit(stage.name)
        return self.records[-1]

    def _audit(self, stage: str) -> None:
        """Let some of the stage's pruned runs go on to their ends, now that it has decided."""
        record = self.records[-1]
        if pruned := audit.chosen(record.outcomes, self.config.audit):
            self.watch.round_started(len(pruned))
            with suppress(OutOfTime):  # audits are the first that a budget does without
                self.pace.point()
                audits = self.executor.audit(stage, pruned)
                self.records[-1] = replace(record, audits=tuple(audits))

    @staticmethod
    def _goes_on(decision: Decision, recipe: Recipe, needed: set[str]) -> bool:
        """Whether a stage without an answer leaves enough: a range test whose max_lr was given."""
        return decision.kind == "lr_range" and all(
            getattr(recipe, field) is not None for field in needed
        )

    def _without_answer(self) -> Status:
        states = {o.state for o in self.records[-1].outcomes}
        return "failed" if states == {"failed"} else "undecided"

    def _why_not(self, decision: Decision) -> str:
        """Return the reason of a decision without an answer, and why its first failed run failed.

        The stage does not know that: a crash of every run is to it a loss like any other.
        """
        failed = [o for o in self.records[-1].outcomes if o.state == "failed"]
        if not failed:
            return decision.reason
        cure = " (a smaller recipe.batch_size may fit)" if failed[0].out_of_memory else ""
        return f"{decision.reason}; {len(failed)} runs failed: {failed[0].reason}{cure}"

    def _finish(self, recipe: Recipe, status: Any, reason: str, started: float) -> StudyRecord:
        seconds = time.monotonic() - started if self.watch.trained else 0.0
        earlier = _earlier_cost(self.folder)
        record = StudyRecord(
            study=self.config.study_name,
            status=status,
            recipe=recipe,
            stages=self.records,
            device=_about(self.objective, "device", platform.machine()),
            machine=_machine(),
            versions=_versions(_about(self.objective, "versions", {})),
            metric=self.objective.facts.metric,
            larger_is_better=self.objective.facts.larger_is_better,
            total_seconds=earlier.get("total_seconds", 0.0) + seconds,
            notes=tuple(_about(self.objective, "notes", ())),
            reason=hidden(reason),
            model_dropout=self.objective.facts.dropout,
            budget=self.pace.summary(self.watch.trained),
            first_test_seconds=self._first_test(started, earlier),
            overrides=self.overrides,
            folder=self.folder,
        )
        files: list[Path] = []
        try:
            try:
                files = self._write(record)
            except OSError as error:  # a full disk: the trials are kept, the answer comes again
                log.exception("the results cannot be written")
                why = f"the results cannot be written: {error}; make room, then the same command"
                record = replace(record, status="failed", reason=reason or f"{why} writes them")
            self.terminal.finished(record, self.folder)
        finally:
            try:
                self.tracker.finish(record.status, record.summary(), files, self._served(record))
            finally:
                self.terminal.close()  # now only: the tracker may have something to say
        return record

    def _first_test(self, started: float, earlier: Mapping[str, float]) -> float | None:
        """Return the study's seconds until its first sealed result, None before that."""
        if any(o.key not in self.watch.tested for r in self.records for o in r.tested):
            return earlier.get("first_test_seconds")  # an earlier command had it
        first = min(self.watch.tested.values(), default=None)
        return None if first is None else earlier.get("total_seconds", 0.0) + first - started

    def _write(self, record: StudyRecord) -> list[Path]:
        from orchestrator.report import html

        summary = self.folder / "summary.json"
        recipe = self.folder / "recipe.yaml"
        text = json.dumps(record.summary(), indent=2, allow_nan=False) + "\n"
        write_atomically(summary, text.encode())
        write_atomically(recipe, _recipe_file(record).encode())
        self._keep_model(record)
        return [summary, recipe, self.folder / "config.yaml", *html.write(record, self.folder)]

    def _served(self, record: StudyRecord) -> Mapping[str, Any] | None:
        """Return the network of an answer, ready for MLflow; made only where somebody takes it."""
        wanted = record.status == "complete" and record.final is not None
        if not wanted or self.config.tracking.name == "none" or not self.config.tracking.model:
            return None
        if not self.watch.trained and is_served(self.folder):  # an answer told again: it was sent
            return None
        return served(self.objective, self.folder)

    def _keep_model(self, record: StudyRecord) -> None:
        """Copy the answer's first model to model.pt, and drop the other models and checkpoints."""
        if record.status != "complete" or record.final is None:
            return
        key = record.final.decision.evidence.get("model")
        for file in (self.folder / "checkpoints").glob("*"):
            if file.name == f"{key}.model":  # stays under its key: another config may come between
                _write_if_new(self.folder / "model.pt", file.read_bytes())
            elif file.suffix == ".checkpoint" or file.stem in {o.key for o in record.outcomes}:
                file.unlink()


def _write_if_new(path: Path, data: bytes) -> None:
    """Leave a file alone that holds `data`: what is made of it stays newer than it."""
    if not (path.is_file() and path.read_bytes() == data):
        write_atomically(path, data)


class _Watch:
    """Tells the terminal and the tracker of every run that is really trained."""

    def __init__(self, terminal: Terminal, tracker: Tracker, chance_loss: float) -> None:
        self._terminal = terminal
        self._tracker = tracker
        self._chance_loss = chance_loss
        self._number = self._of = 0
        self._seconds: dict[str, float] = {}  # of training, by key
        self.ended: set[str] = set()  # keys of the runs that this command trained
        self.tested: dict[str, float] = {}  # when a sealed result was there, by key
        self.trained = False
        self.pace: Pace | None = None

    def seconds(self) -> float:
        """Return the seconds of training so far, as the runs say."""
        return sum(self._seconds.values())

    def round_started(self, runs: int) -> None:
        """A round of so many runs begins."""
        self._number, self._of = 0, runs
        self._terminal.left(self.pace.left() if self.pace else None)

    def clue(self, outcome: Outcome) -> str:
        """Return the label of an outcome's curve, "" for a ramp, which is meant to break."""
        if outcome.run.kind != "train":
            return ""
        return clues.read(outcome.curve, self._chance_loss).label

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """A run begins."""
        self.trained = True
        self._number += 1
        self._tracker.quiet(run.timed)
        self._terminal.run_started(stage, run, self._number, self._of)
        self._tracker.run_started(stage, run, key)

    def point(self, run: Run, key: str, point: Point) -> None:
        """A run measured something."""
        self._terminal.point(run, point)
        self._tracker.point(key, point)
        self._seconds[key] = point.seconds
        if self.pace is not None:
            self.pace.point()

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """A run ended."""
        self._tracker.quiet(False)
        self.ended.add(outcome.key)
        if outcome.run.opens_test and outcome.state == "finished":
            self.tested[outcome.key] = time.monotonic()
        if self.pace is not None:
            self.pace.run_ended(outcome)
        clue = self.clue(outcome)
        self._terminal.run_ended(stage, outcome, clue)
        self._tracker.run_ended(stage, outcome, clue)


class _LogFile:
    """Within it, what the program logs goes to `path` as well."""

    def __init__(self, path: Path) -> None:
        self._handler = _LogHandler(path)
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        self._handler.setFormatter(Formatter(form))

    def __enter__(self) -> None:
        logger = logging.getLogger("orchestrator")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("orchestrator").removeHandler(self._handler)
        self._handler.close()


class _LogHandler(logging.FileHandler):
    """A log that cannot be written (a full disk) is no reason for lines on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


def _database(config: Config, folder: Path) -> ledger.Storage | None:
    """Return the config's database; ConfigError if it cannot be opened, before a folder is made."""
    if config.storage.name != "url":
        return None
    try:
        return ledger.open_storage("url", config.storage.url, folder)
    except StorageError as error:
        raise ConfigError(hidden(str(error))) from error


@contextmanager
def _owned(config: Config, folder: Path, database: ledger.Storage | None) -> Iterator[None]:
    """Hold the study in `folder`, made if missing; fresh=true sets aside what is there."""
    with ExitStack() as held:
        with _writable(folder):
            old = folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.owned(folder))
            if config.fresh:
                _set_aside(config.study_name, folder, old, database)
                folder.mkdir(exist_ok=True)
                held.enter_context(lock.owned(folder) if old else nullcontext())
        yield


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Within it, what the system refuses becomes a ConfigError."""
    try:
        yield
    except OSError as error:
        problem = error.strerror or str(error)
        raise ConfigError(
            f"{folder} cannot be written ({problem}): set runs=... to a folder that can"
        ) from error


def _tracker(config: Config, objective: Objective, folder: Path) -> Tracker:
    if config.tracking.name == "none":
        from orchestrator.tracking.none import NoTracker

        return NoTracker()
    from orchestrator.tracking.mlflow import MlflowTracker

    return MlflowTracker(
        config.study_name,
        Path.cwd(),
        folder.parent,
        uri=config.tracking.uri,
        metric=objective.facts.metric,
    )


def _set_aside(study: str, folder: Path, old: bool, database: ledger.Storage | None) -> None:
    """Rename what an earlier study of this name left, so that this one starts over."""
    suffix = time.strftime(".old-%Y%m%d-%H%M%S")
    while folder.with_name(folder.name + suffix).exists():  # twice in a second
        suffix += "+"
    if old:
        folder.rename(folder.with_name(folder.name + suffix))
    if database is not None:
        ledger.set_aside(database, study, suffix)


def _recipe_file(record: StudyRecord) -> str:
    """Return recipe.yaml: the answer as a Hydra override file."""
    values = record.recipe.values()
    schedule = {"name": values.pop("schedule")}
    name, nesterov = values.pop("optimizer"), values.pop("nesterov")
    options = values.pop("optimizer_options", {})
    kind = {"_target_": name} if "." in name else {"name": name}
    sgd = {"nesterov": nesterov} if name == "sgd" else {}
    mine = " optimizer=<your file>" if "." in name else ""
    head = (
        "# @package _global_\n"
        f"# The recipe of study {record.study} ({record.status}).\n"
        "# To use it: copy this file to conf/study/<name>.yaml and add it to a study,\n"
        f"# for example: +study=[digits,<name>]{mine} 'plan=[final]'\n"
    )
    sections: dict[str, Any] = {
        "recipe": values,
        "schedule": schedule,
        "optimizer": {**kind, **sgd, **options},
    }
    if name == "adamw":  # its keys are not those of the default, which must not be merged in
        sections = {"defaults": [{"override /optimizer": name}, "_self_"], **sections}
    text: str = yaml.safe_dump(sections, sort_keys=False)
    return head + text


def _changed(file: Path, config: Mapping[str, Any]) -> list[str]:
    """Return in what `config` differs from the one that an earlier command wrote."""
    try:
        old = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):  # not there, or damaged: nothing to compare with
        return []
    before, now = (
        {k: v for k, v in c.items() if k not in UNIMPORTANT} for c in (old or {}, config)
    )
    return differences(before, now)


def _some(lines: Sequence[str], most: int = 8) -> str:
    rest = f", and {len(lines) - most} more" if len(lines) > most else ""
    return ", ".join(lines[:most]) + rest


def _earlier_cost(folder: Path) -> dict[str, float]:
    """Return what earlier commands spent on this study, as summary.json has it."""
    try:
        cost = json.loads((folder / "summary.json").read_text())["cost"]
        return {k: float(v) for k, v in cost.items() if isinstance(v, int | float)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _about(objective: Objective, name: str, default: Any) -> Any:
    """Return what an objective says of itself; a user's own need not say anything."""
    return getattr(objective, name, default)


def _machine() -> str:
    """Return processor, number of cores and system as one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: what platform knows must do
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _versions(own: Mapping[str, str]) -> dict[str, str]:
    names = ("orchestrator", "optuna", "numpy")
    ours = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), **ours, **own}


def _digest(config: Mapping[str, Any]) -> str:
    """Return a hash of the config; how the study is shown or restarted does not matter."""
    kept = {k: v for k, v in config.items() if k not in UNIMPORTANT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
