"""Events of runs in training: passed to the terminal, the tracker and the budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from orchestrator import clues
from orchestrator.clues import Clue
from orchestrator.curve import Outcome, Point, State
from orchestrator.recipe import Run


class Listener(Protocol):
    """Callbacks for runs in training; the terminal, the tracker and the budget are listeners."""

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Called when a run starts.

        Args:
            stage: Name of the stage.
            run: What is trained.
            trial_key: The trial's key in later calls.
        """

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Called for each measurement of a run.

        Args:
            run: What is trained.
            trial_key: The trial's key.
            point: The measurement.

        Raises:
            StopRun: The run ends here.
        """

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Called when a run ended.

        Args:
            stage: Name of the stage.
            outcome: The result of the run.
            clue: The label of its curve, "" without one.
        """


class Watch:
    """A watcher that calls each listener, in their order, and reads the clues of curves.

    Args:
        start_loss: Held-out loss where runs start (`Facts.start_loss`), needed to read clues.
        listeners: A listener that may raise, to end a run, must be the last.
    """

    def __init__(self, start_loss: float, listeners: Sequence[Listener]) -> None:
        self._start_loss = start_loss
        self._listeners = listeners
        self._clues: dict[tuple[str, State], Clue] = {}  # a pruned run may be continued and finish

    def clue(self, outcome: Outcome) -> Clue | None:
        """Return the clue of an outcome's curve, None for a ramp, which is meant to diverge."""
        if outcome.run.kind != "train":
            return None
        which = outcome.key, outcome.state
        if which not in self._clues:
            self._clues[which] = clues.read(outcome.curve, self._start_loss)
        return self._clues[which]

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Call all listeners."""
        for listener in self._listeners:
            listener.run_started(stage, run, trial_key)

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Call all listeners."""
        for listener in self._listeners:
            listener.point(run, trial_key, point)

    def run_ended(self, stage: str, outcome: Outcome) -> None:
        """Call all listeners, with the clue of the curve."""
        clue = self.clue(outcome)
        for listener in self._listeners:
            listener.run_ended(stage, outcome, clue.label if clue else "")


class Trained:
    """A listener that keeps what this command trained.

    Attributes:
        any: Whether a run started.
        ended: Trial keys of the runs that ended.
        tested: Time of each result on the test data (`time.monotonic`), by trial key.
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
        """Note that a run started."""
        self.any = True

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Keep the run's training time."""
        self._seconds[trial_key] = point.seconds

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Keep the key, and the time of a test result."""
        self.ended.add(outcome.key)
        if outcome.run.opens_test and outcome.state == "finished":
            self.tested[outcome.key] = time.monotonic()
