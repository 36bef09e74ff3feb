"""Calibration: seconds per step of each batch size, with the spread of the measurement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from orchestrator.curve import Result
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.training.batches import gathered
from orchestrator.training.trainer import Setup, Trainer

ROUNDS = 7
ROUND_SECONDS = 0.02  # per batch size: much longer than clock resolution and scheduler tick
ROUND_STEPS = 3
# So many steps that the schedule stays at its start, so that the network does not diverge.
ENDLESS = 10**9
LONG_STEP, MOST_SECONDS = 0.1, 2.0  # limits when threads are compared


def calibrate(setup: Setup, run: Run) -> Result:
    """Return the seconds per step of each of `run.batch_sizes`, and their spread over rounds.

    Each round measures all sizes in turn, so that a disturbance affects all of them. The time of a
    size is the median over rounds of its ratio to the first size, times the first size's median.
    `spread` is half the interquartile range of this ratio over its median. Warm-up steps are not
    timed. Raises ValueError for too large a batch.
    """
    paces = {size: _Pace(_trainer(setup, run, size)) for size in run.batch_sizes}
    rounds = [{size: pace.measured() for size, pace in paces.items()} for _ in range(ROUNDS)]
    first = run.batch_sizes[0]
    base = float(np.median([measured[first] for measured in rounds]))
    seconds, spread = {}, {}
    for size in run.batch_sizes:
        ratios = [measured[size] / measured[first] for measured in rounds]
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        seconds[str(size)] = float(median) * base
        spread[str(size)] = float((high - low) / 2 / median)
    return Result(measured={"seconds_per_step": seconds, "spread": spread})


class _Pace:
    """A trainer whose steps are timed, with the gathering of examples timed separately.

    Examples of many steps are gathered at once, of fewer steps for large batches. A round is too
    short to contain the right share of gathering, so that share of the last gathering is added.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._gathering = self._per_step = 0.0  # seconds so far; the last gathering's, per step
        trainer.batches = self._batches()
        self._steps = _steps_per_round(trainer)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        setup, size = self._trainer.setup, self._trainer.run.batch_size
        feed = gathered(setup.inputs, size, seed=0)
        while True:
            start = setup.now()
            batches = next(feed)
            took = setup.now() - start
            self._gathering += took
            self._per_step = took / len(batches)
            yield from batches

    def measured(self) -> float:
        """Return the seconds per step in one round."""
        before, steps = self._gathering, self._steps
        took = per_step(self._trainer, steps)
        return took - (self._gathering - before) / steps + self._per_step


def seconds_per_example(setup: Setup, batch_size: int) -> float:
    """Return roughly the seconds of training per example, from two steps of `batch_size`."""
    return per_step(_warm(idle(setup, batch_size)), 2) / batch_size


def gain_of_one_thread(setup: Setup, batch_size: int) -> float:
    """Return how many times as fast a step is on one thread as on torch's current number.

    The median of a few rounds that measure both in turn; 1 for steps so long that more threads
    help. Torch's number of threads is restored afterwards.
    """
    trainer = _warm(idle(setup, batch_size))
    began, threads, ratios = setup.now(), torch.get_num_threads(), list[float]()
    try:
        torch.set_num_threads(1)
        if per_step(trainer, 2) > LONG_STEP:
            return 1.0
        steps = _steps_per_round(trainer)
        while len(ratios) < ROUNDS and setup.now() < began + MOST_SECONDS:
            one = _on(1, trainer, steps)
            ratios.append(_on(threads, trainer, ROUND_STEPS) / one)
    finally:
        torch.set_num_threads(threads)
    return float(np.median(ratios or [1.0]))


def _on(threads: int, trainer: Trainer, steps: int) -> float:
    """Return the seconds per step on `threads` threads."""
    torch.set_num_threads(threads)
    per_step(trainer, 1)  # threads start, or go to sleep
    return per_step(trainer, steps)


def idle(setup: Setup, batch_size: int) -> Trainer:
    """Return a trainer for measurements, not warmed up, at a very low learning rate."""
    schedule = Schedule("constant", 1e-4, 1e-4, 0.9, 0.9)
    return Trainer(setup, Run("train", schedule, 0.0, batch_size, ENDLESS, 0))


def _trainer(setup: Setup, run: Run, size: int) -> Trainer:
    return _warm(Trainer(setup, replace(run, kind="train", batch_size=size, steps=ENDLESS)))


def _warm(trainer: Trainer) -> Trainer:
    trainer.setup.warm_up(trainer.run)
    return trainer


def _steps_per_round(trainer: Trainer) -> int:
    per_step(trainer, 1)  # the momentum buffers are made in the first step
    return max(ROUND_STEPS, math.ceil(ROUND_SECONDS / per_step(trainer, ROUND_STEPS)))


def per_step(trainer: Trainer, steps: int) -> float:
    """Return the seconds per step over the next `steps` steps."""
    start = trainer.setup.now()
    trainer.advance(steps)
    return (trainer.setup.now() - start) / steps
