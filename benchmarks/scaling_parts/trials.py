"""Trials a second of real training and of the quadratic objective, by executor and workers."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import psutil

from orchestrator import build
from orchestrator.config.compose import compose, parse
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome, Point
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.storage.backend import open_storage
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.states import Folder

KINDS = {"quadratic": ("+study=quadratic",), "training": ("+study=digits",)}
EXECUTORS = (("inline", 1), ("processes", 1), ("processes", 2), ("processes", 4))
EXECUTORS += (("ray", 1), ("ray", 2), ("ray", 4))
STEPS = {"quadratic": 200, "training": 60}


class Nobody:
    """A watcher that does nothing."""

    def run_started(self, stage: str, run: Run, trial_key: str) -> None: ...

    def point(self, run: Run, trial_key: str, point: Point) -> None: ...

    def run_ended(self, stage: str, outcome: Outcome) -> None: ...


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each kind of objective with each executor."""
    rows = []
    for kind in KINDS:
        for name, workers in EXECUTORS if not options.quick else (("inline", 1), ("ray", 2)):
            if name == "ray" and not bench.version("ray"):
                continue
            rows.append(_row(kind, name, workers, 4 if options.quick else 24))
            print(rows[-1], flush=True)
    return {"rows": rows, "cores": os.cpu_count()}


def _row(kind: str, name: str, workers: int, trials: int) -> dict[str, Any]:
    with _elsewhere() as folder, _cluster(name, workers) as joining:
        overrides = [*KINDS[kind], f"executor={name}", "storage=memory", "tracking=none"]
        overrides += ["threads=1", "device=cpu", "pruner=none"]
        overrides += [f"executor.workers={workers}"] if name != "inline" else []
        config = Config.from_mapping(compose(parse(overrides)))
        objective = build.objective(config)
        ledger = Ledger(open_storage("memory", None, folder), "s")
        states = Folder(folder / "states")
        executor = build.executor(config, ledger, objective, None, states, Nobody())
        before = _memory()
        schedule = Schedule("constant", 1e-3, 1e-3, 0.9, 0.9)
        some = Run("train", schedule, 0.0, 32, STEPS[kind], 0, points=10, prunable=False)
        began = time.monotonic()
        executor.run("warm", [replace(some, steps=10, replicate=n) for n in range(2 * workers)])
        started = time.monotonic() - began
        began = time.monotonic()
        executor.run("a", [replace(some, replicate=100 + n) for n in range(trials)])
        seconds = time.monotonic() - began
        memory = _memory() - before
        executor.close()
    return {
        "objective": kind,
        "executor": name,
        "workers": workers,
        "trials_per_second": round(trials / seconds, 2),
        "start_seconds": round(started + joining, 2),
        "mib": round(memory / 2**20),
    }


@contextmanager
def _cluster(name: str, workers: int) -> Iterator[float]:
    """Return a context with a cluster that has room for the workers; yield how long it took."""
    if name != "ray":
        yield 0.0
        return
    from orchestrator.executors.cluster import ray

    began = time.monotonic()
    ray.init(
        address="local",
        num_cpus=workers,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        yield time.monotonic() - began
    finally:
        ray.shutdown()


def _memory() -> int:
    """Return the bytes of all processes that this one has started, shared pages counted once."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:
            continue
    return total


@contextmanager
def _elsewhere() -> Iterator[Path]:
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(here)


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    return bench.markdown(
        ("objective", "executor", "workers", "trials/s", "start, s", "memory of workers, MiB"),
        [
            (
                r["objective"],
                r["executor"],
                r["workers"],
                r["trials_per_second"],
                r["start_seconds"],
                r["mib"],
            )
            for r in result["rows"]
        ],
    )
