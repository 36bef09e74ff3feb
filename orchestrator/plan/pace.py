"""How far a running study is: the time left, and what its budget still allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.objectives import Objective, about
from orchestrator.plan.estimate import Known, Range, plays
from orchestrator.plan.prices import Clock, Prices, learnt, progress
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.final import Final
from orchestrator.stages.stage import Stage, walk

WORLDS = 8  # played while a study waits: enough for "3 to 5 minutes"
TELL_AFTER = 20.0  # seconds: a shorter study needs no estimate, and none is made more often
ENDING = (3.0, 0.05)  # seconds, or a share if that is less, of a budget: to write the report
EASILY = 0.05  # shares of what is left that a cut final stage may be off by


class OutOfTime(BaseException):
    """The budget does not allow what was to come; raised between runs and from a run's report.

    A BaseException, so that whoever trains lets it pass: the run is given up, not failed.
    """


@dataclass
class Pace:
    """The clock of one command on one study.

    `clock` gives seconds; `spent` are those of earlier commands, `shut`: they used up this very
    budget. `known` finds the outcome of a run that need not be trained. `prunes`: lost runs are
    stopped. `test_examples`: size of the sealed test, which the final runs are measured on.
    """

    stages: Sequence[Stage]
    facts: Facts
    clock: Clock
    known: Known
    max_seconds: float | None = None
    spent: float = 0.0
    shut: bool = False
    prunes: bool = True
    test_examples: int = 0

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._ended: dict[Run, Outcome] = {}  # trained by this command
        self._seen: list[Outcome] = []
        self._training = 0.0  # seconds that passed in rounds that trained something
        self._expected = 0.0  # and what they were priced at
        self._later: tuple[float, Range] | None = None  # when it was worked out, and what is left
        self._reserves: dict[Recipe, float] = {}
        self._cuts: dict[str, str] = {}  # what became of stages that the budget cut

    @property
    def elapsed(self) -> float:
        """Seconds of this command."""
        return self.clock() - self._started

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
        worked_out = self._later[0] if self._later else 0.0
        prices = self._prices()
        if prices is not None and self.elapsed - worked_out >= TELL_AFTER:
            told = plays(
                self.stages[number:],
                recipe,
                prices,
                known=self.known,
                prunes=self.prunes,
                worlds=WORLDS,
            )
            self._later = self.elapsed, Range.of(play.total for play in told)

    def walk(
        self, stage: Stage, recipe: Recipe, run_round: Callable[[list[Run]], Sequence[Outcome]]
    ) -> tuple[Decision | None, tuple[Outcome, ...]]:
        """Take a stage to its decision (see `stages.stage.walk`), within the budget.

        Where that ends the stage early, it decides with the runs that it has. The decision is None
        where a final stage has nothing to show by then.
        """
        so_far: list[Outcome] = []
        now: list[Run] = []

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
            so_far += [o for run in now if (o := self._ended.get(run) or self.known(run))]
            return self._early(stage, recipe, so_far), tuple(so_far)

    def _early(self, stage: Stage, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision | None:
        """Return what a stage says before it has all it asked for."""
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
            "nothing is decided: the budget is over",
            answered=recipe.max_lr is not None or "max_lr" not in stage.gives,
            incumbent_kept=True,
        )

    def _check(self, stage: Stage, recipe: Recipe, runs: Sequence[Run]) -> None:
        """Raise OutOfTime if a round does not fit, together with what must come after it."""
        if self.max_seconds is None:
            return
        runs = [run for run in runs if self.known(run) is None]
        prices = self._prices()
        cost = sum(map(prices.of, runs)) if prices else 0.0
        if runs and cost + self._reserve(stage, recipe, prices) > self.remaining:
            raise OutOfTime

    def run_ended(self, outcome: Outcome) -> None:
        """A run was trained."""
        self._ended[outcome.run] = outcome

    def _round_ended(self, seconds: float, outcomes: Sequence[Outcome]) -> None:
        self._seen += outcomes
        trained = [o for o in outcomes if o.run in self._ended]
        if trained and (prices := learnt(self.facts, self._seen)):
            self._training += seconds
            self._expected += sum(prices.of(o.run, progress(o)) for o in trained)

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
        if self._later is None:
            return None
        when, there = self._later
        since = self.elapsed - when
        most = max(0.0, self.remaining)
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
        for smaller in (stage, alone, replace(alone, seeds=1)):
            cost = self._cost(smaller, recipe, prices)
            if cost == 0 or cost <= self.remaining * (1 + EASILY):
                if less := _less(stage, smaller):
                    self._cuts[stage.name] = less
                return smaller
        self._cuts[stage.name] = "left out"
        return None

    def _reserve(self, stage: Stage, recipe: Recipe, prices: Prices | None) -> float:
        """Return the seconds to keep for the final stage.

        None for what it cannot do without: the range test comes first.
        """
        final = next((s for s in self.stages if s.kind == "final"), None)
        unset = final and any(getattr(recipe, name) is None for name in final.needs)
        if prices is None or final is None or final is stage or isinstance(stage, Final) or unset:
            return 0.0
        if recipe not in self._reserves:
            self._reserves[recipe] = self._cost(final, recipe, prices)
        return self._reserves[recipe]

    def _cost(self, stage: Stage, recipe: Recipe, prices: Prices) -> float:
        """Return the seconds that a stage may take."""
        told = plays([stage], recipe, prices, known=self.known, prunes=self.prunes, worlds=WORLDS)
        return max(play.total for play in told)

    def _prices(self) -> Prices | None:
        """Return what runs cost so far: their own seconds, times what went on around them."""
        prices = learnt(self.facts, self._seen)
        if prices is None:
            return None
        priced = self._expected and self._training
        scale = self._training / self._expected if priced else prices.scale
        return replace(prices, scale=scale, test_examples=self.test_examples)


def _less(whole: Final, smaller: Final) -> str:
    """Return what a final stage does without, "" for nothing."""
    less = ["without baselines"] if whole.baselines > smaller.baselines else []
    less += ["with one seed"] if whole.seeds > smaller.seeds else []
    return " and ".join(less)


def clock_of(objective: Objective, trained: Callable[[], float], real: Clock) -> Clock:
    """Return the clock that an objective is timed by: a fake one counts training seconds alone."""
    return trained if about(objective, "fake_clock", False) else real
