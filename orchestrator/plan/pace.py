"""How far a running study is: the time left, and what its budget still allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.objectives import Objective, describe
from orchestrator.plan.estimate import Known, Play, Range, plays
from orchestrator.plan.prices import Clock, Prices, learnt, progress
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.final import Final
from orchestrator.stages.stage import Stage, walk

log = logging.getLogger(__name__)
WORLDS = 8  # played while a study waits: enough for "3 to 5 minutes"
TELL_AFTER = 20.0  # seconds: a shorter study needs no estimate, and none is made more often
ENDING = (3.0, 0.05)  # seconds, or a share if that is less, of a budget: to write the report
EASILY = 0.05  # shares of what is left that a cut final stage may be off by
TRIED = 1.0  # and the smallest one, since nothing else can use what is left: estimates are rough


class OutOfTime(BaseException):
    """The budget does not allow what was to come; raised between runs and from a run's report.

    A BaseException, so that whoever trains lets it pass: the run is given up, not failed.
    """


@dataclass
class Pace:
    """The clock of one command on one study.

    `clock` gives seconds; `spent` are those of earlier commands, `shut`: they used up this very
    budget. `known` finds the outcome of a run that need not be trained. `test_examples`: size of
    the sealed test, which the final runs are measured on. `before`: the seconds that this command
    has taken already.
    """

    stages: Sequence[Stage]
    facts: Facts
    clock: Clock
    known: Known
    max_seconds: float | None = None
    spent: float = 0.0
    shut: bool = False
    test_examples: int = 0
    before: float = 0.0

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._ended: dict[Run, Outcome] = {}  # trained by this command
        self._seen: list[Outcome] = []
        self._factors: list[tuple[float, float]] = []  # of rounds: time over price, and the price
        self._plays: list[Play] = []  # of what was to come when they were played
        self._played = 0.0  # when that was
        self._at, self._since = 0, 0.0  # number of the stage that is on or comes next, since when
        self._reserves: dict[Recipe, float] = {}
        self._cuts: dict[str, str] = {}  # what became of stages that the budget cut

    @property
    def elapsed(self) -> float:
        """Seconds of this command."""
        return self.before + self.clock() - self._started

    @property
    def remaining(self) -> float:
        """Seconds of the budget that are left, inf without one."""
        if self.max_seconds is None:
            return math.inf
        ending = min(ENDING[0], ENDING[1] * self.max_seconds)
        return -math.inf if self.shut else self.max_seconds - ending - self.spent - self.elapsed

    # --- what it is told

    def stage_started(self, number: int, recipe: Recipe) -> None:
        """Stage `number` begins: time to work out anew what is left."""
        self._at, self._since = number, self.elapsed
        prices = self._prices()
        if prices is not None and self.elapsed - self._played >= TELL_AFTER:
            self._plays = plays(
                self.stages[number:],
                recipe,
                prices,
                known=self.known,
                worlds=WORLDS,
            )
            self._played = self.elapsed

    def stage_ended(self, number: int) -> None:
        """Stage `number` has decided: only later ones are still to come."""
        self._at, self._since = number + 1, self.elapsed

    def walk(
        self, stage: Stage, recipe: Recipe, run_round: Callable[[list[Run]], Sequence[Outcome]]
    ) -> tuple[Decision | None, tuple[Outcome, ...]]:
        """Take a stage to its decision (see `stages.stage.walk`), within the budget.

        Where that ends the stage early, it decides with the runs that it has. The decision is None
        where a final stage has nothing to show by then.
        """
        so_far: list[Outcome] = []
        now: list[Run] = []
        before = {o.run for o in self._seen}  # by other stages: a run may serve several

        def within(runs: list[Run]) -> Sequence[Outcome]:
            now[:] = runs
            self._check(stage, recipe, runs)
            began = self.clock()
            outcomes = run_round(runs)
            self._round_ended(self.clock() - began, outcomes)
            now.clear()
            so_far.extend(outcomes)
            return outcomes

        try:
            decision, outcomes = walk(stage, recipe, within)
            if how := self._cuts.get(stage.name):
                decision = replace(decision, reason=f"{decision.reason}; for the budget {how}")
            return decision, outcomes
        except OutOfTime:
            half = [o for run in now if (o := self._ended.get(run) or self.known(run))]
            self._seen += half
            so_far += half
            own = any(len(o.curve) and o.run not in before for o in so_far)
            return self._early(stage, recipe, so_far if own else ()), tuple(so_far)

    def _early(self, stage: Stage, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision | None:
        """Return what a stage says before it has all it asked for; no `outcomes`: nothing."""
        self._cuts[stage.name] = "decided early"
        try:
            decision = stage.decide(recipe, outcomes) if outcomes else None
        except Exception:  # half a round may be less than a stage can decide by
            decision = None
        if decision is not None and decision.answered:
            return replace(decision, reason=f"{decision.reason}; the budget ended it early")
        self._cuts[stage.name] = "left out"
        if stage.kind == "final":
            return None
        return Decision(
            stage.name,
            stage.kind,
            f"nothing is decided: the budget is over ({self.max_seconds:g} s)",
            answered=recipe.max_lr is not None or "max_lr" not in stage.gives,
            incumbent_kept=True,
        )

    def _check(self, stage: Stage, recipe: Recipe, runs: Sequence[Run]) -> None:
        """Raise OutOfTime if a round does not fit, together with what must come after it.

        What there is no recipe without, and the final stage, go on till the time is over: nothing
        else can use it, and prices are rough after the first run.
        """
        if self.max_seconds is None:
            return
        runs = [run for run in runs if self.known(run) is None]
        prices = self._prices()
        cost = sum(map(prices.of, runs)) if prices else 0.0
        if self._unset(recipe) or isinstance(stage, Final):
            cost = 0.0
        reserve = self._reserve(stage, recipe, prices)
        if runs and cost + reserve > self.remaining:
            final = f" and the final runs {_text(reserve)}" if reserve else ""
            self._lacks(stage, f"its next runs need {_text(cost)}{final}")
            raise OutOfTime

    def run_ended(self, outcome: Outcome) -> None:
        """A run was trained."""
        self._ended[outcome.run] = outcome

    def _round_ended(self, seconds: float, outcomes: Sequence[Outcome]) -> None:
        self._seen += outcomes
        trained = [o for o in outcomes if o.run in self._ended]
        if trained and (prices := learnt(self.facts, self._seen)):
            price = sum(prices.of(o.run, progress(o)) for o in trained)
            if price > 0:
                self._factors.append((seconds / price, price))

    def point(self) -> None:
        """A run reported. Raises OutOfTime if the budget is over."""
        if self.remaining < 0:
            raise OutOfTime

    # --- what it says

    @property
    def said(self) -> str:
        """What the budget cut off, "" for nothing."""
        if not self._cuts or self.max_seconds is None:
            return ""
        cuts = ", ".join(f"{name} {how}" for name, how in self._cuts.items())
        final = [s.name for s in self.stages if s.kind == "final"]
        untested = any(self._cuts.get(name) == "left out" for name in final)
        worth = "this is the best answer so far" + (", and it was not tested" if untested else "")
        return f"the budget of {self.max_seconds:g} s is too small for all of it ({cuts}): {worth}"

    def summary(self, trained: bool) -> dict[str, Any] | None:
        """Return the study's budget for summary.json, None without one."""
        if self.max_seconds is None:
            return None
        spent = self.spent + (self.elapsed if trained else 0.0)
        return {
            "max_seconds": self.max_seconds,
            "spent_seconds": round(spent, 3),
            "reached": bool(self._cuts),
            "cuts": dict(self._cuts),
        }

    def left(self) -> Range | None:
        """Return the seconds that the study still takes, None where that is not known yet."""
        if not self._plays:
            return None
        coming = [stage.name for stage in self.stages[self._at :]]
        there = Range.of(sum(p.seconds.get(name, 0.0) for name in coming) for p in self._plays)
        since, most = self.elapsed - self._since, max(0.0, self.remaining)
        low, high = (min(most, max(0.0, s - since)) for s in (there.low, there.high))
        return Range(low, high)

    def final_that_fits(self, stage: Stage, recipe: Recipe) -> Stage | None:
        """Return the final stage as large as the budget allows: without baselines, with one seed.

        None if not even that fits; other stages and studies without a budget are not touched.
        """
        prices = self._prices()
        if not isinstance(stage, Final) or self.max_seconds is None or prices is None:
            return stage
        alone = replace(stage, baselines=False)
        sizes = ((stage, EASILY), (alone, EASILY), (replace(alone, seeds=1), TRIED))
        for smaller, easily in sizes:
            cost = self._cost(smaller, recipe, prices)
            if cost == 0 or cost <= self.remaining * (1 + easily):
                if less := _less(stage, smaller):
                    self._cuts[stage.name] = less
                return smaller
        self._cuts[stage.name] = "left out"
        self._lacks(stage, f"with one seed it needs {_text(cost)}")
        return None

    def _reserve(self, stage: Stage, recipe: Recipe, prices: Prices | None) -> float:
        """Return the seconds to keep for the final stage.

        None for what it cannot do without: the range test comes first.
        """
        final = self._final
        if prices is None or final is None or isinstance(stage, Final) or self._unset(recipe):
            return 0.0
        if recipe not in self._reserves:
            self._reserves[recipe] = self._cost(final, recipe, prices)
        return self._reserves[recipe]

    @property
    def _final(self) -> Stage | None:
        return next((s for s in self.stages if s.kind == "final"), None)

    def _unset(self, recipe: Recipe) -> bool:
        """Whether the recipe lacks what the final stage cannot do without."""
        needs = self._final.needs if self._final else ()
        return any(getattr(recipe, name) is None for name in needs)

    def _lacks(self, stage: Stage, needs: str) -> None:
        """Say by how much the budget is too small; once, for the time that is left changes."""
        if not self.shut:
            level = logging.WARNING if isinstance(stage, Final) else logging.INFO
            left = _text(self.remaining)
            log.log(level, "%s: %s, %s of the budget are left", stage.name, needs, left)

    def _cost(self, stage: Stage, recipe: Recipe, prices: Prices) -> float:
        """Return the seconds that a stage may take."""
        told = plays([stage], recipe, prices, known=self.known, worlds=WORLDS)
        return max(play.total for play in told)

    def _prices(self) -> Prices | None:
        """Return what runs cost so far: their own seconds, times what went on around them.

        The factor is that of the rounds in the middle: first steps are slow, and a timed run may
        have waited for a quiet machine.
        """
        prices = learnt(self.facts, self._seen)
        if prices is None:
            return None
        scale = _middle(self._factors) if self._factors else prices.scale
        return replace(prices, scale=scale, test_examples=self.test_examples)


def _middle(factors: Sequence[tuple[float, float]]) -> float:
    """Return the median of the factors, each counted by its weight."""
    ordered, half = sorted(factors), sum(weight for _, weight in factors) / 2
    sums = accumulate(weight for _, weight in ordered)
    return next(f for (f, _), so_far in zip(ordered, sums, strict=True) if so_far >= half)


def _text(seconds: float) -> str:
    return f"{max(0.0, seconds):.{0 if seconds >= 10 else 1}f} s"


def _less(whole: Final, smaller: Final) -> str:
    """Return what a final stage does without, "" for nothing."""
    less = ["without baselines"] if whole.baselines > smaller.baselines else []
    less += ["with one seed"] if whole.seeds > smaller.seeds else []
    return " and ".join(less)


def clock_of(objective: Objective, trained: Callable[[], float], real: Clock) -> Clock:
    """Return the clock that an objective is timed by: a fake one counts training seconds alone."""
    return trained if describe(objective).fake_clock else real
