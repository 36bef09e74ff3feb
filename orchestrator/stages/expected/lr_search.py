"""The range test at a bounded price: where its ramps say too little, short cycles do.

A network with batch norm may follow a linear ramp to any rate. Then the exponential ramp answers.
Ramps are short against the final run: a network that is slow to begin learns nothing in one, and
longer ramps would cost many final runs. There a few short cycles show which learning rate trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.ramps import Reading, read, round_to
from orchestrator.stages.stage import Stage, cycle

MOST = 0.5  # final runs: what ramps may cost before cycles take their place
LONGEST = 0.25  # final runs: a first ramp that is longer is not made
SHARE = 0.25  # length of a cycle at most, SHORTER where that has still enough steps
SHORTER, ENOUGH = 0.125, 60
FACTOR = 3.0  # from one rate to the next
USUAL, USUAL_ADAPTIVE = 0.1, 1e-3  # where the search begins
RATES = 7  # at most


@dataclass(frozen=True, kw_only=True)
class LRSearch(Stage):
    """The range test `ramps`, and short cycles where it has no answer."""

    kind: ClassVar[str] = "lr_range"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")

    ramps: LRRange

    @property
    def way_out(self) -> str:
        """What a user may do where there is no answer."""
        return self.ramps.way_out

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Ramps while they are cheap, then cycles until the best rate has two neighbours."""
        ramps = [o for o in outcomes if o.run.kind == "ramp"]
        cycles = [o for o in outcomes if o.run.kind == "train"]
        if not cycles and self._affordable(recipe):
            if self._open(recipe, ramps):
                return []
            runs = self.ramps.propose(recipe, ramps)
            if runs and self._price(ramps) < MOST:
                return runs
            if self._answered(recipe, ramps) or all(o.state == "failed" for o in ramps):
                return []
        return self._next(recipe, cycles)

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return what the ramps say, or the best rate of the cycles."""
        cycles = [o for o in outcomes if o.run.kind == "train"]
        ramps = [o for o in outcomes if o.run.kind == "ramp"]
        if not cycles and (reading := self._open(recipe, ramps)):
            return self.ramps.by_bracket(ramps, reading)
        found = self.ramps.decide(recipe, ramps)
        if found.answered or not any(math.isfinite(o.held_out_loss) for o in cycles):
            return found
        by_lr = {o.run.schedule.max_lr: o.held_out_loss for o in cycles}
        best = min(by_lr, key=lambda lr: by_lr[lr])
        why = found.reason.removeprefix("no answer: ").partition(": ")[0]
        why = f"of the ramps {why}" if ramps else "ramps are longer than the final run allows"
        reason = (
            f"max_lr {best:.3g}: the lowest held-out loss of {len(by_lr)} cycles of"
            f" {cycles[0].run.steps} steps (max_lr {min(by_lr):.3g} to {max(by_lr):.3g}), since"
            f" {why}"
        )
        values = {"max_lr": best, "min_lr": round_to(best / 10)}
        interval = round_to(best / FACTOR**0.5), round_to(best * FACTOR**0.5)
        return Decision(
            self.name, self.kind, reason, values, interval=interval, evidence=found.evidence
        )

    def _open(self, recipe: Recipe, ramps: Sequence[Outcome]) -> Reading | None:
        """Return what the exponential ramp says if it has to answer, None if it does not.

        That is where the first linear ramps went to their ends, with SGD: those of Adam go further.
        """
        linear = [o for o in ramps if o.run.schedule.name == "range_test"]
        bracket = next((o for o in reversed(ramps) if o not in linear), None)
        if recipe.adaptive or not linear or bracket is None:
            return None
        said = [read(o, self.facts.start_loss) for o in linear]
        reading = read(bracket, self.facts.start_loss)
        if reading is None or reading.drop < self.ramps.min_drop:
            return None
        return reading if all(r is not None and r.at_end for r in said) else None

    def _answered(self, recipe: Recipe, ramps: Sequence[Outcome]) -> bool:
        linear = any(o.run.schedule.name == "range_test" for o in ramps)
        return linear and self.ramps.decide(recipe, ramps).answered

    def _affordable(self, recipe: Recipe) -> bool:
        """Whether a ramp is short against the final run: else a cycle costs no more than a ramp."""
        first = self.ramps.propose(recipe, [])[0]
        return first.examples <= LONGEST * self.facts.final_examples

    def _price(self, ramps: Sequence[Outcome]) -> float:
        """Return the final runs' worth of training of the ramps so far."""
        return sum(o.result.examples for o in ramps) / self.facts.final_examples

    def _next(self, recipe: Recipe, cycles: Sequence[Outcome]) -> list[Run]:
        usual = USUAL_ADAPTIVE if recipe.adaptive else USUAL
        if not cycles:
            return [self._cycle(recipe, lr) for lr in (usual / FACTOR, usual, usual * FACTOR)]
        by_lr = {o.run.schedule.max_lr: self.end_loss(o) for o in cycles}
        if len(by_lr) >= RATES or all(o.state == "failed" for o in cycles):
            return []
        low, high = min(by_lr), max(by_lr)
        if all(math.isinf(loss) for loss in by_lr.values()):  # nothing has learnt: either way
            return [self._cycle(recipe, lr) for lr in (low / FACTOR, high * FACTOR)]
        best = min(by_lr, key=lambda lr: by_lr[lr])
        if low < best < high:
            return []
        return [self._cycle(recipe, best / FACTOR if best == low else best * FACTOR)]

    def _cycle(self, recipe: Recipe, lr: float) -> Run:
        lr = round_to(lr)
        long, short = (self.facts.steps(share, recipe.batch_size) for share in (SHARE, SHORTER))
        steps = min(long, max(short, ENOUGH))
        # A network that is slow to begin looks stuck to a pruner.
        run = cycle(recipe.at_lr(lr), steps, 0, f"cycle to lr {lr:.3g}")
        return replace(run, prunable=False)
