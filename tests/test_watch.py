"""Who is told of runs, and what the study keeps of them."""

import math
from dataclasses import replace
from typing import Any

import pytest
from test_inline import a_run

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.plan.budget import OutOfTime
from orchestrator.recipe import Run
from orchestrator.study.watch import Trained, Watch


class Told:
    """A listener that keeps what it is told; `ends`: it ends a run at its first point."""

    def __init__(self, ends: bool = False) -> None:
        self.heard: list[Any] = []
        self._ends = ends

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        self.heard.append((stage, trial_key))

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        self.heard.append((trial_key, point.step))
        if self._ends:
            raise OutOfTime

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        self.heard.append((stage, outcome.key, clue))


def a_point(step: int, loss: float, seconds: float = 0.0) -> Point:
    return Point(step, step / 10, 0.1, 0.9, loss, loss, seconds=seconds)


def an_outcome(key: str, *losses: float, **run: Any) -> Outcome:
    points = [a_point(i + 1, loss) for i, loss in enumerate(losses)]
    return Outcome(replace(a_run(0.1), **run), key, "finished", Curve.of(points), Result())


def test_all_listeners_are_told_the_same_in_their_order() -> None:
    """Start, points and end of a run; with the end the clue of its curve."""
    first, second = Told(), Told()
    watch, outcome = Watch(2.3, [first, second]), an_outcome("a", 2.0, math.nan)
    watch.run_started("momentum", outcome.run, "a")
    watch.point(outcome.run, "a", a_point(1, 2.0))
    watch.run_ended("momentum", outcome)
    assert first.heard == [("momentum", "a"), ("a", 1), ("momentum", "a", "diverged")]
    assert second.heard == first.heard
    assert watch.clue(an_outcome("ramp", 2.0, math.nan, kind="ramp")) is None


def test_a_listener_that_ends_the_run_is_heard_after_the_others() -> None:
    """What raises at a point stops nobody who stands before it."""
    before, budget = Told(), Told(ends=True)
    with pytest.raises(OutOfTime):
        Watch(2.3, [before, budget]).point(a_run(0.1), "a", a_point(1, 2.0))
    assert before.heard == [("a", 1)]


def test_what_a_command_trained_is_counted() -> None:
    """Seconds by trial, the latest of each; which ended, and which hold a sealed result."""
    trained, run = Trained(), a_run(0.1)
    assert (trained.any, trained.seconds()) == (False, 0.0)
    trained.run_started("a", run, "x")
    for key, seconds in (("x", 1.0), ("x", 2.0), ("x-audit", 0.5)):
        trained.point(run, key, a_point(1, 2.0, seconds))
    assert (trained.any, trained.seconds()) == (True, 2.5)
    trained.run_ended("a", an_outcome("x", 1.0), "")
    trained.run_ended("final", an_outcome("y", 1.0, opens_test=True), "")
    assert trained.ended == {"x", "y"}
    assert list(trained.tested) == ["y"]
