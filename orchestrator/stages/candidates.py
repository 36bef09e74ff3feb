"""What momentum and weight decay share: candidates against the incumbent, in complete short cycles.

The incumbent is the value that the recipe comes in with. A candidate replaces it only where it wins
beyond the noise of the seeds and beyond a margin for the bias of short runs, which favour too large
a momentum and too small a weight decay however many seeds they get. What is near after the short
cycles is tried again in longer ones, with more seeds while it stays close.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar, Literal

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.noise import Difference, differences
from orchestrator.stages.stage import Stage, cycle, option

Table = dict[float, dict[int, float]]  # value -> replicate -> held-out loss at the end


@dataclass(frozen=True, kw_only=True)
class CandidateStage(Stage):
    """Compares values of one recipe field, which subclasses name."""

    field: ClassVar[str]

    candidates: tuple[float, ...] = option((), "values to try", min_length=1)
    seeds: int = option(2, "seeds a value starts with", ge=1)
    most_seeds: int = option(4, "seeds a close value may get", ge=1)
    horizons: tuple[float, ...] = option(
        (0.25, 0.5), "lengths of the cycles, shares of the final run", min_length=1, item_gt=0
    )
    margin: float = option(0.03, "loss must fall by this share beyond noise", ge=0, lt=1)
    tie: Literal["incumbent", "paper"] = option("incumbent", "who wins a tie")

    @abstractmethod
    def variant(self, recipe: Recipe, value: float) -> Recipe:
        """Return the recipe with another value of the field."""

    def incumbent(self, recipe: Recipe) -> float:
        """Return the value that the recipe came in with."""
        return float(getattr(recipe, self.field))

    def values(self, recipe: Recipe) -> list[float]:
        """Return the values to compare, the incumbent first."""
        return list(dict.fromkeys((self.incumbent(recipe), *map(float, self.candidates))))

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """All values in short cycles, more seeds where it is close, the best in longer ones."""
        values, known = self.values(recipe), {o.run for o in outcomes}
        for horizon in self.horizons:
            steps = self.facts.steps(horizon, recipe.batch_size)
            wanted = [
                self._run(recipe, value, steps, replicate)
                for replicate in range(self.seeds)
                for value in values
            ]
            if missing := [run for run in wanted if run not in known]:
                return missing
            diffs = self._differences(recipe, outcomes, steps)
            if more := self._close(recipe, values, outcomes, steps):
                return more
            better = sorted((d.mean, v) for v, d in diffs.items() if d.mean < 0)
            values = [values[0], *(v for _, v in better[:2])]  # the incumbent and the best two
            if len(values) < 2:
                return []
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the winner at the longest horizon reached, or the incumbent."""
        incumbent = self.incumbent(recipe)
        steps = max((o.run.steps for o in outcomes), default=0)
        table, diffs = self._table(outcomes, steps), self._differences(recipe, outcomes, steps)
        finite = {v: by for v, by in table.items() if _mean(by) < math.inf}
        if not finite:
            reason = f"no answer: no {self.field} candidate finished"
            return self._decision(recipe, incumbent, reason, outcomes, answered=False)
        if not diffs and table.keys() != {incumbent}:  # the incumbent itself was lost
            best = min(finite, key=lambda v: _mean(finite[v]))
            reason = f"{self.field} {best:g}: the incumbent {incumbent:g} did not finish"
            return self._decision(recipe, best, reason, outcomes)
        winners = [v for v, d in diffs.items() if d.better_by(self.margin)]
        if winners:
            best = min(winners, key=lambda v: diffs[v].mean)
            gain = 100 * (1 - math.exp(diffs[best].mean))
            reason = (
                f"{self.field} {best:g}: held-out loss {gain:.0f} % lower than at {incumbent:g},"
                f" beyond noise ({diffs[best].n} paired seeds, {steps} steps)"
            )
            return self._decision(recipe, best, reason, outcomes)
        tied = tuple(v for v, d in diffs.items() if math.isfinite(d.mean) and not d.worse_by(0))
        chosen = incumbent
        if self.tie == "paper" and tied:
            chosen = max(incumbent, *tied)
        return self._decision(
            recipe, chosen, self._tie_reason(chosen, incumbent, tied, diffs), outcomes, tied=tied
        )

    def _tie_reason(
        self,
        chosen: float,
        incumbent: float,
        tied: tuple[float, ...],
        diffs: dict[float, Difference],
    ) -> str:
        if not diffs:
            return f"{self.field} {incumbent:g} stays: there was nothing to compare it with"
        if not tied:
            return f"{self.field} {incumbent:g} stays: every other value is worse beyond noise"
        names = ", ".join(f"{v:g}" for v in sorted(tied))
        best = min(tied, key=lambda v: diffs[v].mean)
        change = 100 * (math.exp(diffs[best].mean) - 1)
        noise = 100 * math.expm1(diffs[best].bound)
        within = _noise(noise)
        rule = "the incumbent stays" if chosen == incumbent else "the largest stable one is taken"
        return (
            f"{self.field} {chosen:g}: a tie with {names} (best {best:g}: loss {change:+.1f} %,"
            f" {within}, margin {100 * self.margin:.0f} %); {rule}"
        )

    def _decision(
        self,
        recipe: Recipe,
        value: float,
        reason: str,
        outcomes: Sequence[Outcome],
        *,
        answered: bool = True,
        tied: tuple[float, ...] = (),
    ) -> Decision:
        incumbent = self.incumbent(recipe)
        changed = self.variant(recipe, value).values()
        values = {k: v for k, v in changed.items() if v != recipe.values()[k]}
        return Decision(
            stage=self.name,
            kind=self.kind,
            reason=reason,
            values=values or {self.field: value},
            answered=answered,
            incumbent_kept=value == incumbent,
            interval=(min(value, *tied), max(value, *tied)) if tied else None,
            tied_with=tuple(v for v in (incumbent, *tied) if v != value) if tied else (),
            evidence={"field": self.field, "rows": self._rows(recipe, outcomes)},
        )

    def _run(self, recipe: Recipe, value: float, steps: int, replicate: int) -> Run:
        label = f"{self.kind.replace('_', ' ')} {value:g} seed {replicate}"
        return cycle(self.variant(recipe, value), steps, replicate, label)

    def _value_of(self, run: Run) -> float:
        return float(run.params()[self.field])

    def _table(self, outcomes: Sequence[Outcome], steps: int) -> Table:
        table: Table = defaultdict(dict)
        for o in outcomes:
            if o.run.steps == steps:
                table[self._value_of(o.run)][o.run.replicate] = self.end_loss(o)
        return dict(table)

    def _differences(
        self, recipe: Recipe, outcomes: Sequence[Outcome], steps: int
    ) -> dict[float, Difference]:
        """Compare the candidates at one horizon; the shorter ones help to measure the noise."""
        shorter = {o.run.steps for o in outcomes if o.run.steps < steps}
        also = [self._table(outcomes, s) for s in sorted(shorter)]
        return differences(self._table(outcomes, steps), self.incumbent(recipe), also=also)

    def _close(
        self, recipe: Recipe, values: Sequence[float], outcomes: Sequence[Outcome], steps: int
    ) -> list[Run]:
        """Return one more seed for the incumbent and the values that look better but not surely."""
        close = [
            v
            for v, d in self._differences(recipe, outcomes, steps).items()
            if v in values and d.mean < math.log1p(-self.margin) and not d.better_by(self.margin)
        ]
        incumbent = self.incumbent(recipe)
        done = len(self._table(outcomes, steps).get(incumbent, {}))
        if not close or done >= self.most_seeds:
            return []
        return [self._run(recipe, v, steps, done) for v in (incumbent, *close)]

    def _rows(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        rows, incumbent = [], self.incumbent(recipe)
        for steps in sorted({o.run.steps for o in outcomes}):
            table = self._table(outcomes, steps)
            diffs = self._differences(recipe, outcomes, steps)
            for value, by in table.items():
                diff = diffs.get(value)
                finished = [x for x in by.values() if math.isfinite(x)]
                rows.append(
                    {
                        self.field: value,
                        "steps": steps,
                        "seeds": len(by),
                        "held_out_loss": mean(finished) if finished else None,
                        "against incumbent": _against(diff, value == incumbent),
                        "noise": _percent(diff.bound) if diff and diff.mean < math.inf else None,
                    }
                )
        return rows


def _mean(by: dict[int, float]) -> float:
    return mean(by.values()) if by else math.inf


def _noise(percent: float) -> str:
    if not math.isfinite(percent):
        return "noise not measured"
    return f"noise ± {percent:.1f} %" if percent < 100 else "noise over 100 %"


def _against(diff: Difference | None, is_incumbent: bool) -> str:
    if is_incumbent:
        return "incumbent"
    if diff is None:
        return "incumbent lost"
    return _percent(diff.mean) if diff.mean < math.inf else "lost"


def _percent(log_ratio: float) -> str:
    if not math.isfinite(log_ratio):
        return "not measured"
    return f"{100 * math.expm1(log_ratio):+.1f} %"
