"""The watch on runs: who listens to those that are really trained, and what the study keeps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from orchestrator import clues
from orchestrator.clues import Clue
from orchestrator.curve import Outcome, Point, State
from orchestrator.recipe import Run


class Listener(Protocol):
    """What the study's terminal, tracker and budget are told of runs while they train."""

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """A run begins; `trial_key` names its trial in what follows."""

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """A run measured something."""

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """A run ended; `clue` is the label of its curve."""


class Watch:
    """An executor's watcher that passes on what it is told to `listeners`, in their order.

    A listener that may raise, to end a run, comes last. `start_loss`: the held-out loss where runs
    start (`Facts.start_loss`), which clues are read by.
    """

    def __init__(self, start_loss: float, listeners: Sequence[Listener]) -> None:
        self._start_loss = start_loss
        self._listeners = listeners
        self._clues: dict[tuple[str, State], Clue] = {}  # a pruned run may go on and finish

    def clue(self, outcome: Outcome) -> Clue | None:
        """Return the clue of an outcome's curve, None for a ramp, which is meant to break."""
        if outcome.run.kind != "train":
            return None
        which = outcome.key, outcome.state
        if which not in self._clues:
            self._clues[which] = clues.read(outcome.curve, self._start_loss)
        return self._clues[which]

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """A run begins."""
        for listener in self._listeners:
            listener.run_started(stage, run, trial_key)

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """A run measured something."""
        for listener in self._listeners:
            listener.point(run, trial_key, point)

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """A run ended."""
        clue = self.clue(outcome)
        for listener in self._listeners:
            listener.run_ended(stage, outcome, clue.label if clue else "")


class Trained:
    """What this command trained. A listener.

    `any`: whether a run began. `ended`: trial keys of those that ended. `tested`: when a sealed
    result was there (`time.monotonic`), by trial key.
    """

    def __init__(self) -> None:
        self.any = False
        self.ended: set[str] = set()
        self.tested: dict[str, float] = {}
        self._seconds: dict[str, float] = {}  # of training, by trial key

    def seconds(self) -> float:
        """Return the seconds of training so far, as the runs report them."""
        return sum(self._seconds.values())

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """A run begins."""
        self.any = True

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """A run measured something."""
        self._seconds[trial_key] = point.seconds

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """A run ended."""
        self.ended.add(outcome.key)
        if outcome.run.opens_test and outcome.state == "finished":
            self.tested[outcome.key] = time.monotonic()
