"""Runs of a workload by way of a cache: what was trained once is never trained again."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent
CACHE = HOME.parent / ".cache"
sys.path += [str(HOME), str(HOME.parents[1])]

from suite import Workload

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives import Objective, StopRun
from orchestrator.recipe import Run
from orchestrator.testing import FakeSession, execute

Stops = Callable[[Point], bool]  # whether a run ends at this report


class Watched(FakeSession):
    """A session that prunes a run at the first report that `stops` says, after `shown` reports."""

    def __init__(self, run: Run, stops: Stops, shown: int, checkpoint: bytes | None) -> None:
        super().__init__(run, checkpoint, prunes=True)
        self._stops, self._shown = stops, shown

    def report(self, point: Point) -> None:
        """Keep a point. Raises StopRun where the run ends."""
        super().report(point)
        count = len(self.points)
        if count > self._shown and point.step < self.run.steps and self._stops(point):
            raise StopRun("stopped", pruned=True)


class Lab:
    """A workload with a study seed: the objective, and outcomes by the keys of their runs."""

    def __init__(self, workload: Workload, seed: int = 0, cifar: str | None = None) -> None:
        self.workload, self.seed = workload, seed
        self.config = Config.from_mapping(workload.mapping(seed, cifar))
        self.objective: Objective = build.objective(self.config, CACHE)
        self.facts = self.objective.facts
        self._db = _opened(CACHE / f"frontier_{workload.name}.sqlite")
        self._checkpoints: dict[str, bytes | None] = {}

    def outcome(self, run: Run) -> Outcome:
        """Return the outcome of a run, trained if it is not known."""
        key = run.key(self.objective.context(run))
        return self._known(run, key) or self._keep(key, execute(self.objective, run))

    def until(self, run: Run, stops: Stops, resumes: bool = False) -> Outcome:
        """Return the outcome of a run that ends, pruned, at the first report that `stops` says.

        `stops` gets each report but the last one once. What is known of the run, whole or as far as
        it went, is not trained again if it suffices. `resumes`: a stopped run may be asked for
        again, to go on from where it stopped.
        """
        key = run.key(self.objective.context(run))
        part, shown = f"{key}-part", 0
        if known := self._known(run, key) or self._known(run, part):
            points = known.curve.points()
            before_end = points[:-1] if known.key == key else points
            for shown, point in enumerate(before_end, 1):
                if stops(point):
                    return Outcome.stopped(run, part, points[:shown], "stopped", pruned=True)
            if known.key == key:
                return known
        session = Watched(run, stops, shown, self._checkpoints.pop(key, None))
        try:
            result = self.objective(run, session)
        except StopRun as stop:
            made = Outcome.stopped(run, part, session.points, stop.reason, pruned=stop.pruned)
            if stop.reason == "stopped":
                self._checkpoints[key] = session.checkpoint if resumes else None
                return self._keep(part, made)
            return self._keep(key, replace(made, key=key))
        made = Outcome(run, key, "finished", Curve.of(session.points), result)
        return self._keep(key, made)

    def by(self, run: Run, how: Mapping[str, str], train: Callable[[], Result]) -> Outcome:
        """Return the outcome, without a curve, of a run that `train` makes; `how` names it."""
        key = run.key({**self.objective.context(run), **how})
        if known := self._known(run, key):
            return known
        return self._keep(key, Outcome(run, key, "finished", Curve.of([]), train()))

    def _known(self, run: Run, key: str) -> Outcome | None:
        row = self._db.execute("SELECT value FROM outcome WHERE key = ?", (key,)).fetchone()
        return _read(run, key, json.loads(row[0])) if row else None

    def _keep(self, key: str, made: Outcome) -> Outcome:
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
