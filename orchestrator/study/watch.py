"""The watch on runs: what terminal, tracker and budget are told while they train."""

from __future__ import annotations

import time

from orchestrator import clues
from orchestrator.clues import Clue
from orchestrator.curve import Outcome, Point, State
from orchestrator.plan.pace import Pace
from orchestrator.recipe import Run
from orchestrator.report.terminal import Terminal
from orchestrator.tracking import Tracker


class Watch:
    """Tells the terminal and the tracker of every run that is really trained."""

    def __init__(self, terminal: Terminal, tracker: Tracker, start_loss: float) -> None:
        self._terminal = terminal
        self._tracker = tracker
        self._start_loss = start_loss
        self._clues: dict[tuple[str, State], Clue] = {}  # a pruned run may go on and finish
        self._number = self._of = 0
        self._seconds: dict[str, float] = {}  # of training, by key
        self.ended: set[str] = set()  # keys of the runs that this command trained
        self.tested: dict[str, float] = {}  # when a sealed result was there, by key
        self.trained = False
        self.pace: Pace | None = None

    def seconds(self) -> float:
        """Return the seconds of training so far, as the runs say."""
        return sum(self._seconds.values())

    def round_started(self, runs: int) -> None:
        """A round of so many runs begins."""
        self._number, self._of = 0, runs
        self._terminal.left(self.pace.left() if self.pace else None)

    def clue(self, outcome: Outcome) -> Clue | None:
        """Return the clue of an outcome's curve, None for a ramp, which is meant to break."""
        if outcome.run.kind != "train":
            return None
        which = outcome.key, outcome.state
        if which not in self._clues:
            self._clues[which] = clues.read(outcome.curve, self._start_loss)
        return self._clues[which]

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """A run begins."""
        self.trained = True
        self._number += 1
        self._tracker.quiet(run.timed)
        self._terminal.run_started(stage, run, self._number, self._of)
        self._tracker.run_started(stage, run, key)

    def point(self, run: Run, key: str, point: Point) -> None:
        """A run measured something."""
        self._terminal.point(run, point)
        self._tracker.point(key, point)
        self._seconds[key] = point.seconds
        if self.pace is not None:
            self.pace.point()

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """A run ended."""
        self._tracker.quiet(False)
        self.ended.add(outcome.key)
        if outcome.run.opens_test and outcome.state == "finished":
            self.tested[outcome.key] = time.monotonic()
        if self.pace is not None:
            self.pace.run_ended(outcome)
        clue = self.clue(outcome)
        label = clue.label if clue else ""
        self._terminal.run_ended(stage, outcome, label)
        self._tracker.run_ended(stage, outcome, label)
