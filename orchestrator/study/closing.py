"""The end of a command on a study: makes its record, writes the results, informs the tracker."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.errors import StorageError
from orchestrator.recipe import Recipe
from orchestrator.record import StageRecord, Status, StudyRecord
from orchestrator.redact import hidden
from orchestrator.study import model_files, results
from orchestrator.study.parts import Parts
from orchestrator.system import host

log = logging.getLogger(__name__)


def record_of(
    parts: Parts,
    status: Status,
    reason: str,
    stages: Sequence[StageRecord],
    recipe: Recipe,
    overrides: tuple[str, ...],
) -> StudyRecord:
    """Return the record of a study that ends with these `stages` and this `status`."""
    facts = parts.objective.facts
    seconds = time.monotonic() - parts.started if parts.trained.any else 0.0
    return StudyRecord(
        study=parts.config.study_name,
        status=status,
        recipe=recipe,
        stages=stages,
        device=parts.description.device,
        machine=host.machine(),
        versions=_versions(parts.description.versions),
        metric=facts.metric,
        larger_is_better=facts.larger_is_better,
        total_seconds=parts.earlier.total_seconds + seconds,
        notes=(*parts.description.notes, *(parts.ahead.told() if parts.ahead else ())),
        reason=hidden(reason),
        model_dropout=facts.dropout,
        budget=parts.budget.summary(parts.trained.any),
        first_test_seconds=_first_test(parts, stages),
        overrides=overrides,
        folder=parts.paths.folder,
        inputs=parts.description.inputs,
        task=parts.description.task,
        own_loop=parts.description.own_loop,
        final_epochs=facts.final_epochs,
        final_runs=_final_runs(parts, stages),
    )


def close(parts: Parts, record: StudyRecord) -> StudyRecord:
    """Write the results, send them to tracker and terminal; return the final record."""
    files: list[Path] = []
    try:
        try:
            files = results.write(record, parts.paths, parts.states)
            if parts.lease is not None:
                parts.lease.keep(summary=record.summary())
            if old := model_files.set_aside(record, parts.paths):
                parts.terminal.note(f"of an earlier result, not of this one: {', '.join(old)}")
        except (OSError, StorageError) as error:
            # A full disk: the trials are kept, so a replay gives the result.
            log.exception("the results cannot be written")
            why = (
                f"the results cannot be written: {error}; free some disk space, then run the same"
                " command to write them"
            )
            record = replace(record, status="failed", reason=record.reason or why)
        parts.terminal.finished(record, parts.paths.folder)
    finally:
        try:
            model = _served(parts, record)
            parts.tracker.finish(record.status, record.summary(), files, model)
        finally:
            parts.terminal.close()  # only now: the tracker may log a warning
    return record


def _final_runs(parts: Parts, stages: Sequence[StageRecord]) -> dict[str, float]:
    """Return what each stage's runs cost in final runs; a shared run counts for the first stage."""
    price = parts.price([o for stage in stages for o in stage.outcomes])
    spent, seen = {}, set[str]()
    for stage in stages:
        new = [o for o in stage.outcomes if o.key not in seen]
        seen.update(o.key for o in new)
        spent[stage.decision.stage] = round(price.spent(new), 3)
    return spent


def _first_test(parts: Parts, stages: Sequence[StageRecord]) -> float | None:
    """Return the study's seconds until its first test result, None before that."""
    tested = parts.trained.tested
    if any(o.key not in tested for stage in stages for o in stage.tested):
        return parts.earlier.first_test_seconds  # it was in an earlier command
    first = min(tested.values(), default=None)
    return None if first is None else parts.earlier.total_seconds + first - parts.started


def _served(parts: Parts, record: StudyRecord) -> Mapping[str, Any] | None:
    """Return the trained network for MLflow; made only where the tracker records it."""
    tracking = parts.config.tracking
    wanted = record.status == "complete" and record.final is not None
    if not wanted or tracking.name == "none" or not tracking.model:
        return None
    if not parts.trained.any and model_files.is_served(parts.paths):
        return None  # a replay: it was sent before
    return model_files.served(parts.description, parts.paths)


def _versions(own: Mapping[str, str]) -> dict[str, str]:
    names = ("orchestrator", "optuna", "numpy")
    ours = {name: _version(name) for name in names}
    return {"python": platform.python_version(), **ours, **own}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # ourselves, on PYTHONPATH
        return "not installed"
