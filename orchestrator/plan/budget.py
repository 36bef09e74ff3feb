"""A study within its budget, in seconds and in final runs: what is begun, cut short, left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.plan.estimate import Range
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.pace import Pace
from orchestrator.plan.prices import Prices
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.expected.answer import Answer
from orchestrator.stages.expected.first_run import FirstRun, full_run
from orchestrator.stages.expected.lr_search import LRSearch
from orchestrator.stages.final import Final
from orchestrator.stages.stage import Stage, walk

log = logging.getLogger(__name__)
FIRST = (LRSearch, FirstRun)  # stages without which there is no recipe
ENDING = (3.0, 0.05)  # seconds, or a share if that is less, of a budget: to write the report
EASILY = 0.05  # shares of what is left that a cut final stage may be off by
TRIED = 1.0  # and the smallest one, since nothing else can use what is left: estimates are rough


class OutOfTime(BaseException):
    """The budget does not allow what was to come; raised between runs and from a run's report.

    A BaseException, so that whoever trains lets it pass: the run is given up, not failed.
    """


@dataclass
class Budget:
    """What a study may take: `max_seconds`, and `max_final_runs` (H); None: what it needs.

    `price(outcomes)` gives the prices of runs in H, by what has been trained. `spent` are the
    seconds of earlier commands; `shut`: they used up this very budget. A listener of runs (see
    `study.watch`): it counts those that this command trains, and ends them in time.
    """

    pace: Pace
    max_seconds: float | None = None
    max_final_runs: float | None = None
    price: Callable[[Sequence[Outcome]], FinalRuns] | None = None
    spent: float = 0.0
    shut: bool = False

    def __post_init__(self) -> None:
        self._trained: dict[Run, Outcome] = {}  # by this command
        self._reserves: dict[Recipe, float] = {}
        self._cuts: dict[str, str] = {}  # what became of stages that the budget cut
        self._now = ""  # name of the stage
        self._ahead: set[Run] = set()  # trained before a stage has asked for them
        self._over = False  # only what is there is tested: nothing is checked any more

    @property
    def remaining(self) -> float:
        """Seconds of the budget that are left, inf without one."""
        if self.max_seconds is None:
            return math.inf
        ending = min(ENDING[0], ENDING[1] * self.max_seconds)
        spent = self.spent + self.pace.elapsed
        return -math.inf if self.shut else self.max_seconds - ending - spent

    @property
    def final_runs(self) -> float:
        """Final runs that all runs so far have cost, those of earlier commands too."""
        return self.price(self.pace.outcomes).spent(self.pace.outcomes) if self.price else 0.0

    @property
    def final_runs_left(self) -> float:
        """Final runs of the budget that are left, inf without a limit."""
        return math.inf if self.max_final_runs is None else self.max_final_runs - self.final_runs

    def left(self) -> Range | None:
        """Return the seconds that the study still takes, None where that is not known yet."""
        return self.pace.left(max(0.0, self.remaining))

    def check(self) -> None:
        """Raise OutOfTime if the budget is over."""
        if self.remaining < 0 and not self._over:
            raise OutOfTime

    # --- what it listens to

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """A run begins: its round fits, or it is trained for a later stage."""
        if stage != self._now:
            self._ahead.add(run)

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """A run reported. Raises OutOfTime if the budget is over."""
        self.check()

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """A run was trained."""
        self._trained[outcome.run] = outcome

    # --- what it allows

    def walk(
        self, stage: Stage, recipe: Recipe, run_round: Callable[[list[Run]], Sequence[Outcome]]
    ) -> tuple[Decision | None, tuple[Outcome, ...]]:
        """Take a stage to its decision (see `stages.stage.walk`), within the budget.

        Where that ends the stage early, it decides with the runs that it has. The decision is None
        where a final stage has nothing to show by then.
        """
        self._now = stage.name
        so_far: list[Outcome] = []
        now: list[Run] = []
        before = {o.run for o in self.pace.outcomes}  # by other stages: a run may serve several

        def within(runs: list[Run]) -> Sequence[Outcome]:
            now[:] = runs
            self._check_round(stage, recipe, runs)
            began = self.pace.clock()
            early = self._ahead.intersection(runs)
            self._ahead -= early  # only now do they count
            outcomes = run_round(runs)
            trained = [o for o in outcomes if o.run in self._trained and o.run not in early]
            self.pace.round_ended(self.pace.clock() - began, outcomes, trained)
            now.clear()
            so_far.extend(outcomes)
            return outcomes

        try:
            decision, outcomes = walk(stage, recipe, within)
            if how := self._cuts.get(stage.name):
                decision = replace(decision, reason=f"{decision.reason}; for the budget {how}")
            return decision, outcomes
        except OutOfTime:
            asked = [run for run in now if run not in self._ahead]
            half = [o for run in asked if (o := self._trained.get(run) or self.pace.known(run))]
            self.pace.outcomes += half
            so_far += half
            own = any(len(o.curve) and o.run not in before for o in so_far)
            return self._early(stage, recipe, so_far if own else ()), tuple(so_far)

    def _early(self, stage: Stage, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision | None:
        """Return what a stage decides before it has all it asked for; no `outcomes`: nothing."""
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
            f"nothing is decided: the budget is over ({self._limits})",
            answered=recipe.max_lr is not None or "max_lr" not in stage.gives,
            incumbent_kept=True,
        )

    def _check_round(self, stage: Stage, recipe: Recipe, runs: Sequence[Run]) -> None:
        """Raise OutOfTime if a round does not fit, together with what must come after it.

        What there is no recipe without, and the final stage, go on till the time is over: nothing
        else can use it, and prices are rough after the first run.
        """
        runs = [run for run in runs if self.pace.known(run) is None]
        if self._over or not runs:
            return
        if self._too_dear(stage, recipe, runs):
            raise OutOfTime
        if self.max_seconds is None:
            return
        prices = self.pace.prices()
        cost = sum(map(prices.of, runs)) if prices else 0.0
        if self._unset(recipe) or stage.kind == "final":
            cost = 0.0
        reserve = self._reserve(stage, recipe, prices)
        if cost + reserve > self.remaining:
            final = f" and the final runs {_text(reserve)}" if reserve else ""
            self._lacks(stage, f"its next runs need {_text(cost)}{final}")
            raise OutOfTime

    def _too_dear(self, stage: Stage, recipe: Recipe, runs: Sequence[Run]) -> bool:
        """Return whether a round costs more final runs than are left beside the final stage's."""
        if self.price is None or self._unset(recipe) or isinstance(stage, FIRST):
            return False
        prices = self.price(self.pace.outcomes)
        cost = sum(map(prices.of, runs))
        reserve = 0.0
        if stage.kind != "final" and isinstance(self._final, Answer):
            first = not any(run.kept for run in runs)  # else the final stage needs no other
            wanted = self._final.full_runs(recipe)[-self._final.more :] if self._final.more else []
            reserve = sum(map(prices.of, wanted)) + first + (not prices.continues)
        return cost + reserve > self.final_runs_left + 1e-6

    def final_that_fits(self, stage: Stage, recipe: Recipe) -> Stage | None:
        """Return the final stage as large as the budget allows: without baselines, with one seed.

        None if not even that fits; other stages and studies without a budget are not touched.
        """
        prices = self.pace.prices()
        if isinstance(stage, Answer):
            return self._answer_that_fits(stage, recipe, prices)
        if not isinstance(stage, Final) or self.max_seconds is None or prices is None:
            return stage
        alone = replace(stage, baselines=False)
        sizes = ((stage, EASILY), (alone, EASILY), (replace(alone, seeds=1), TRIED))
        for smaller, easily in sizes:
            cost = self.pace.cost(smaller, recipe, prices)
            if cost == 0 or cost <= self.remaining * (1 + easily):
                if less := _less(stage, smaller):
                    self._cuts[stage.name] = less
                return smaller
        self._cuts[stage.name] = "left out"
        self._lacks(stage, f"with one seed it needs {_text(cost)}")
        return None

    def _answer_that_fits(
        self, stage: Answer, recipe: Recipe, prices: Prices | None
    ) -> Stage | None:
        """Return the final stage of a cheap study: all of it, or without what does not fit."""
        for smaller in (stage, replace(stage, baselines=False, seeds=1)):
            there = {o.run for o in self.pace.outcomes}  # not in the ledger: a replay is the same
            missing = [r for r in smaller.full_runs(recipe) if r not in there]
            dear = self._too_dear(smaller, recipe, missing)
            seconds = sum(map(prices.of, missing)) if prices else 0.0
            if not dear and seconds <= self.remaining * (1 + EASILY):
                if less := _less(stage, smaller):
                    self._cuts[stage.name] = less
                return smaller
        self._cuts[stage.name] = "left out"
        return self.tested_as_it_is(stage, recipe)

    def tested_as_it_is(self, stage: Answer, recipe: Recipe) -> Answer | None:
        """Return the final stage that tests the best full run there is, None without one.

        From now on the budget allows all: what is left to do is one evaluation.
        """
        rivals = stage.rivals(recipe)
        there = tuple(r for r in rivals if self.pace.known(full_run(r, stage.facts)) is not None)
        if not there:
            return None
        self._over = True
        if stage.name in self._cuts:
            self._cuts[stage.name] = "the best full run so far is tested"
        return replace(stage, only=there, baselines=False, seeds=1)

    def _reserve(self, stage: Stage, recipe: Recipe, prices: Prices | None) -> float:
        """Return the seconds to keep for the final stage.

        0 before what that cannot do without: the range test comes first.
        """
        final = self._final
        if prices is None or final is None or stage.kind == "final" or self._unset(recipe):
            return 0.0
        if recipe not in self._reserves:
            self._reserves[recipe] = self.pace.cost(final, recipe, prices)
        return self._reserves[recipe]

    @property
    def _final(self) -> Stage | None:
        return next((s for s in self.pace.stages if s.kind == "final"), None)

    def _unset(self, recipe: Recipe) -> bool:
        """Whether the recipe lacks what the final stage cannot do without."""
        needs = self._final.needs if self._final else ()
        return any(getattr(recipe, name) is None for name in needs)

    def _lacks(self, stage: Stage, needs: str) -> None:
        """Log by how much the budget is too small; once, for the time that is left changes."""
        if not self.shut:
            level = logging.WARNING if isinstance(stage, Final) else logging.INFO
            left = _text(self.remaining)
            log.log(level, "%s: %s, %s of the budget are left", stage.name, needs, left)

    @property
    def _limits(self) -> str:
        limits = (self.max_seconds, "s"), (self.max_final_runs, "final runs")
        return ", ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)

    # --- what became of it

    @property
    def reason(self) -> str:
        """What the budget cut off, as the study's reason; "" for nothing."""
        if not self._cuts or self.max_seconds is None:  # in final runs every study has an end
            return ""
        cuts = ", ".join(f"{name} {how}" for name, how in self._cuts.items())
        final = [s.name for s in self.pace.stages if s.kind == "final"]
        untested = any(self._cuts.get(name) == "left out" for name in final)
        worth = "this is the best answer so far" + (", and it was not tested" if untested else "")
        return f"the budget of {self.max_seconds:g} s is too small for all of it ({cuts}): {worth}"

    def summary(self, trained: bool) -> dict[str, Any] | None:
        """Return the study's budget for summary.json, None without one.

        `trained`: whether this command trained anything; if not, it has spent nothing.
        """
        if self.max_seconds is None and self.max_final_runs is None:
            return None
        spent = self.spent + (self.pace.elapsed if trained else 0.0)
        return {
            "max_final_runs": self.max_final_runs,
            "final_runs": round(self.final_runs, 2),
            "max_seconds": self.max_seconds,
            "spent_seconds": round(spent, 3),
            "reached": bool(self._cuts),
            "cuts": dict(self._cuts),
        }


def _text(seconds: float) -> str:
    return f"{max(0.0, seconds):.{0 if seconds >= 10 else 1}f} s"


def _less(whole: Final | Answer, smaller: Final | Answer) -> str:
    """Return what a final stage does without, "" for nothing."""
    less = ["without baselines"] if whole.baselines > smaller.baselines else []
    less += ["with one seed"] if whole.seeds > smaller.seeds else []
    return " and ".join(less)
