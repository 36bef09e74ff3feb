"""Runs of a workload by way of a cache: what was trained once is never trained again."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent
CACHE = HOME.parent / ".cache"
sys.path += [str(HOME), str(HOME.parents[1])]

from suite import Workload

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Result
from orchestrator.objectives import Objective
from orchestrator.recipe import Run
from orchestrator.testing import execute


class Lab:
    """A workload with a study seed: the objective, and outcomes by the keys of their runs."""

    def __init__(self, workload: Workload, seed: int = 0, cifar: str | None = None) -> None:
        self.workload, self.seed = workload, seed
        self.config = Config.from_mapping(workload.mapping(seed, cifar))
        self.objective: Objective = build.objective(self.config, CACHE)
        self.facts = self.objective.facts
        self._db = _opened(CACHE / f"frontier_{workload.name}.sqlite")

    def outcome(self, run: Run) -> Outcome:
        """Return the outcome of a run, trained if it is not known."""
        key = run.key(self.objective.context(run))
        row = self._db.execute("SELECT value FROM outcome WHERE key = ?", (key,)).fetchone()
        if row:
            return _read(run, key, json.loads(row[0]))
        made = execute(self.objective, run)
        self._db.execute("INSERT OR REPLACE INTO outcome VALUES (?, ?)", (key, _text(made)))
        return made

    def twin(self, run: Run) -> Outcome:
        """Return the outcome of a kept run: it and the same run with the test are trained once."""
        tested = self.outcome(replace(run, opens_test=True))
        if run.opens_test:
            return tested
        result = replace(tested.result, test_loss=math.nan, test_metric=math.nan)
        return replace(tested, run=run, key=f"{tested.key}-held-out", result=result)

    def outcomes(self, runs: Iterable[Run]) -> list[Outcome]:
        """Return the outcomes of several runs."""
        return [self.outcome(run) for run in runs]


def _opened(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, timeout=60, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")
    db.execute("CREATE TABLE IF NOT EXISTS outcome (key TEXT PRIMARY KEY, value TEXT)")
    return db


def _text(outcome: Outcome) -> str:
    kept: dict[str, Any] = {
        "state": outcome.state,
        "reason": outcome.reason,
        "curve": outcome.curve.to_json(),
        "result": vars(outcome.result),
    }
    return json.dumps(kept)


def _read(run: Run, key: str, kept: dict[str, Any]) -> Outcome:
    curve, result = Curve.from_json(kept["curve"]), Result(**kept["result"])
    return Outcome(run, key, kept["state"], curve, result, kept["reason"])
