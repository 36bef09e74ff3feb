"""What a training function costs: short trials that end by themselves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch.optim import Optimizer

from orchestrator.curve import Point, Result
from orchestrator.errors import one_line, out_of_memory
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.training.function.trial import Trial

ROUNDS = 5
WARM = 2  # steps before the clock: the first are slow
PROBED = 3  # steps of a memory probe: the second has the optimiser's state too
ROUND_STEPS, ROUND_SECONDS = 3, 0.05  # of a round at least
log = logging.getLogger(__name__)
Do = Callable[[Trial], object]


class Enough(BaseException):
    """Ends a trial that has measured what it was to."""


class NoSession:
    """The session of a trial outside of a study: nothing is kept."""

    def report(self, point: Point) -> None:
        """Nobody is told."""

    def save(self, state: bytes) -> None:
        """Nothing is kept."""

    def save_model(self, state: bytes) -> None:
        """Nothing is kept."""

    def load(self) -> bytes | None:
        """There is nothing to go on from."""
        return None


class Paced(Trial):
    """A trial without reports that ends after so many steps and seconds."""

    def __init__(self, run: Run, name: str, seed: int, *, steps: int, seconds: float) -> None:
        super().__init__(run, NoSession(), name, seed)
        self.step_seconds = math.nan
        self._least_steps, self._least_seconds = steps, seconds
        self._from, self._start = -1, 0.0

    def due(self, step: int) -> bool:
        """Nothing is reported."""
        return False

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set the rates; raise `Enough` at its end."""
        super().apply(optimizer, step)
        if self._from < 0 and step >= WARM:
            self._from, self._start = step, self._now()
        long_ago = time.perf_counter() - self._start >= self._least_seconds
        if self._from >= 0 and step - self._from >= self._least_steps and long_ago:
            self._end()

    def result(self, **_: Any) -> Result:
        """End as far as it came."""
        self._end()

    def _end(self) -> NoReturn:
        if self._step > self._from >= 0:
            self.step_seconds = (self._now() - self._start) / (self._step - self._from)
        raise Enough

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def calibrate(do: Do, run: Run, name: str, seed: int, steps: Callable[[int], int]) -> Result:
    """Return the seconds per step of each of `run.batch_sizes`, and how far the rounds spread.

    Each round measures all sizes in turn, as `training.calibration.calibrate` does; `steps`: of a
    whole run of a batch size.
    """
    lr, momentum = run.schedule.at(0)
    still = replace(run, kind="train", schedule=Schedule("constant", lr, lr, momentum, momentum))

    def measured(size: int) -> float:
        at_size = replace(still, batch_size=size, steps=max(100, steps(size)))
        trial = Paced(at_size, name, seed, steps=ROUND_STEPS, seconds=ROUND_SECONDS)
        _do(do, trial)
        if math.isnan(trial.step_seconds):
            raise trial.misuse(f"makes too few steps with batch size {size} to measure their time")
        return trial.step_seconds

    rounds = [[measured(size) for size in run.batch_sizes] for _ in range(ROUNDS)]
    return Result(measured=summed_up(run.batch_sizes, rounds))


def summed_up(sizes: Sequence[int], rounds: Sequence[Sequence[float]]) -> dict[str, object]:
    """Return what a calibration returns, from the seconds per step of each size in each round."""
    times = np.array(rounds)
    ratios = times / times[:, :1]
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    names = list(map(str, sizes))
    seconds = median * np.median(times[:, 0])
    return {
        "seconds_per_step": dict(zip(names, seconds.tolist(), strict=True)),
        "spread": dict(zip(names, ((high - low) / 2 / median).tolist(), strict=True)),
    }


def probe(do: Do, run: Run, name: str, seed: int) -> Result:
    """Return for each of `run.batch_sizes` whether a few steps of it work, and the bytes on CUDA.

    Larger sizes than one that ran out of memory are not tried. Where nothing is known of bytes they
    are 0.
    """
    fits, sizes = dict.fromkeys(map(str, run.batch_sizes), False), {}
    for size in sorted(run.batch_sizes):
        sizes[str(size)] = 0
        at_size = replace(run, kind="train", batch_size=size, steps=max(100, run.steps))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            _do(do, Paced(at_size, name, seed, steps=PROBED - WARM, seconds=0))
        except Exception as error:
            log.warning("batch size %d: %s", size, one_line(error, named=True))
            if out_of_memory(error):
                break
            continue
        fits[str(size)] = True
        if torch.cuda.is_available():
            sizes[str(size)] = torch.cuda.max_memory_allocated()
    return Result(measured={"fits": fits, "bytes": sizes})


def _do(do: Do, trial: Trial) -> None:
    with suppress(Enough):
        do(trial)
