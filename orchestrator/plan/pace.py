"""How far a running study is: what its runs took so far, and the time left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from orchestrator.curve import Outcome
from orchestrator.objectives import Objective, describe
from orchestrator.plan.estimate import Known, Play, Range, plays
from orchestrator.plan.prices import Clock, Prices, learnt, progress
from orchestrator.recipe import Facts, Recipe
from orchestrator.stages.stage import Stage

WORLDS = 8  # played while a study waits: enough for "3 to 5 minutes"
TELL_AFTER = 20.0  # seconds: a shorter study needs no estimate, and none is made more often


@dataclass
class Pace:
    """The clock of one command on one study.

    `clock` gives seconds. `known` finds the outcome of a run that need not be trained.
    `test_examples`: size of the sealed test, which the final runs are measured on. `before`: the
    seconds that this command has taken already.
    """

    stages: Sequence[Stage]
    facts: Facts
    clock: Clock
    known: Known
    test_examples: int = 0
    before: float = 0.0

    def __post_init__(self) -> None:
        self.outcomes: list[Outcome] = []  # of all stages so far
        self._started = self.clock()
        self._factors: list[tuple[float, float]] = []  # of rounds: time over price, and the price
        self._plays: list[Play] = []  # of what was to come when they were played
        self._played = 0.0  # when that was
        self._at, self._since = 0, 0.0  # number of the stage that is on or comes next, since when
        self._recipe: Recipe | None = None  # that it began with

    @property
    def elapsed(self) -> float:
        """Seconds of this command."""
        return self.before + self.clock() - self._started

    def stage_started(self, number: int, recipe: Recipe) -> None:
        """Stage `number` begins: time to work out anew what is left."""
        self._at, self._since, self._recipe = number, self.elapsed, recipe
        prices = self.prices()
        if prices is not None and self.elapsed - self._played >= TELL_AFTER:
            self._plays = self._play(self.stages[number:], recipe, prices)
            self._played = self.elapsed

    def stage_ended(self, number: int) -> None:
        """Stage `number` has decided: only later ones are still to come."""
        self._at, self._since = number + 1, self.elapsed

    def round_ended(
        self, seconds: float, outcomes: Sequence[Outcome], trained: Sequence[Outcome]
    ) -> None:
        """A round took `seconds`; `trained` are its outcomes that were not known before."""
        self.outcomes += outcomes
        trained = [o for o in trained if not o.run.goes_on_from]  # only tested
        if trained and (prices := learnt(self.facts, self.outcomes)):
            price = sum(prices.of(o.run, progress(o)) for o in trained)
            if price > 0:
                self._factors.append((seconds / price, price))

    def left(self, most: float = math.inf) -> Range | None:
        """Return the seconds that the study still takes, `most` at most; None: not known yet."""
        if not self._plays:
            return None
        coming = [stage.name for stage in self.stages[self._at :]]
        there = Range.of(sum(p.seconds.get(name, 0.0) for name in coming) for p in self._plays)
        since = self.elapsed - self._since
        low, high = (min(most, max(0.0, s - since)) for s in (there.low, there.high))
        return Range(low, high)

    def prices(self) -> Prices | None:
        """Return what runs cost so far: their own seconds, times what went on around them.

        None while no run has ended. The factor is that of the rounds in the middle: first steps are
        slow, and a timed run may have waited for an idle machine.
        """
        prices = learnt(self.facts, self.outcomes)
        if prices is None:
            return None
        scale = _middle(self._factors) if self._factors else prices.scale
        return replace(prices, scale=scale, test_examples=self.test_examples)

    def cost(self, stage: Stage, recipe: Recipe, prices: Prices) -> float:
        """Return the seconds that a stage takes at most."""
        return max(play.total for play in self._play([stage], recipe, prices))

    def coming(self) -> list[Play]:
        """Return how the study may go on from the beginning of this stage.

        [] before there is a learning rate: no world can tell what the range test is going to find.
        """
        prices = self.prices()
        if prices is None or self._recipe is None or self._recipe.max_lr is None:
            return []
        return self._play(self.stages[self._at :], self._recipe, prices)

    def _play(self, stages: Sequence[Stage], recipe: Recipe, prices: Prices) -> list[Play]:
        return plays(stages, recipe, prices, known=self.known, worlds=WORLDS)


def _middle(factors: Sequence[tuple[float, float]]) -> float:
    """Return the median of the factors, each counted by its weight."""
    ordered, half = sorted(factors), sum(weight for _, weight in factors) / 2
    sums = accumulate(weight for _, weight in ordered)
    return next(f for (f, _), so_far in zip(ordered, sums, strict=True) if so_far >= half)


def clock_of(objective: Objective, trained: Callable[[], float], real: Clock) -> Clock:
    """Return the clock that an objective is timed by: a fake one counts training seconds alone."""
    return trained if describe(objective).fake_clock else real
