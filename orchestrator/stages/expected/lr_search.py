"""The range test at a bounded price: one ramp says where to look, short cycles find the rate.

A ramp reads a rate while the network has not seen it for long. Ours: complete cycles of a few dozen
steps compare rates a factor of 3 apart as a final run would use them. In benchmarks/frontier they
found the best rate of the grid, or its neighbour, on all tuning workloads, also where ramps read
too high (batch norm), fell too little (slow starters) or never broke (Adam).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.expected.decay import by_length, is_set_by_length
from orchestrator.stages.expected.first_run import LEARNT
from orchestrator.stages.expected.longer import for_longer, lowest
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.ramps import FLAT, problem, read, round_to, stopped, usable
from orchestrator.stages.stage import Seen, Stage, cycle

FACTOR = 3.0  # from one rate to the next
ROOT = FACTOR**0.5
USUAL, USUAL_ADAPTIVE = 0.2, 0.015  # the middle of the search, if the ramp says nothing
BROKE = 0.1  # x the rate at which a ramp broke that had learnt nothing: the highest middle
FIRST, LONGEST = 0.2, 0.25  # final runs: no first cycle is longer, and no later one
WATCHED = 0.05  # what the reports of a cycle may cost: only its end counts
RAMP = 0.14  # final runs: a longer ramp is not made
RATES = 6  # cycles of one length at most
TELLING = ("at once", "flat")  # problems of a ramp that say why nothing is learnt


@dataclass(frozen=True, kw_only=True)
class LRSearch(Stage):
    """The exponential ramp of `ramps`, then cycles as long as it.

    `sets_decay`: whether the weight decay of AdamW goes with the rate (decay.py).
    """

    kind: ClassVar[str] = "lr_range"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr", "weight_decay")

    way_out: ClassVar[str] = (  # what the user may do where there is no answer
        "train for more epochs (stages.final.epochs), or set recipe.max_lr and leave lr_range out"
        " of the plan"
    )

    ramps: LRRange
    sets_decay: bool = False

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """The ramp if it is cheap, then cycles until the best rate has two neighbours."""
        ramp = self.ramps.propose(recipe, [])
        if not outcomes and ramp[0].examples <= RAMP * self.facts.final_examples:
            return ramp
        return _Cycles(recipe, outcomes, self).next()

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the best rate of the cycles; no answer if no cycle was better than chance."""
        cycles = _Cycles(recipe, outcomes, self)
        ramps = [o for o in outcomes if o.run.kind == "ramp"]
        readings = [r for o in ramps if (r := read(o, self.facts.start_loss)) is not None]
        rows = [self._row(o) for o in cycles.all]
        evidence = {"rules": self.ramps.rules(readings), "rows": rows}
        losses = {lr: loss for lr, loss in cycles.losses.items() if math.isfinite(loss)}
        if not losses:
            why = self._why_not(cycles, ramps)
            return Decision(
                self.name, self.kind, f"no answer: {why}", answered=False, evidence=evidence
            )
        best = min(losses, key=lambda lr: losses[lr])
        max_lr, low, high = best, best / ROOT, best * ROOT
        tried = sorted(cycles.losses)
        told = (
            f"the lowest held-out loss, {losses[best]:.4g}, of {len(tried)} cycles of"
            f" {cycles.steps} steps at max_lr {tried[0]:.3g} to {tried[-1]:.3g}"
        )
        lost = LEARNT * self.facts.chance_loss
        if any(loss > lost for lr, loss in cycles.losses.items() if lr > best):
            # The edge is near, and a longer run has more steps in which to diverge.
            max_lr, low, high = round_to(best / ROOT), best / FACTOR, best
            told = f"below {best:.3g}, {told}, as the next higher rate learnt nothing"
        if recipe.adaptive:
            peak, final_steps = lowest(cycles.losses), self.facts.steps(1, recipe.batch_size)
            share = 1.0 if self.facts.batch_norm else for_longer(cycles.steps, final_steps)
            max_lr, low, high = round_to(share * peak), share * peak / ROOT, share * peak * ROOT
            if share < 1:
                told = (
                    f"{share:.2g} x {peak:.3g}, {told}; {final_steps} steps need a lower rate than"
                    f" {cycles.steps}"
                )
        values = {"max_lr": max_lr, "min_lr": round_to(max_lr / 10)}
        if self.sets_decay and is_set_by_length(recipe, self.facts):
            values["weight_decay"] = by_length(recipe.at_lr(max_lr), self.facts)
            told += f"; weight_decay {values['weight_decay']:g} by this rate and the final length"
        return Decision(
            self.name,
            self.kind,
            f"max_lr {max_lr:.3g}: {told}",
            values,
            interval=(round_to(low), round_to(high)),
            evidence=evidence,
        )

    def _why_not(self, cycles: _Cycles, ramps: Sequence[Outcome]) -> str:
        """Return why no cycle is an answer; what a ramp shows may say more."""
        if ramps and problem(ramps[0], self.facts.start_loss, self.ramps.min_drop) in TELLING:
            return self.ramps.why_not(ramps, [])
        if all(o.state == "failed" for o in cycles.outcomes):
            return "every run failed"
        tried = sorted(cycles.losses)
        return (
            f"no cycle of {cycles.steps} steps at max_lr {tried[0]:.3g} to {tried[-1]:.3g} was"
            f" better than chance ({self.facts.chance_loss:.4g}): {self.way_out}"
        )

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        loss = outcome.held_out_loss
        return {
            "max_lr": outcome.run.schedule.max_lr,
            "steps": outcome.run.steps,
            "held_out_loss": loss if math.isfinite(loss) else None,
        }


@dataclass(frozen=True)
class _Cycles(Seen):
    """The cycles of a search so far."""

    stage: LRSearch

    @property
    def all(self) -> list[Outcome]:
        """All cycles, of each length."""
        return [o for o in self.outcomes if o.run.kind == "train"]

    @cached_property
    def steps(self) -> int:
        """The length of the last cycles, or of the first ones to come."""
        if self.all:
            return self.all[-1].run.steps
        ramp = self.stage.ramps.propose(self.recipe, [])[0]
        return min(ramp.steps, self.stage.facts.steps(FIRST, self.recipe.batch_size))

    @property
    def longest(self) -> int:
        """The most steps of a cycle."""
        return self.stage.facts.steps(LONGEST, self.recipe.batch_size)

    @cached_property
    def losses(self) -> dict[float, float]:
        """The losses at the ends of the last cycles by max_lr, inf for no better than chance."""
        return {
            o.run.schedule.max_lr: self.stage.end_loss(o)
            for o in self.all
            if o.run.steps == self.steps
        }

    @property
    def learnt(self) -> bool:
        """Whether one of them ended below the untrained loss by more than noise."""
        return min(self.losses.values()) < (1 - FLAT) * self.stage.facts.start_loss

    @property
    def middle(self) -> float:
        """The rate around which the search begins."""
        usual = USUAL_ADAPTIVE if self.recipe.adaptive else USUAL
        if not self.outcomes or self.outcomes[0].run.kind != "ramp":
            return usual
        ramp, start = self.outcomes[0], self.stage.facts.start_loss
        reading = read(ramp, start)
        if reading is not None and reading.drop >= self.stage.ramps.min_drop:
            return self.stage.ramps.lr_factor * reading.max_lr
        lr, _ = usable(ramp)
        return min(usual, BROKE * float(lr[-1])) if stopped(ramp) and len(lr) else usual

    def next(self) -> list[Run]:
        """Return the next cycles: two, longer ones while nothing is learnt, then neighbours."""
        if not self.all:
            return self._pair(self.steps)
        if all(o.state == "failed" for o in self.all):
            return []
        if not self.learnt and len(self.losses) == 2 and self.steps < self.longest:
            return self._pair(min(2 * self.steps, self.longest))
        if len(self.losses) >= RATES:
            return []
        low, high = min(self.losses), max(self.losses)
        if not self.learnt:
            return [self._cycle(lr, self.steps) for lr in (low / FACTOR, high * FACTOR)]
        best = min(self.losses, key=lambda lr: self.losses[lr])
        if low < best < high:
            return []
        return [self._cycle(best / FACTOR if best == low else best * FACTOR, self.steps)]

    def _pair(self, steps: int) -> list[Run]:
        return [self._cycle(self.middle * factor, steps) for factor in (1 / ROOT, ROOT)]

    def _cycle(self, lr: float, steps: int) -> Run:
        lr = round_to(lr)
        label = f"cycle of {steps} steps to lr {lr:.3g}"
        run = cycle(self.recipe.at_lr(lr), steps, 0, label, cost=WATCHED)
        return replace(run, prunable=False)  # what is slow to begin looks stuck to a pruner
