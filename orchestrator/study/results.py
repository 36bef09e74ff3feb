"""The result files in a study's folder: writes them, and reads those of earlier commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.storage.paths import StudyPaths
from orchestrator.storage.states import States
from orchestrator.system.files import write_atomically

if TYPE_CHECKING:
    from orchestrator.record import StudyRecord


@dataclass(frozen=True)
class Earlier:
    """The seconds that earlier commands spent on a study; zeros if there were none.

    `first_test_seconds`: see `StudyRecord`. `budget_seconds` are by the budget's own clock;
    `used_up` is the `max_seconds` that they used up.
    """

    total_seconds: float = 0.0
    first_test_seconds: float | None = None
    budget_seconds: float = 0.0
    used_up: float | None = None


def earlier(paths: StudyPaths, kept: Mapping[str, Any] | None = None) -> Earlier:
    """Return what earlier commands spent, by the summary `kept` in the database or summary.json.

    Zeros if it is missing or damaged.
    """
    try:
        found = kept or json.loads(paths.summary.read_text())
        cost, budget = found["cost"], found.get("budget") or {}
        total, first = float(cost["total_seconds"]), cost.get("first_test_seconds")
        return Earlier(
            total,
            None if first is None else float(first),
            float(budget.get("spent_seconds", total)),
            float(budget["max_seconds"]) if budget.get("reached") else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Earlier()


def write(record: StudyRecord, paths: StudyPaths, states: States) -> list[Path]:
    """Write the results, for programs and for people; return the files.

    Raises OSError or StorageError if they cannot be written.
    """
    from orchestrator.report import html

    text = json.dumps(record.summary(), indent=2, allow_nan=False) + "\n"
    write_atomically(paths.summary, text.encode())
    write_atomically(paths.recipe, recipe_file(record).encode())
    _keep_model(record, paths, states)
    return [paths.summary, paths.recipe, paths.config, *html.write(record, paths.folder)]


def recipe_file(record: StudyRecord) -> str:
    """Return recipe.yaml: the recipe as a Hydra config."""
    import yaml  # comes with Hydra

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
    if record.final_epochs and (record.final is None or record.final.decision.stage == "final"):
        epochs = record.final_epochs  # the length that the recipe was found for
        sections["stages"] = {"final": {"epochs": int(epochs) if epochs % 1 == 0 else epochs}}
    if name in ("adamw", "muon"):  # its keys must not be merged with those of the default optimiser
        sections = {"defaults": [{"override /optimizer": name}, "_self_"], **sections}
    text: str = yaml.safe_dump(sections, sort_keys=False)
    return head + text


def _keep_model(record: StudyRecord, paths: StudyPaths, states: States) -> None:
    """Copy the answer's first network to model.pt; delete other networks and checkpoints.

    An interrupted study may have an answer too; its checkpoints stay.
    """
    if record.status not in ("complete", "interrupted") or record.final is None:
        return
    answer = record.final.decision.evidence.get("model")  # the run key
    network = states.model(answer) if answer else None
    if network is not None:
        _write_if_new(paths.weights, network)
    if record.status == "complete":  # the answer's stays: a later command may have this result
        states.tidy({o.key for o in record.outcomes if o.key != answer})


def _write_if_new(path: Path, data: bytes) -> None:
    """Write `data` unless the file contains it: files made from it then stay newer."""
    if not (path.is_file() and path.read_bytes() == data):
        write_atomically(path, data)
