"""Made-up worlds: what the runs of a study might say, so that its stages can be played.

Nothing here decides anything about a recipe: it only says how often runs get lost, differ, tie or
are hard to tell apart, which is what makes a study shorter or longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.plan.prices import Prices
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.stages.lr_range import MARGIN

# How often, and by how much, candidates differ from what came in: read off whole studies.
LOST = 0.08  # of the candidates do not train at all
BETTER = 0.2  # of them are better, by a few per cent
GAIN, LOSS = 0.05, 0.2  # mean size of log ratios, of the better ones and of the others
CHOSEN = ("max_lr", "max_momentum", "weight_decay", "batch_size")
NOISE = (0.04, 0.5)  # of a seed, in log loss: its median over worlds, and its spread in logs
LATE = 0.02  # of timed trials miss their time
SLOW = 0.3  # of the worlds learn so slowly that the first ramps say too little


@dataclass(frozen=True)
class World:
    """One made-up truth, which depends on `seed` alone: the same run, the same outcome."""

    seed: int
    facts: Facts
    prices: Prices
    prunes: bool = True

    def outcome(self, run: Run, recipe: Recipe, first: bool = False) -> Outcome:
        """Return how a run of the stage that `recipe` came into might end.

        `first`: it is the first run of all.
        """
        key = run.key({})
        if run.kind in ("probe", "calibrate"):
            return Outcome(run, key, "finished", Curve.of([]), Result(measured=self._measured(run)))
        if run.kind == "ramp":
            return self._ramp(run, key, recipe, first)
        return self._cycle(run, key, recipe)

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

    def _cycle(self, run: Run, key: str, recipe: Recipe) -> Outcome:
        """A cycle ends near what its candidate is worth, seeds apart; lost ones are stopped."""
        effect = self._effect(run, recipe)
        if effect == math.inf:
            stops = self._draw("stop", run.replicate).uniform(0.2, 0.6)
            early = self.prunes and run.prunable
            return self._ended(run, key, stops if early else 1.0, 2 * self.facts.start_loss, early)
        sd = NOISE[0] * math.exp(NOISE[1] * self._draw("noise").gauss())
        noise = sd * self._draw(_identity(run), run.steps, run.replicate).gauss()
        loss = 0.2 * self.facts.start_loss * math.exp(effect + min(noise, 1.0))
        return self._ended(run, key, 1.0, loss, pruned=False)

    def _effect(self, run: Run, recipe: Recipe) -> float:
        """Return the log ratio of a candidate's loss to the incumbent's, inf for a lost one."""
        p, own = run.params(), recipe.values()
        if all(
            p.get(k) == own[k] for k in ("max_lr", "max_momentum", "weight_decay", "batch_size")
        ):
            return 0.0
        draw = self._draw("candidate", _identity(run))
        kind, away = draw.random(), abs(math.log2(run.batch_size / recipe.batch_size))
        if kind < LOST:
            return math.inf
        if kind < LOST + BETTER and away < 1.5:
            return -draw.expovariate(1 / GAIN)
        return draw.expovariate(1 / LOSS) * max(1.0, away)  # far off, a batch size is worse

    # --- ramps

    def _ramp(self, run: Run, key: str, recipe: Recipe, first: bool) -> Outcome:
        """A ramp falls until its edge and breaks some way beyond it; slow worlds need two looks."""
        draw = self._draw("ramp", run.replicate, run.schedule.max_lr)
        edge = self._edge(run, recipe) * math.exp(0.2 * draw.gauss())
        breaks = edge * draw.uniform(1.3, 3.0)
        start = self.facts.start_loss
        fall = 0.05 if first and self._draw("slow").random() < SLOW else 0.5
        points = []
        for step in run.report_steps():
            lr, momentum = run.schedule.at(step / run.steps)
            loss = start * (1 - fall * min(1.0, lr / edge)) if lr < breaks else 2 * start
            points.append(self._point(run, step, lr, momentum, loss))
            if run.stop_loss is not None and loss > run.stop_loss:
                return Outcome.stopped(run, key, points, "broke", pruned=False)
        result = Result(points[-1].seconds, run.examples)
        return Outcome(run, key, "finished", Curve.of(points), result)

    def _edge(self, run: Run, recipe: Recipe) -> float:
        """Return the lr beyond which a ramp breaks: the range test's, once there is one."""
        edge = math.exp(self._draw("edge").uniform(math.log(0.1), math.log(2)))
        if recipe.max_lr is not None:
            edge = recipe.max_lr / MARGIN
        return edge * math.sqrt(run.batch_size / recipe.batch_size)

    # ---

    def _ended(self, run: Run, key: str, progress: float, loss: float, pruned: bool) -> Outcome:
        step = max(1, round(progress * run.steps))
        lr, momentum = run.schedule.at(step / run.steps)
        point = self._point(run, step, lr, momentum, loss)
        if pruned:
            return Outcome.stopped(run, key, [point], "lost", pruned=True)
        seconds = point.seconds
        if run.timed and run.attempt == 0 and self._draw("late", key).random() < LATE:
            seconds *= 1.5
        result = Result(seconds, run.examples, test_loss=loss, test_metric=0.5)
        return Outcome(run, key, "finished", Curve.of([point]), result)

    def _point(self, run: Run, step: int, lr: float, momentum: float, loss: float) -> Point:
        seconds = step * (self.prices.step_seconds(run.batch_size) or 1.0)
        return Point(step, step / run.steps, lr, momentum, loss, loss, 0.5, seconds)


def _identity(run: Run) -> tuple[tuple[str, float | int], ...]:
    """Return what a candidate is, whatever its length and seed."""
    params = run.params()
    return tuple((k, v) for k, v in sorted(params.items()) if k not in ("steps", "replicate"))
