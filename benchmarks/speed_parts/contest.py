"""Training the same thing in several ways, in turn: tasks, contenders and their ratios."""

from __future__ import annotations

import atexit
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.curve import Point
from orchestrator.recipe import Recipe, Run
from orchestrator.stages.stage import cycle
from orchestrator.training.objective import TrainingObjective, TrainingSettings
from orchestrator.training.trainer import Setup
from speed_parts.feed import Feed

REPORTS = 10  # of a run


@dataclass(frozen=True)
class Case:
    """What is trained: data and model as in the config, batch size, steps of one timing."""

    name: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    batch_size: int
    steps: int
    precision: str = "float32"


@cache
def folder() -> Path:
    """Return a folder for this process's files; images are decoded into it once for all cases."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    return Path(made.name)


class Task:
    """A case made ready: the objective, its setup and the run that everybody does."""

    def __init__(self, case: Case, cifar: str | None, *, device: str, threads: int) -> None:
        where = {"path": cifar} if case.data.get("name") == "cifar10" else {}
        self.case = case
        self.objective = TrainingObjective(
            TrainingSettings(
                DataConfig.model_validate({**case.data, **where}),
                ModelConfig.model_validate(case.model),
                device=device,
                threads=threads,
                precision=case.precision,
            ),
            cache=folder(),
        )
        self.setup: Setup = self.objective._setup
        self.feed = Feed(self.setup, case.batch_size)
        self.run = self.of(case.steps)

    def of(self, steps: int) -> Run:
        """Return a run of about so many steps, with the reports of a short cycle.

        There are as many steps between any two reports: Lightning knows only that.
        """
        steps = REPORTS * max(2, round(steps / REPORTS))
        recipe = Recipe(max_lr=0.02, min_lr=0.002, batch_size=self.case.batch_size)
        return cycle(recipe, steps, 0, "speed", points=REPORTS)


@dataclass(frozen=True)
class Timing:
    """Seconds of a run as a whole, of its steps alone (None: not told), and its end loss."""

    seconds: float
    training: float | None
    loss: float


Contender = Callable[[Task, Run], Timing]


class Silent:
    """A session that does nothing."""

    def __init__(self) -> None:
        self.last = Point(0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def report(self, point: Point) -> None:
        """Keep the last point."""
        self.last = point

    def save(self, state: bytes) -> None:
        """Keep nothing."""

    def load(self) -> bytes | None:
        """Return None: there is no checkpoint."""
        return None

    def save_model(self, state: bytes) -> None:
        """Keep nothing."""


def ours(task: Task, run: Run) -> Timing:
    """Train with our objective."""
    session = Silent()
    started = task.setup.now()
    result = task.objective(run, session)
    seconds = task.setup.now() - started
    return Timing(seconds, result.seconds, session.last.held_out_loss)


@contextmanager
def free_cudnn() -> Iterator[None]:
    """Let cuDNN choose its fastest ways, which our device setting gives up to be repeatable."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def free(train: Contender) -> Contender:
    """Return a contender that trains with cuDNN's fastest ways."""

    def freely(task: Task, run: Run) -> Timing:
        with free_cudnn():
            return train(task, run)

    return freely


def alternate(
    task: Task,
    contenders: Mapping[str, Contender],
    repeats: int,
    left: Callable[[], float] = lambda: math.inf,
) -> dict[str, list[Timing]]:
    """Return `repeats` timings of each contender, all of them in turn, each round in another order.

    Before that each trains a tenth of the steps for nothing. `left`: the seconds that there are; of
    the rounds after the first only those that fit are begun.
    """
    for train in contenders.values():
        train(task, task.of(task.run.steps // 10))
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    names, longest = list(contenders), 0.0
    for number in range(repeats):
        if number and left() < longest:
            break
        turn, began = number % len(names), time.monotonic()
        for name in names[turn:] + names[:turn]:
            gc.collect()
            torch.manual_seed(number)
            timings[name].append(contenders[name](task, task.run))
            time.sleep(0.05)  # let what the last one left behind (threads, writes) come to rest
        longest = max(longest, time.monotonic() - began)
    return timings


def spread(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])]


def compare(
    task: Task, timings: Mapping[str, Sequence[Timing]], first: str
) -> list[dict[str, Any]]:
    """Return a row for each contender: examples a second, and how many times as fast `first` is.

    The ratio is taken within each round, so that a slow spell of the machine hits both sides.
    """
    rows = []
    for name, mine in timings.items():
        ratios = [o.seconds / f.seconds for o, f in zip(mine, timings[first], strict=True)]
        steps = [
            o.training / f.training
            for o, f in zip(mine, timings[first], strict=True)
            if o.training and f.training
        ]
        rows.append(
            {
                "case": task.case.name,
                "contender": name,
                "examples_per_second": spread([task.run.examples / t.seconds for t in mine]),
                "ratio": spread(ratios),
                "ratio_steps": spread(steps) if steps else None,
                "loss": mine[-1].loss,
                "repeats": len(mine),
            }
        )
    return rows
