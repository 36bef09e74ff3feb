"""The LR range test: which max_lr?

Source: Smith 2018 (arXiv 1803.09820), section 4, and 2015 (arXiv 1506.01186), section 3.3. One
exponential ramp brackets the useful rates, then short linear ramps with different seeds measure;
each is read on held-out loss, and the median counts. Ours: the rule (`suggest.within_drop`), the
hand-off between the ramps, and that no answer is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.schedules import CYCLED, Schedule
from orchestrator.stages import suggest
from orchestrator.stages.stage import Stage, held_out_share, option

POINTS = 40
MARGIN = 0.7  # of the last good lr: twice the best rate loses everything, half costs little
STOP = 1.3  # x chance loss: above this a ramp has nothing more to say


@dataclass(frozen=True)
class Reading:
    """What one ramp says: its usable points (smoothed), its mark and how far it fell.

    `drop` is a share of chance loss; `broke`: it ended above chance or not finite; `at_end`: the
    mark is the last point, so the ramp ended too soon.
    """

    lr: Floats
    loss: Floats
    max_lr: float
    drop: float
    broke: bool
    at_end: bool


def ramp(
    recipe: Recipe, facts: Facts, name: str, start: float, end: float, steps: int, replicate: int
) -> Run:
    """Return a ramp of lr from `start` to `end`, at the momentum of the schedule's peak."""
    momentum = recipe.max_momentum
    if recipe.schedule in CYCLED:
        momentum = min(recipe.min_momentum, recipe.max_momentum)
    return Run(
        kind="ramp",
        schedule=Schedule(name, start, end, momentum, momentum),
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        steps=steps,
        replicate=replicate,
        points=POINTS,
        held_out_examples=held_out_share(steps * recipe.batch_size, POINTS, cost=0.4),
        stop_loss=STOP * facts.chance_loss,
        dropout=recipe.dropout,
        prunable=False,
        label=f"{'ramp' if name == 'range_test' else 'bracket'} to {end:.2g} seed {replicate}",
    )


def read(outcome: Outcome, chance_loss: float) -> Reading | None:
    """Return what a ramp says, None if it has no three finite points or never fell below chance."""
    curve = outcome.curve
    fine = np.isfinite(curve.held_out_loss) & (curve.held_out_loss > 0)
    count = len(curve) if fine.all() else int(np.argmin(fine))
    if count < 3:
        return None
    lr, loss = curve.lr[:count], suggest.smooth(curve.held_out_loss[:count])
    if loss.min() >= chance_loss:
        return None
    broke = count < len(curve) or outcome.reason != "" or bool(loss[-1] > chance_loss)
    max_lr = suggest.within_drop(lr, loss, chance_loss) or float(lr[0])
    return Reading(
        lr=lr,
        loss=loss,
        max_lr=max_lr,
        drop=1 - float(loss.min()) / chance_loss,
        broke=broke,
        at_end=max_lr >= lr[-1] and not broke,
    )


@dataclass(frozen=True, kw_only=True)
class LRRange(Stage):
    """Finds max_lr (and min_lr, a tenth of it)."""

    kind: ClassVar[str] = "lr_range"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")

    start_lr: float = option(1e-5, "first lr of the bracket", gt=0)
    end_lr: float = option(10.0, "last lr of the bracket", gt=0)
    share: float = option(0.15, "length of a ramp as a share of the final run", gt=0, le=1)
    least_steps: int = option(80, "a ramp has at least so many steps", ge=10)
    most_steps: int = option(400, "and at most so many", ge=10)
    ramps: int = option(3, "linear ramps, each with its own seed", ge=1, le=10)
    margin: float = option(MARGIN, "max_lr as a share of the last good lr of the ramps", gt=0, le=1)
    least_drop: float = option(0.1, "a ramp must fall by this share of chance loss", ge=0, lt=1)

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Bracket; lengthen or widen it once if it says too little; then the linear ramps."""
        brackets = [o for o in outcomes if o.run.schedule.name == "exponential_ramp"]
        linear = [o for o in outcomes if o.run.schedule.name == "range_test"]
        if not brackets:
            return [self._bracket(recipe)]
        if not linear:
            last = brackets[-1]
            reading = read(last, self.facts.chance_loss)
            if len(brackets) == 1 and (reading is None or self._weak(reading) or not reading.broke):
                return [self._again(last.run, reading)]
            if reading is None:
                return []
            return self._linear(recipe, self._hand_off(reading), last.run.steps)
        if len(linear) == self.ramps:  # look once more, further or longer, if most say too little
            readings = [read(o, self.facts.chance_loss) for o in linear]
            if sum(r is not None and r.at_end for r in readings) * 2 > len(readings):
                run = linear[0].run
                return self._linear(recipe, 3 * run.schedule.max_lr, run.steps)
            if sum(self._weak(r) for r in readings) * 2 > len(readings):
                run = linear[0].run
                return self._linear(recipe, run.schedule.max_lr, 2 * run.steps)
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the median of the linear ramps' readings, or why there is none."""
        ramps = [o for o in outcomes if o.curve.lr.size]
        linear = [o for o in ramps if o.run.schedule.name == "range_test"][-self.ramps :]
        readings = [read(o, self.facts.chance_loss) for o in linear]
        good = [r for r in readings if r is not None and not self._weak(r) and not r.at_end]
        evidence = self._evidence(ramps, [r for r in readings if r is not None])
        if len(good) * 2 <= self.ramps:
            reason = f"no answer: {self._why_not(ramps)}"
            return Decision(self.name, self.kind, reason, answered=False, evidence=evidence)
        marks = sorted(round_to(self.margin * r.max_lr) for r in good)
        max_lr = round_to(median(marks))
        others = f"{marks[0]:.3g} to {marks[-1]:.3g}" if len(marks) > 1 else "one ramp"
        return Decision(
            stage=self.name,
            kind=self.kind,
            values={"max_lr": max_lr, "min_lr": round_to(max_lr / 10)},
            interval=(marks[0], marks[-1]),
            reason=(
                f"max_lr {max_lr:.3g}: {self.margin:g} x the last rate at which held-out loss stays"
                f" near its minimum, median of {len(good)} ramps ({others})"
            ),
            evidence=evidence,
        )

    def _steps(self, batch_size: int) -> int:
        steps = self.facts.steps(self.share, batch_size)
        return min(max(steps, self.least_steps), self.most_steps)

    def _bracket(self, recipe: Recipe) -> Run:
        return ramp(
            recipe,
            self.facts,
            "exponential_ramp",
            self.start_lr,
            self.end_lr,
            self._steps(recipe.batch_size),
            replicate=0,
        )

    def _linear(self, recipe: Recipe, end: float, steps: int) -> list[Run]:
        return [
            ramp(recipe, self.facts, "range_test", end / 100, end, steps, replicate)
            for replicate in range(self.ramps)
        ]

    def _again(self, run: Run, reading: Reading | None) -> Run:
        """Return the bracket once more: higher if it never broke, lower if it broke at once."""
        schedule = run.schedule
        if reading is None:
            schedule = replace(schedule, min_lr=schedule.min_lr / 1000)
        elif not reading.broke:
            schedule = replace(schedule, max_lr=schedule.max_lr * 100)
        return replace(run, schedule=schedule, steps=2 * run.steps, label=run.label + " again")

    def _hand_off(self, bracket: Reading) -> float:
        """Return the end of the linear ramps: 3 x the bracket's mark.

        A linear ramp spends most of its steps at high rates; one that ends much too high has not
        learnt anything when it comes to the rates that matter, and reads too high.
        """
        return round_to(3 * bracket.max_lr)

    def _weak(self, reading: Reading | None) -> bool:
        return reading is None or reading.drop < self.least_drop

    def _why_not(self, outcomes: Sequence[Outcome]) -> str:
        if all(o.state == "failed" for o in outcomes):
            return "every ramp failed"
        readings = [read(o, self.facts.chance_loss) for o in outcomes]
        some = [r for r in readings if r is not None]
        if not some:
            first = outcomes[0].curve
            return (
                f"held-out loss never fell below chance ({self.facts.chance_loss:.3g});"
                f" at the lowest rate, {first.lr[0]:.2g}, it was {first.held_out_loss[0]:.3g}"
            )
        best = max(some, key=lambda r: r.drop)
        if best.drop < self.least_drop:
            return (
                f"the ramps fell by {100 * best.drop:.0f} % of chance loss at most,"
                f" {100 * self.least_drop:.0f} % are needed: allow longer ones (most_steps, share)"
            )
        if not any(r.broke for r in some):
            return f"nothing broke up to lr {max(float(r.lr[-1]) for r in some):.2g}: raise end_lr"
        return "the ramps disagree on whether the loss falls at all"

    def _evidence(self, outcomes: Sequence[Outcome], linear: Sequence[Reading]) -> dict[str, Any]:
        chance = self.facts.chance_loss
        names = {"exponential_ramp": "exponential", "range_test": "linear"}
        rules: dict[str, float | None] = {}
        for name, rule in suggest.RULES.items():
            marks = [m for r in linear if (m := rule(r.lr, r.loss, chance)) is not None]
            rules[name] = float(f"{median(marks):.4g}") if marks else None
        return {
            "ramps": [
                {
                    "shape": names[o.run.schedule.name],
                    "lr": o.curve.lr.tolist(),
                    "held_out_loss": o.curve.held_out_loss.tolist(),
                    "smoothed": suggest.smooth(o.curve.held_out_loss).tolist(),
                    "train_loss": o.curve.train_loss.tolist(),
                }
                for o in outcomes
            ],
            "rules": rules,
            "rows": [
                {"rule": name, "max_lr": lr, "chosen": "yes" if name == "within_drop" else ""}
                for name, lr in rules.items()
            ],
        }


def round_to(value: float, digits: int = 3) -> float:
    """Return `value` with so many significant digits: more are noise."""
    return float(f"{value:.{digits}g}")
