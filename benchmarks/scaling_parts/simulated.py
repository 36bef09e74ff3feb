"""A study's time with 1 to 64 workers, simulated on the recorded times of its runs.

The study, its executor and what it runs ahead are real; only the workers are simulated. A run is
trained once, and takes its recorded seconds in each simulation.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import bench

from orchestrator import build
from orchestrator.config.compose import compose, parse
from orchestrator.config.schema import Config
from orchestrator.curve import Point, Result
from orchestrator.objectives import Objective, Session
from orchestrator.plan import ahead
from orchestrator.recipe import Run
from orchestrator.record import StudyRecord
from orchestrator.report import html
from orchestrator.report.terminal import Terminal
from orchestrator.study.walk import run_study
from scaling_parts.pool import SimulatedPool

WORKERS = (1, 2, 4, 8, 64)
SEEDS = 3
EPOCHS = 20
GOAL = 3.0


class Recorded:
    """An objective whose runs are trained once, and are then told from memory."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.facts = objective.facts
        self._kept: dict[str, tuple[list[Point], Result]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def context(self, run: Run) -> Mapping[str, Any]:
        return self._objective.context(run)

    def __call__(self, run: Run, session: Session) -> Result:
        key = run.key(self.context(run))
        if key in self._kept:
            points, result = self._kept[key]
            for point in points:
                session.report(point)
            return result
        recorder = _Recorder(session)
        result = self._objective(run, recorder)
        self._kept[key] = recorder.points, result
        return result


class _Recorder:
    def __init__(self, session: Session) -> None:
        self._session, self.points = session, list[Point]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def report(self, point: Point) -> None:
        self.points.append(point)
        self._session.report(point)


def simulate(
    objective: Objective, workers: int, share: float, *overrides: str
) -> tuple[StudyRecord, SimulatedPool]:
    """Run a study on simulated workers; return its record and the pool."""
    pool = SimulatedPool(objective, workers)
    values = compose(parse([*overrides, "executor=processes", "tracking=none", "storage=memory"]))
    values["executor"]["ahead"] = share
    with (
        _elsewhere(),
        patch.object(build, "_pool", lambda config: pool),
        patch.object(build, "objective", lambda config: objective),
        patch.object(ahead, "SHORTEST", 0.0),
        patch.object(html, "write", lambda record, folder: []),
    ):
        record = run_study(Config.from_mapping(values), Terminal(stream=io.StringIO()))
    return record, pool


@contextmanager
def _elsewhere() -> Iterator[None]:
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate digits studies."""
    rows = []
    for seed in range(1 if options.quick else SEEDS):
        overrides = ["+study=digits", f"seed={seed}"]
        if options.quick:
            overrides.append("stages.final.epochs=2")
        made = [*overrides, "executor=processes", "tracking=none"]
        objective = Recorded(build.objective(Config.from_mapping(compose(parse(made)))))
        rows += [_row(objective, seed, n, share, overrides) for share in (0, 0.25) for n in WORKERS]
        if len({row["decisions"] for row in rows if row["seed"] == seed}) > 1:
            raise RuntimeError(f"seed {seed}: decisions depend on the number of workers")
    four = [_speedup(rows, seed, 4, 0.25) for seed in {row["seed"] for row in rows}]
    goal = bench.Goal(
        "digits, standard effort: 4 workers against 1", sum(four) / len(four), GOAL, least=True
    )
    return {"rows": rows, "goals": [goal]}


def _row(objective: Any, seed: int, workers: int, share: float, overrides: Any) -> dict[str, Any]:
    record, pool = simulate(objective, workers, share, *overrides)
    decisions = [(s.decision.reason, sorted(s.decision.values.items())) for s in record.stages]
    return {
        "seed": seed,
        "workers": workers,
        "ahead": share,
        "seconds": round(pool.now, 2),
        "trained": round(pool.busy, 2),
        "told": [note for note in record.notes if note.startswith("Idle")],
        "decisions": str(decisions),
    }


def _speedup(rows: list[dict[str, Any]], seed: int, workers: int, share: float) -> float:
    """Return how many times faster a study is than with one worker and nothing ahead."""
    seconds = {(r["seed"], r["workers"], r["ahead"]): r["seconds"] for r in rows}
    return float(seconds[seed, 1, 0] / seconds[seed, workers, share])


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    rows = result["rows"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "| workers | " + " | ".join(f"ahead {s:g}, seed {n}" for s in (0, 0.25) for n in seeds)
    ]
    lines[0] += " |"
    lines.append("| ---: |" + " ---: |" * 2 * len(seeds))
    for workers in WORKERS:
        cells = []
        for share in (0, 0.25):
            for seed in seeds:
                found = next(
                    r
                    for r in rows
                    if (r["seed"], r["workers"], r["ahead"]) == (seed, workers, share)
                )
                times = _speedup(rows, seed, workers, share)
                cells.append(f"{found['seconds']:.1f} s, {times:.2f} x")
        lines.append(f"| {workers} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", bench.goals(result["goals"])])
