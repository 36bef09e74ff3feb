"""What a trial and a report cost with PostgreSQL, and how much of it the training waits for."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.storage.backend import open_storage
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.patient import Patience, Patient

TRIAL, REPORT = 80.0, 8.0  # goals in ms
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the driver's calls on a server of its own, and a worker's messages on Ray."""
    from postgres import a_server

    trials = 5 if options.quick else 60
    with a_server() as server:
        storage = Patient(open_storage("url", server.url(), Path()), Patience(10))
        ledger = Ledger(storage, "s", sole=True)
        ledger.study("a")
        rows = [_trial(ledger, number) for number in range(trials + 3)][3:]
    ask, report, tell = (1000 * statistics.median(row[i] for row in rows) for i in range(3))
    posted = _posted(200 if options.quick else 2000) if bench.version("ray") else None
    return {
        "ask_ms": round(ask, 2),
        "report_ms": round(report, 2),
        "tell_ms": round(tell, 2),
        "posted_ms": posted,
        "goals": [
            bench.Goal("ms a trial, besides its reports", round(ask + tell, 1), TRIAL),
            bench.Goal("ms a report of the driver", round(report, 1), REPORT),
            bench.Goal("ms a report that the training waits for, on Ray", posted, 1.0),
        ],
    }


def _trial(ledger: Ledger, number: int) -> tuple[float, float, float]:
    schedule = Schedule("constant", 1e-3, 1e-3, 0.9, 0.9)
    run = Run("train", schedule, 0.0, 32, 100, number, points=20)
    key, marks, points = run.key({}), [time.perf_counter()], []
    trial = ledger.ask("a", run, key)
    marks.append(time.perf_counter())
    for step in run.report_steps():
        trial.report(0.5, step)
        points.append(Point(step, step / 100, 0.1, 0.9, 0.5, 0.5))
    marks.append(time.perf_counter())
    ledger.tell("a", trial, Outcome(run, key, "finished", Curve.of(points), Result(1.0, 100)))
    marks.append(time.perf_counter())
    ask, reports, tell = (b - a for a, b in pairwise(marks))
    return ask, reports / len(points), tell


def _posted(messages: int) -> float:
    """Return the ms that a worker on Ray takes to give a report away."""
    from orchestrator.executors.cluster import Mailbox, Trainer, ray

    ray.init(address="local", num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
    try:
        mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()

        class Timed(Trainer):
            def timed(self, count: int) -> float:
                began = time.perf_counter()
                for step in range(count):
                    self._answer(Point(step, step / count, 0.1, 0.9, 0.5, 0.5))
                    time.sleep(0.001)  # so that the thread which sends them gets its turn
                return (time.perf_counter() - began) / count - _sleep()

        def make(_: Any) -> None: ...

        worker = ray.remote(Timed).remote(1, make, {}, ".", [], mailbox, 60)
        return round(1000 * float(ray.get(worker.timed.remote(messages))), 3)
    finally:
        ray.shutdown()


def _sleep() -> float:
    began = time.perf_counter()
    for _ in range(200):
        time.sleep(0.001)
    return (time.perf_counter() - began) / 200


def table(result: dict[str, Any]) -> str:
    """Return the times and the goals as Markdown."""
    names = ("ask_ms", "report_ms", "tell_ms", "posted_ms")
    times = bench.markdown(("ask", "report", "tell", "posted"), [tuple(result[n] for n in names)])
    return f"{times}\n\n{bench.goals(result['goals'])}"
