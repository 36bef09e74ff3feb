"""model.pt2: the trained network as a torch.export program, for MLflow to load and serve."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.objectives import Description
from orchestrator.record import StudyRecord
from orchestrator.storage.paths import StudyPaths

log = logging.getLogger(__name__)


def is_served(paths: StudyPaths) -> bool:
    """Whether model.pt2 exists and is not older than model.pt."""
    weights, program = paths.weights, paths.program
    if not (weights.is_file() and program.is_file()):
        return False
    return program.stat().st_mtime >= weights.stat().st_mtime


def set_aside(record: StudyRecord, paths: StudyPaths) -> list[str]:
    """Rename model files of an earlier result to *.old; return their new names.

    `checkpoints/` keeps each network under its key, from which it is copied if a later command has
    that result again.
    """
    answered = record.status in ("complete", "interrupted") and record.final is not None
    if answered and is_served(paths):
        return []
    wrong = [paths.program] if answered else [paths.weights, paths.program]
    found = [file for file in wrong if file.is_file()]
    return [file.replace(file.with_name(f"{file.name}.old")).name for file in found]


def served(description: Description, paths: StudyPaths) -> Mapping[str, Any] | None:
    """Write model.pt2 beside model.pt; return what a server needs.

    That is its `file`, a `digest` of the weights, and `input_shape`, `input_type` and
    `output_shape` of one example. None without a model, without `export` in the objective, or if
    the export fails, which is logged; model.pt still has the weights.
    """
    weights, program = paths.weights, paths.program
    if description.export is None or not weights.is_file():
        return None
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    try:
        shapes = description.export(weights, program)
    except Exception as error:  # torch.export refuses networks for many reasons
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("no model.pt2 and no model in MLflow: torch.export cannot trace it (%s)", first)
        return None
    return {"file": str(program.resolve()), "digest": digest, **shapes}
