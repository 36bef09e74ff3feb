"""Made-up worlds: what the runs of a study might say, so that its stages can be played.

Nothing here decides anything about a recipe: it only says how often candidates differ, tie or are
hard to tell apart, which is what makes a study shorter or longer. How often was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.plan.prices import Prices
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.schedules import CYCLED
from orchestrator.stages.lr_range import LR_FACTOR


class Effect(NamedTuple):
    """What a field of the recipe does to the log of the held-out loss, as measured.

    `loss` at `away` from the recipe that the study began with; in between on a line, beyond as at
    the ends. `spread` of it between studies, `noise` between the seeds of a study, both standard
    deviations of the difference to that recipe.
    """

    away: tuple[float, ...]
    loss: tuple[float, ...]
    spread: float
    noise: float


# By field: lr and batch size in doublings, momentum in halvings of 1 - momentum, weight decay in
# powers of ten. Medians of the first comparisons in 62 studies (benchmarks/workloads.py).
KINDS: tuple[Mapping[str, Effect], ...] = (
    {  # digits, ResNet-9 with batch norm
        "max_lr": Effect((-1, 0, 1), (0.01, 0, 0.41), 0.1, 0.17),
        "max_momentum": Effect((0, 1, 1.7, 3.3), (0, 0.2, 0.31, 0.39), 0.1, 0.17),
        "weight_decay": Effect((-1.7, -0.7, 0, 0.3), (0, -0.12, 0, 0.23), 0.05, 0.18),
        "batch_size": Effect((-1, 0, 1), (0.43, 0, 0.2), 0.15, 0.1),
    },
    {  # digits, one hidden layer
        "max_lr": Effect((-1, 0, 1, 2), (0.33, 0, -0.07, 0.05), 0.06, 0.09),
        "max_momentum": Effect((0, 1, 1.7, 3.3), (0, 0, 0.01, 0.04), 0.03, 0.04),
        "weight_decay": Effect((-1.7, 0, 0.3), (0, 0, 0), 0.005, 0.005),
        "batch_size": Effect((-1, 0, 1), (0.05, 0, 0.1), 0.1, 0.07),
    },
    {  # the same, inputs five times as large
        "max_lr": Effect((-1, 0, 1, 2), (0.25, 0, -0.07, 0.05), 0.05, 0.1),
        "max_momentum": Effect((0, 1, 1.7, 3.3), (0, 0.04, 0.08, 0.11), 0.03, 0.05),
        "weight_decay": Effect((-1.7, 0, 0.3), (0, 0, 0), 0.003, 0.004),
        "batch_size": Effect((-1, 0, 1), (0.11, 0, 0.1), 0.06, 0.05),
    },
    {  # CIFAR-10 at 16x16, three layers of convolution
        "max_lr": Effect((-1, 0, 1), (0.05, 0, 0), 0.03, 0.01),
        "max_momentum": Effect((0, 1, 1.7, 3.3), (0, 0, 0, 0), 0.007, 0.004),
        "weight_decay": Effect((-1.7, 0, 0.3), (0, 0, 0), 0.001, 0.001),
        "batch_size": Effect((-1, 0, 1, 2, 3), (0.01, 0, 0.01, 0.06, 0.12), 0.008, 0.008),
    },
)
NO_DECAY = 1e-6  # stands for 0, which has no logarithm
WORST = 1.5  # the log loss that a run of a candidate may add: it is still better than chance
LATE = 0.05  # of timed trials miss their time
SLOW = 0.2  # of the worlds learn so slowly that the first ramps say too little


@dataclass(frozen=True)
class World:
    """One made-up truth, which depends on `seed` alone: the same run, the same outcome.

    `recipe`: the one that the stages begin with.
    """

    seed: int
    facts: Facts
    prices: Prices
    recipe: Recipe

    def outcome(self, run: Run, level: float = 0.0, first: bool = False) -> Outcome:
        """Return how a run might end. `first`: it is the first run of all.

        `level` is added to the log of a cycle's loss, which stays below chance.
        """
        key = run.key({})
        if run.kind in ("probe", "calibrate"):
            return Outcome(run, key, "finished", Curve.of([]), Result(measured=self._measured(run)))
        if run.kind == "ramp":
            return self._ramp(run, key, first)
        return self._cycle(run, key, level)

    def _measured(self, run: Run) -> dict[str, Any]:
        sizes = run.batch_sizes
        if run.kind == "probe":
            fits = {str(b): self.prices.fits.get(b, True) for b in sizes}
            return {"fits": fits, "bytes": {str(b): self.prices.memory.get(b, 0) for b in sizes}}
        seconds = {str(b): self.prices.step_seconds(b) or 1.0 for b in sizes}
        return {"seconds_per_step": seconds, "spread": dict.fromkeys(seconds, 0.0)}

    def _draw(self, *of: object) -> Random:
        return Random(repr((self.seed, *of)))

    # --- cycles

    def _cycle(self, run: Run, key: str, level: float) -> Outcome:
        """A cycle ends near what its candidate is worth, seeds apart."""
        worse = sum(self._worse(run, field, by) for field, by in self._away(run).items())
        loss = 0.2 * self.facts.start_loss * math.exp(min(worse, WORST) + level)
        loss = min(loss, 0.99 * self.facts.chance_loss)
        lr, momentum = run.schedule.at(1.0)
        point = self._point(run, run.steps, lr, momentum, loss)
        seconds = point.seconds
        if run.timed and run.attempt == 0 and self._draw("late", key).random() < LATE:
            seconds *= 1.5
        result = Result(seconds, run.examples, test_loss=loss, test_metric=0.5)
        return Outcome(run, key, "finished", Curve.of([point]), result)

    def _away(self, run: Run) -> dict[str, float]:
        """Return how far the run's fields are from where the study began, as `KINDS` counts it."""
        began, own = self.recipe, run.schedule
        momentum = (1 - began.max_momentum) / (1 - own.max_momentum)
        # What counts for SGD at constant momentum is lr / (1 - momentum).
        scaled = own.max_lr * (1.0 if began.schedule in CYCLED else momentum)
        decay = max(run.weight_decay, NO_DECAY) / max(began.weight_decay, NO_DECAY)
        away = {
            "max_lr": math.log2(scaled / (LR_FACTOR * self._edge(run))),
            "max_momentum": math.log2(momentum),
            "weight_decay": math.log10(decay),
            "batch_size": math.log2(run.batch_size / began.batch_size),
        }
        return {field: round(by, 2) for field, by in away.items()}

    def _worse(self, run: Run, field: str, away: float) -> float:
        """Return by how much a field being so far away raises the log loss of a run.

        Runs that share a seed share what the field does to it: that is what pairing is for.
        """
        effect, near = KINDS[self.seed % len(KINDS)][field], min(1.0, abs(away))
        spread = effect.spread * self._draw(field, away).gauss()
        noise = effect.noise * self._draw(field, away, run.steps, run.replicate).gauss()
        return float(np.interp(away, effect.away, effect.loss)) + near * spread + noise

    # --- ramps

    def _ramp(self, run: Run, key: str, first: bool) -> Outcome:
        """A ramp falls until half its edge and breaks beyond it; slow worlds need two looks."""
        draw = self._draw("ramp", run.replicate, run.schedule.max_lr)
        breaks = self._edge(run) * math.exp(0.2 * draw.gauss())
        start = self.facts.start_loss
        fall = 0.05 if first and self._draw("slow").random() < SLOW else 0.5
        points = []
        for step in run.report_steps():
            lr, momentum = run.schedule.at(step / run.steps)
            loss = start * (1 - fall * min(1.0, 2 * lr / breaks)) if lr < breaks else 1.1 * start
            points.append(self._point(run, step, lr, momentum, loss))
            if run.stop_loss is not None and loss > run.stop_loss:
                return Outcome.stopped(run, key, points, "broke", pruned=False)
        result = Result(points[-1].seconds, run.examples)
        return Outcome(run, key, "finished", Curve.of(points), result)

    def _edge(self, run: Run) -> float:
        """Return the lr beyond which a ramp breaks: the range test's, if there was one."""
        if self.recipe.max_lr is not None:
            edge = self.recipe.max_lr / LR_FACTOR
        else:
            edge = math.exp(self._draw("edge").uniform(math.log(0.1), math.log(2)))
        return edge * math.sqrt(run.batch_size / self.recipe.batch_size)

    def _point(self, run: Run, step: int, lr: float, momentum: float, loss: float) -> Point:
        seconds = step * (self.prices.step_seconds(run.batch_size) or 1.0)
        return Point(step, step / run.steps, lr, momentum, loss, loss, 0.5, seconds)
