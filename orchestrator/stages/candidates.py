"""What momentum, weight decay and dropout share: candidates against the incumbent.

The incumbent is the value that the recipe comes in with. A candidate replaces it only where it wins
beyond the noise of the seeds and beyond a margin for the bias of short runs, which favour too large
a momentum and too small a weight decay however many seeds they get. Candidates are complete short
cycles of the final run's own schedule. What is near after the short cycles is tried again in longer
ones, with more seeds while it stays close.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.comparison import Comparison, needed, percent, ties
from orchestrator.stages.noise import LEAST_SEEDS, Difference
from orchestrator.stages.stage import Seen, Stage, cycle, option

MANY = 8  # candidates: above this they are halved from horizon to horizon


@dataclass(frozen=True, kw_only=True)
class CandidateStage(Stage):
    """Compares values of one recipe field, which subclasses name."""

    field: ClassVar[str]

    candidates: tuple[float, ...] = option((), "values to try", min_length=1)
    seeds: int = option(2, "seeds a value starts with", ge=1)
    max_seeds: int = option(4, "seeds a close value may get", ge=1)
    horizons: tuple[float, ...] = option(
        (0.25, 0.5),
        "lengths of the cycles, shares of the final run; over 8 candidates are halved from one to"
        " the next",
        min_length=1,
        item_gt=0,
    )
    margin: float = option(0.03, "loss must fall by this share beyond noise", ge=0, lt=1)
    tie: Literal["incumbent", "paper"] = option("incumbent", "who wins a tie")

    # --- what a subclass may say

    @abstractmethod
    def variant(self, seen: Seen, value: float) -> Recipe:
        """Return the recipe with another value of the field, and what must go with it."""

    def incumbent(self, recipe: Recipe) -> float:
        """Return the value that the recipe came in with."""
        return float(getattr(recipe, self.field))

    def grid(self, recipe: Recipe) -> list[float]:
        """Return the candidates that are there from the beginning."""
        return [float(v) for v in self.candidates]

    def first_values(self, recipe: Recipe) -> list[float]:
        """Return the incumbent and the grid."""
        return list(dict.fromkeys((self.incumbent(recipe), *self.grid(recipe))))

    def values(self, seen: Seen) -> list[float]:
        """Return the values to compare in the shortest cycles, the incumbent first."""
        return self.first_values(seen.recipe)

    def prepare(self, seen: Seen) -> list[Run]:
        """Return runs that must be known before candidates can be compared, [] if they are."""
        return []

    def further(self, recipe: Recipe, found: Comparison, steps: int) -> list[float]:
        """Return values to add, now that those there are have been compared in the short cycles."""
        return []

    def trial(self, recipe: Recipe, steps: int, replicate: int, label: str) -> Run:
        """Return the run by which a recipe is judged."""
        return cycle(recipe, steps, replicate, label)

    def judged(self, outcome: Outcome) -> bool:
        """Whether an outcome is that of a `trial` (not of a run that `prepare` asked for)."""
        return outcome.run.kind == "train"

    def score(self, outcome: Outcome) -> float:
        """Return the loss by which a trial is judged, inf if it was lost."""
        return self.end_loss(outcome)

    def value_of(self, run: Run) -> float:
        """Return the value that a run tries."""
        return float(run.params()[self.field])

    def remark(self, seen: Seen, value: float) -> str:
        """Return what else is to be said of the decision for `value`, "" for nothing."""
        return ""

    # --- the rounds

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """All values in short cycles, more seeds where it is close, the best in longer ones."""
        seen = Seen(recipe, outcomes)
        if first := self.prepare(seen):
            return first
        found, known = self.compared(seen), seen.known
        values = self.values(seen)
        many = len(values) - 1 > MANY
        for number, horizon in enumerate(self.horizons):
            steps = self.facts.steps(horizon, recipe.batch_size)
            wanted = self._runs(seen, values, steps)
            if missing := [run for run in wanted if run not in known]:
                return missing
            last = number == len(self.horizons) - 1
            if (last or not many) and (more := self._close(found, values, steps)):
                # They measure noise, so they go to their ends: a hard seed that a pruner ends,
                # since earlier seeds were better, would count as lost.
                return [
                    replace(self._run(seen, value, steps, seed), prunable=False)
                    for value, seed in more
                ]
            if number == 0 and found.longest == steps:
                new = [v for v in self.further(recipe, found, steps) if v not in values]
                if new:
                    return self._runs(seen, new, steps)
            values = self._survivors(found, values, steps, many)
        return []

    def compared(self, seen: Seen) -> Comparison:
        """Return what the trials say so far."""
        tables: dict[int, dict[float, dict[int, float]]] = {}
        for o in filter(self.judged, seen.outcomes):
            by = tables.setdefault(o.run.steps, {}).setdefault(self.value_of(o.run), {})
            by[o.run.replicate] = self.score(o)
        return Comparison(self.incumbent(seen.recipe), tables)

    def _runs(self, seen: Seen, values: Sequence[float], steps: int) -> list[Run]:
        return [
            self._run(seen, value, steps, replicate)
            for replicate in range(self.seeds)
            for value in values
        ]

    def _run(
        self,
        seen: Seen,
        value: float,
        steps: int,
        replicate: int,
    ) -> Run:
        label = f"{self.kind.replace('_', ' ')} {value:g} seed {replicate}"
        return self.trial(self.variant(seen, value), steps, replicate, label)

    def _close(
        self, found: Comparison, values: Sequence[float], steps: int
    ) -> list[tuple[float, int]]:
        """Return one more seed, as (value, replicate), for those that are not sure yet.

        For the incumbent and the values that look better; if the incumbent was lost, for those that
        may replace it, until they have three.
        """
        if found.lost(found.incumbent):
            least = min(LEAST_SEEDS, self.max_seeds)
            heirs = [v for v in found.sound(steps) if v in values]
            return [(v, n) for v in heirs if (n := found.seeds(steps, v)) < least]
        close = [
            v
            for v, d in found.at(steps).items()
            if v in values and d.mean < math.log1p(-self.margin) and not d.better_by(self.margin)
        ]
        done = found.seeds(steps, found.incumbent)
        if not close or done >= self.max_seeds:
            return []
        return [(v, done) for v in (found.incumbent, *close)]

    def _survivors(
        self, found: Comparison, values: Sequence[float], steps: int, many: bool
    ) -> list[float]:
        """Return who goes on to longer cycles: the incumbent and the best two that look better.

        Of many candidates the better half goes on (successive halving over complete cycles).
        """
        if found.lost(found.incumbent):
            return [v for v in found.sound(steps) if v in values][:2]
        ranked = sorted((d.mean, v) for v, d in found.at(steps).items() if v in values)
        if many:
            keep = max(2, math.ceil((len(values) - 1) / 2))
            best = [v for mean, v in ranked[:keep] if mean < math.inf]
        else:
            best = [v for mean, v in ranked[:2] if mean < 0]
        return [found.incumbent, *best] if best else []

    # --- the decision

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the winner at the longest horizon reached, or the incumbent."""
        seen = Seen(recipe, outcomes)
        found, incumbent = self.compared(seen), self.incumbent(recipe)
        if not found.answers():
            reason = f"no answer: no {self.field} candidate finished on every seed"
            return self._decision(seen, incumbent, reason, answered=False)
        if found.lost(incumbent):
            return self._without_incumbent(seen, found)
        diffs = found.at(found.longest)
        winners = [v for v, d in diffs.items() if d.better_by(self.margin)]
        if winners:
            best = min(winners, key=lambda v: diffs[v].mean)
            gain = 100 * (1 - math.exp(diffs[best].mean))
            reason = (
                f"{self._named(seen, best)}: held-out loss {gain:.0f} % lower than at"
                f" {incumbent:g}, beyond noise ({diffs[best].n} paired seeds,"
                f" {found.longest} steps)"
            )
            return self._decision(seen, best, reason)
        near, tied = ties(diffs, self.margin)
        chosen = incumbent
        if self.tie == "paper":
            chosen = max([incumbent, *(v for v in tied if v in near)])
        reason = self._tie_reason(self._named(seen, chosen), incumbent, tied, diffs)
        return self._decision(seen, chosen, reason, tied=tied)

    def _without_incumbent(self, seen: Seen, found: Comparison) -> Decision:
        """Return the best value that trained on every seed: the incumbent did not."""
        incumbent = found.incumbent
        lost = f"was lost on {found.lost(incumbent)} of its runs"
        heirs = next((v for s in sorted(found.tables, reverse=True) if (v := found.sound(s))), [])
        if not heirs:
            reason = (
                f"{self.field} {incumbent:g} stays: it {lost}, but no other value trained on every"
                " seed either"
            )
            return self._decision(seen, incumbent, reason)
        reason = (
            f"{self._named(seen, heirs[0])}: the incumbent {incumbent:g} {lost}, this"
            " one trained on every seed"
        )
        return self._decision(seen, heirs[0], reason)

    def _named(self, seen: Seen, value: float) -> str:
        """Return field and value, and the max_lr that goes with it where that is another."""
        lr = self.variant(seen, value).max_lr
        more = f" (max_lr {lr:.3g})" if self.field != "max_lr" and lr != seen.recipe.max_lr else ""
        return f"{self.field} {value:g}{more}"

    def _tie_reason(
        self,
        head: str,
        incumbent: float,
        tied: tuple[float, ...],
        diffs: dict[float, Difference],
    ) -> str:
        if not diffs:
            return f"{self.field} {incumbent:g} stays: there was nothing to compare it with"
        if not tied:
            unclear = any(math.isinf(d.bound) for d in diffs.values())
            how = "much worse, or too erratic to say how much" if unclear else "worse beyond noise"
            return f"{self.field} {incumbent:g} stays: every other value is {how}"
        names = ", ".join(f"{v:g}" for v in sorted(tied))
        best = min(tied, key=lambda v: diffs[v].mean)
        diff, bar = diffs[best], needed(diffs[best], self.margin)
        kept = head == f"{self.field} {incumbent:g}"
        rule = "the incumbent stays" if kept else "the largest stable one is taken"
        return (
            f"{head}: a tie with {names} ({'best' if diff.mean < 0 else 'nearest'} {best:g}: loss"
            f" {percent(diff.mean)}, {bar}); {rule}"
        )

    def _decision(
        self,
        seen: Seen,
        value: float,
        reason: str,
        *,
        answered: bool = True,
        tied: tuple[float, ...] = (),
    ) -> Decision:
        incumbent, old = self.incumbent(seen.recipe), seen.recipe.values()
        values = {self.field: old[self.field]}
        if value != incumbent:
            changed = self.variant(seen, value).values()
            values = {k: v for k, v in changed.items() if v != old[k]}
            values = {self.field: values.pop(self.field), **values}  # what it is about comes first
        more = self.remark(seen, value) if answered else ""
        return Decision(
            stage=self.name,
            kind=self.kind,
            reason=f"{reason}; {more}" if more else reason,
            values=values,
            answered=answered,
            incumbent_kept=value == incumbent,
            interval=(min(value, *tied), max(value, *tied)) if tied else None,
            tied_with=tuple(v for v in (incumbent, *tied) if v != value) if tied else (),
            evidence=self.evidence(seen),
        )

    def evidence(self, seen: Seen) -> dict[str, Any]:
        """Return the numbers behind the decision, JSON-able, for the report."""
        rows = self.compared(seen).rows(self.field)
        return {"field": self.field, "rows": rows}
