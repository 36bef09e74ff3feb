"""The weight-decay stage: a grid of 1e-3, 1e-4, 1e-5, 0. Source: Smith 2018, section 4.4.

One significant figure is enough. Where the grid shows that weight decay matters, the exponent is
bisected between the two best values, and a best value at the edge of the grid is gone beyond. What
is added so has to win by the same rule as the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from orchestrator.curve import Outcome
from orchestrator.recipe import DECOUPLED, Recipe, Run
from orchestrator.schedules import Schedule
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.comparison import Comparison
from orchestrator.stages.noise import Difference
from orchestrator.stages.ramps import ramp, read, round_to
from orchestrator.stages.stage import Seen, option

PRESETS = {
    "default": (1e-3, 1e-4, 1e-5, 0.0),
    "shallow": (1e-2, 1e-3, 1e-4),
    "large": (1e-4, 1e-5, 1e-6, 0.0),
    # of AdamW: a step takes lr x weight_decay of a weight, and its lr is smaller than that of SGD
    "decoupled": (1e-1, 1e-2, 1e-3, 0.0),
}
APART = 4  # times: values nearer than this are not worth a third between them
SMALLEST = 1e-6  # below this it is as good as none


@dataclass(frozen=True, kw_only=True)
class WeightDecay(CandidateStage):
    """Chooses weight_decay, constant over the run: cycling it does not help.

    `mode` "range_test" is the source's figure: a range test per value, in which lr rises as
    momentum falls, judged by the lowest held-out loss (smoothed) that it reaches.
    """

    kind: ClassVar[str] = "weight_decay"
    gives: ClassVar[tuple[str, ...]] = ("weight_decay",)
    field: ClassVar[str] = "weight_decay"

    candidates: tuple[float, ...] = option(
        (), "values of weight_decay to try; none: those of the preset", item_ge=0, item_lt=1
    )
    preset: Literal["default", "shallow", "large", "decoupled"] = option(
        "default",
        "grid by the net: default 1e-3 1e-4 1e-5 0 (with AdamW decoupled), shallow 1e-2 1e-3 1e-4,"
        " large 1e-4 1e-5 1e-6 0, decoupled 1e-1 1e-2 1e-3 0",
    )
    refine: int = option(3, "values added between the best two or beyond the edge, at most", ge=0)
    mode: Literal["cycles", "range_test"] = option(
        "cycles", "judge values by short cycles or by range tests (the source's figure)"
    )
    ramp_top: float = option(
        3.0, "range tests end at so many times max_lr, they start at a tenth of it", gt=0.1
    )
    ramp_max_momentum: float = option(0.98, "momentum where a range test starts", ge=0, lt=1)
    ramp_min_momentum: float = option(0.8, "momentum where a range test ends", ge=0, lt=1)

    def __post_init__(self) -> None:
        if self.ramp_min_momentum > self.ramp_max_momentum:
            raise ValueError(
                f"ramp_min_momentum {self.ramp_min_momentum} must be at most ramp_max_momentum,"
                f" {self.ramp_max_momentum}"
            )

    def grid(self, recipe: Recipe) -> list[float]:
        """Return the candidates, or the preset's."""
        decoupled = self.preset == "default" and recipe.optimizer in DECOUPLED
        preset = "decoupled" if decoupled else self.preset
        return [float(v) for v in self.candidates or PRESETS[preset]]

    def values(self, seen: Seen) -> list[float]:
        """Return the grid and what was added to it."""
        tried = [self.value_of(o.run) for o in seen.outcomes]
        return list(dict.fromkeys((*super().values(seen), *tried)))

    def variant(self, seen: Seen, value: float) -> Recipe:
        """Return the recipe at another weight_decay."""
        return replace(seen.recipe, weight_decay=value)

    def further(self, recipe: Recipe, found: Comparison, steps: int) -> list[float]:
        """Return the next value to add, [] if there is nothing to gain or enough was added."""
        added = set(found.tables[steps]) - set(self.first_values(recipe))
        if len(added) >= self.refine or found.lost(self.incumbent(recipe)):
            return []
        new = next_value(found.at(steps), self.incumbent(recipe), self.margin)
        return [] if new is None else [new]

    def remark(self, seen: Seen, value: float) -> str:
        """Say what was added to the grid, or why nothing was."""
        grid = self.first_values(seen.recipe)
        added = [v for v in self.values(seen) if v not in grid]
        parts = ["judged by range tests"] if self.mode == "range_test" else []
        if added:
            parts.append(f"the grid was refined by {', '.join(f'{v:g}' for v in added)}")
        elif self.refine:
            parts.append("no value stands out enough to refine the grid")
        return "; ".join(parts)

    # --- mode range_test

    def trial(self, recipe: Recipe, steps: int, replicate: int, label: str) -> Run:
        """Return a cycle, or a range test: lr from a tenth of max_lr up while momentum falls."""
        if self.mode == "cycles":
            return super().trial(recipe, steps, replicate, label)
        assert recipe.max_lr is not None
        low, high = recipe.max_lr / 10, self.ramp_top * recipe.max_lr
        run = ramp(recipe, self.facts, "range_test", low, high, steps, replicate)
        schedule = Schedule("range_test", low, high, self.ramp_min_momentum, self.ramp_max_momentum)
        return replace(run, schedule=schedule, label=f"{label} range test")

    def judged(self, outcome: Outcome) -> bool:
        """Whether an outcome is that of a trial: every run is."""
        return True

    def score(self, outcome: Outcome) -> float:
        """Return the loss at the end of a cycle, the lowest smoothed one of a range test."""
        if self.mode == "cycles":
            return super().score(outcome)
        reading = read(outcome, self.facts.start_loss)
        return float(reading.loss.min()) if reading else math.inf

    def evidence(self, seen: Seen) -> dict[str, Any]:
        """Return the numbers behind the decision.

        "stable to lr", of range tests: the last lr at which held-out loss stays near its minimum.
        """
        evidence = super().evidence(seen)
        if self.mode == "cycles":
            return evidence
        for row in evidence["rows"]:
            own = [
                read(o, self.facts.start_loss)
                for o in seen.outcomes
                if (o.run.weight_decay, o.run.steps) == (row["weight_decay"], row["steps"])
            ]
            row["stable to lr"] = max((r.max_lr for r in own if r is not None), default=None)
        return {**evidence, "mode": self.mode}


def next_value(diffs: Mapping[float, Difference], incumbent: float, margin: float) -> float | None:
    """Return the weight decay to try next, None if there is nothing to gain by another.

    Between the best value and the better of its neighbours, where both are clearly ahead of the
    other one; beyond the edge, where the best is clearly ahead of its only neighbour. Clearly:
    beyond the noise and by more than `margin`, a share.
    """
    losses = {incumbent: 0.0, **{v: d.mean for v, d in diffs.items()}}
    best, *others = sorted(losses, key=lambda v: losses[v])
    if not others:
        return None
    bound = (diffs.get(best) or diffs[others[0]]).bound

    def ahead(value: float) -> bool:
        return losses[value] - losses[best] > max(bound, -math.log1p(-margin))

    order = sorted(losses)
    place = order.index(best)
    # The neighbours, the better one first; at the edge there is one.
    near = sorted(
        order[max(0, place - 1) : place] + order[place + 1 : place + 2], key=lambda v: losses[v]
    )
    if len(near) == 1 and ahead(near[0]):
        new = _beyond(best, near[0])
        return None if new in losses else new
    rest = near[1:] or [v for v in others if v != near[0]]
    for partner, worse in [(near[0], rest), *((v, near[:1]) for v in near[1:])]:
        low, high = sorted((best, partner))
        if low > 0 and high / low >= APART and all(map(ahead, worse)):
            new = round_to(math.sqrt(low * high), 1)
            return None if new in losses else new
    return None


def _beyond(best: float, neighbour: float) -> float | None:
    """Return the value past the edge: ten times as far, towards 0 then 0 itself."""
    if best > neighbour:
        new = round_to(10 * best, 1)
        return new if new < 1 else None
    if best == 0:
        new = round_to(neighbour / 10, 1)
        return new if new >= SMALLEST else None
    new = round_to(best / 10, 1)
    return new if new >= SMALLEST else 0.0
