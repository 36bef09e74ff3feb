"""Momentum, weight decay, batch size, learning rate: the value with the lowest expected final loss.

Candidates are tried in short cycles beside the recipe as it came in, with the same seed, the
nearest values first, and further ones only in a direction that pays. A cycle is bought only if its
expected improvement is worth its price (`rate`). The clue of the first full run says what is tried
at all: where it overfits, more regularisation, at full length; where it is level, only batch size
and learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.comparison import percent
from orchestrator.stages.expected.decay import is_weak
from orchestrator.stages.expected.effects import (
    EFFECTS,
    LOST,
    LOWER_LR,
    MORE_REGULARISATION,
    Effect,
    Estimate,
    Parabola,
    noise,
    steps_between,
)
from orchestrator.stages.expected.first_run import LEARNT, QUARTER, FirstClue, full_run
from orchestrator.stages.stage import Seen, Stage, cycle

FULL_RUNS = 2  # values of one direction at most where each is a full run
UNKNOWN = 0.1  # noise before any run
RATE = 0.01  # log loss that is worth the price of one final run
# What the clue of the first full run leaves to be tried, and its name.
LEVEL = ("batch_size", "max_lr"), "batch size and learning rate are"
OVERFITTING = ("weight_decay", "dropout"), "more regularisation is"
OVERFITTING_WEAK = ("max_lr", "dropout"), "a lower learning rate is"  # weight decay hardly acts


@dataclass(frozen=True)
class Side:
    """The candidates on one side of the recipe's value, nearest first, and those tried so far."""

    values: tuple[float, ...]
    tried: tuple[float, ...]

    @property
    def next(self) -> float | None:
        """The next candidate, None if there is none."""
        return self.values[len(self.tried)] if len(self.tried) < len(self.values) else None


@dataclass(frozen=True, kw_only=True)
class Choice(Stage):
    """Chooses one field of the recipe by expected final loss. Subclasses say how it is varied."""

    field: ClassVar[str]

    candidates: tuple[float, ...] = ()
    share: float = QUARTER
    rate: float = RATE
    reach: int = 3  # values of one direction at most

    # --- what a subclass says

    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe with another value of the field, and what must go with it."""
        changes: dict[str, Any] = {self.field: value}
        return replace(recipe, **changes)

    def sides(self, recipe: Recipe, more: bool) -> tuple[tuple[float, ...], ...]:
        """Return the candidates below and above the recipe's value, nearest first.

        `more`: only those that are expected to overfit less.
        """
        own = self.own(recipe)
        below = sorted((v for v in self.candidates if v < own), reverse=True)
        above = sorted(v for v in self.candidates if v > own)
        return ((), tuple(above)) if more else (tuple(below), tuple(above))

    def trial(self, recipe: Recipe, value: float, share: float, outcomes: Sequence[Outcome]) -> Run:
        """Return the run that tries a value; share 1: a full run."""
        tried = recipe if value == self.own(recipe) else self.variant(recipe, value)
        label = f"{self.kind.replace('_', ' ')} {value:g}"
        if share == 1:
            return full_run(tried, self.facts, label=label)
        return cycle(tried, self.facts.steps(share, tried.batch_size), 0, label)

    def prepare(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Return runs that must be known before candidates are tried, [] if they are."""
        return []

    def adjusted(self, recipe: Recipe, value: float, outcomes: Sequence[Outcome]) -> float:
        """Return what is to be added to a measured difference before it is believed."""
        return 0.0

    def own(self, recipe: Recipe) -> float:
        """Return the value of the recipe that came in."""
        return float(getattr(recipe, self.field))

    # --- rounds and decision

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """The first recipe's runs for its clue, which are known; then candidates while they pay."""
        tries = _Tries(recipe, outcomes, self)
        if tries.first is not None and tries.first.missing:
            return tries.first.missing
        return tries.next() if tries.allowed else []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the value with the lowest expected loss; the one that came in, unless it pays."""
        tries = _Tries(recipe, outcomes, self)
        own, evidence = self.own(recipe), {"field": self.field, "rows": tries.rows()}
        if not tries.estimates:
            reason = f"{self.field} {own:g} stays: {tries.why_nothing}"
            return self._decision(recipe, own, reason, evidence)
        best = tries.best
        found, worse = tries.estimates[best], tries.seen(best)[1] > 0
        low, high = found.interval()
        gain = f"{percent(found.mean)} (80 %: {percent(low)} to {percent(high)})"
        length = (
            f"cycles of {tries.share:g} of the final length" if tries.share < 1 else "full runs"
        )
        if found.mean <= -self.rate and not worse:
            named = f"{self.field} {best:g}{self._with(recipe, best)}"
            reason = f"{named}: expected final loss {gain} against {own:g}, from {length}"
            return self._decision(recipe, best, reason, evidence)
        tie = "a tie with" if low < 0 else "no other value is better, nearest is"
        if worse and high < 0:
            tie = "no other value had a lower held-out loss, nearest is"
        reason = (
            f"{self.field} {own:g} stays: {tie} {best:g}, expected final loss {gain}, from {length}"
        )
        return self._decision(recipe, own, reason, evidence, tied=tries.tied)

    def _with(self, recipe: Recipe, value: float) -> str:
        lr = self.variant(recipe, value).max_lr
        return f" (max_lr {lr:.3g})" if self.field != "max_lr" and lr != recipe.max_lr else ""

    def _decision(
        self,
        recipe: Recipe,
        value: float,
        reason: str,
        evidence: dict[str, Any],
        tied: tuple[float, ...] = (),
    ) -> Decision:
        own, old = self.own(recipe), recipe.values()
        values = {self.field: old[self.field]}
        if value != own:
            changed = self.variant(recipe, value).values()
            values = {k: v for k, v in changed.items() if v != old[k]}
            values = {self.field: values.pop(self.field), **values}  # what it is about comes first
        return Decision(
            stage=self.name,
            kind=self.kind,
            reason=reason,
            values=values,
            incumbent_kept=value == own,
            interval=(min(own, *tied), max(own, *tied)) if tied else None,
            tied_with=tied,
            evidence=evidence,
        )


@dataclass(frozen=True)
class _Tries(Seen):
    """What a choice has tried so far, read from its outcomes."""

    stage: Choice

    @cached_property
    def first(self) -> FirstClue | None:
        """What the study's first full run shows, None where no stage made one."""
        base = self.recipe.after("first_run")
        return FirstClue(base, self.outcomes, self.stage.facts) if base else None

    @cached_property
    def clue(self) -> str:
        """The label of its clue, "" where there is none."""
        return self.first.clue.label if self.first and self.first.outcome else ""

    @property
    def tried_at_all(self) -> tuple[tuple[str, ...], str]:
        """The fields that the clue leaves to be tried, and their name."""
        if self.clue == "horizontal":
            return LEVEL
        if self.clue == "overfitting":
            return OVERFITTING_WEAK if is_weak(self.recipe, self.stage.facts) else OVERFITTING
        return (self.stage.field,), ""

    @property
    def allowed(self) -> bool:
        """Whether the clue leaves this field to be tried."""
        return self.stage.field in self.tried_at_all[0]

    @property
    def more(self) -> bool:
        """Whether only what overfits less is tried, at full length."""
        return self.clue == "overfitting"

    @property
    def share(self) -> float:
        """The length of a trial as a share of the final run."""
        return 1.0 if self.more else self.stage.share

    @property
    def why_nothing(self) -> str:
        """Why no candidate was tried."""
        if not self.allowed:
            return f"the first full run is {self.clue}, so only {self.tried_at_all[1]} tried"
        return f"no candidate is expected to gain {100 * self.stage.rate:g} % per final run spent"

    def run(self, value: float) -> Run:
        """Return the run that tries a value."""
        return self.stage.trial(self.recipe, value, self.share, self.outcomes)

    def outcome(self, value: float) -> Outcome | None:
        """Return its outcome, None if it was not tried."""
        return self.by_run.get(self.run(value))

    @cached_property
    def own(self) -> float:
        return self.stage.own(self.recipe)

    @cached_property
    def sides(self) -> list[Side]:
        made = []
        for values in self.stage.sides(self.recipe, self.more):
            near = values[: FULL_RUNS if self.more else self.stage.reach]
            made.append(Side(near, tuple(v for v in near if self.outcome(v))))
        return made

    @cached_property
    def reference(self) -> Outcome | None:
        """The trial of the recipe as it came in."""
        return self.outcome(self.own)

    @cached_property
    def effect(self) -> Effect:
        return EFFECTS[self.stage.field]

    @property
    def halvings(self) -> float:
        return -math.log2(self.share)

    def steps_to(self, value: float) -> float:
        """Return how many steps a value is from the recipe's."""
        return steps_between(self.stage.field, self.own, value)

    def bias(self, value: float) -> Estimate:
        """Return what the length of the trial adds to the effect."""
        return self.effect.bias(self.steps_to(value), self.halvings)

    def noise_of(self, value: float) -> float:
        """Return the noise of the difference between a trial of a value and the reference."""
        shown = self.reference or (self.first and self.first.outcome)
        own = noise(self.stage.facts, shown, self.outcome(value)) if shown else UNKNOWN
        return math.hypot(own, self.bias(value).sd)

    @cached_property
    def tried(self) -> dict[float, float]:
        """The change of the log loss that each value showed in its trial, inf where it was lost."""
        if self.reference is None:
            return {}
        base, found = self.stage.end_loss(self.reference), {}
        for value in (v for side in self.sides for v in side.tried):
            outcome = self.outcome(value)
            loss = math.inf
            if outcome and self.stage.learnt(outcome, LEARNT):
                loss = self.stage.end_loss(outcome)
            change = math.log(loss / base) if math.isfinite(base) else -LOST
            if math.isfinite(base) and math.isfinite(loss):
                change += self.stage.adjusted(self.recipe, value, self.outcomes)
            found[value] = change if math.isfinite(loss) else math.inf
        return found

    @property
    def prior(self) -> Parabola:
        """The effect of the field on the final loss, before anything was tried."""
        if not self.more:
            return self.effect.final
        return LOWER_LR if self.stage.field == "max_lr" else MORE_REGULARISATION

    def seen(self, value: float) -> tuple[float, float, float]:
        """Return what a trial says of the final loss: steps to the value, change, noise (sd)."""
        change = self.tried[value] - self.bias(value).mean
        return self.steps_to(value), change, self.noise_of(value)

    @cached_property
    def estimates(self) -> dict[float, Estimate]:
        """The expected effect on the final loss of each value that was tried."""
        found = {}
        for value, change in self.tried.items():
            steps, seen, noise_sd = self.seen(value)
            estimate = self.prior.at(steps).updated(seen, noise_sd)
            found[value] = estimate if math.isfinite(change) else Estimate(LOST, 0.0)
        return found

    @property
    def best(self) -> float:
        """The value with the lowest expected loss, of full runs with the lowest held-out loss.

        What was measured to be worse comes last, however good it was expected to be.
        """
        changes = {v: self.seen(v)[1] for v in self.estimates}
        better = [v for v, change in changes.items() if change <= 0] or list(changes)
        return min(better, key=lambda v: changes[v] if self.more else self.estimates[v].mean)

    @property
    def tied(self) -> tuple[float, ...]:
        """The values whose interval holds no change."""
        return tuple(v for v, e in self.estimates.items() if e.interval()[0] < 0 < e.interval()[1])

    def next(self) -> list[Run]:
        """Return the candidates that are worth their price, with the reference; [] for none."""
        if runs := self.stage.prepare(self.recipe, self.outcomes):
            return runs if self._worth_beginning() else []
        wanted = [v for side in self.sides if (v := self._wanted(side)) is not None]
        if not wanted:
            return []
        if self.reference is None:
            wanted = [self.own, *wanted]
        return [self.run(v) for v in wanted]

    def _worth_beginning(self) -> bool:
        return any(self._wanted(side) is not None for side in self.sides)

    def _wanted(self, side: Side) -> float | None:
        """Return the next value of a side if it is expected to be worth its price."""
        value = side.next
        if value is None:
            return None
        effect, origin = self.prior, 0.0
        if side.tried:  # further only from a value that is the best so far
            last = side.tried[-1]
            if self.estimates[last].mean > min(0.0, *(e.mean for e in self.estimates.values())):
                return None
            origin = self.steps_to(last)
            effect = effect.updated(*self.seen(last))
        expected = effect.at(self.steps_to(value), origin)
        gain = expected.known_after(self.noise_of(value)).improvement
        price = self.share * (1 if self.reference or side.tried else 1.5)  # both sides share it
        return value if gain >= self.stage.rate * price else None

    def rows(self) -> list[dict[str, Any]]:
        """Return the evidence as a table for the report."""
        if self.reference is None:
            return []
        rows = [self._row(self.own, self.reference, None)]
        rows += [
            self._row(value, outcome, self.estimates[value])
            for value in sorted(self.estimates)
            if (outcome := self.outcome(value))
        ]
        return rows

    def _row(self, value: float, outcome: Outcome, found: Estimate | None) -> dict[str, Any]:
        loss = outcome.held_out_loss
        low, high = found.interval() if found else (0.0, 0.0)
        lost = found is not None and found.sd == 0
        return {
            self.stage.field: value,
            "steps": outcome.run.steps,
            "held_out_loss": loss if math.isfinite(loss) else None,
            "expected final loss": "lost" if lost else percent(found.mean) if found else "as it is",
            "80 % interval": f"{percent(low)} to {percent(high)}" if found and not lost else "",
        }
