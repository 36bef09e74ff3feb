"""How often does a stage of equal candidates find a winner? And a stage with one better candidate?

    python benchmarks/archive/false_winners.py [stages]

Whole stages on made-up end losses: two horizons, more seeds where it is close, five values of
weight decay (the incumbent and four candidates). Losses are log-normal with the stated spread; a
shift of each seed that all candidates share is added, as in real training. Prints a Markdown table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.stages.stage import walk
from orchestrator.stages.weight_decay import WeightDecay

RECIPE = Recipe(max_lr=0.1, min_lr=0.01, weight_decay=5e-4)
FACTS = Facts(2000, 500, 1e9, final_epochs=10)  # nothing is as bad as chance here
BETTER = 1e-4
Draw = Callable[[np.random.Generator], float]


@dataclass(frozen=True)
class World:
    """Noise of the log loss: `draw` has spread 1; `spreads` by value, others get `spread`."""

    name: str
    spread: float
    draw: Draw = lambda rng: float(rng.standard_normal())
    spreads: tuple[tuple[float, float], ...] = ()
    gain: float = 0.0  # of weight decay `BETTER`, as a share
    losing: float = 0.0  # chance that the incumbent's run diverges
    kept: float = 0.0  # share of a seed's noise variance that is the same at both horizons


def heavy(rng: np.random.Generator) -> float:
    """Student's t with 2 degrees of freedom: infinite variance."""
    return float(rng.standard_t(2))


def bad_seeds(rng: np.random.Generator) -> float:
    """One run in six is much worse than the others (five spreads), the rest are steady."""
    return float(rng.standard_normal() + (10 if rng.random() < 1 / 6 else 0))


def stage(world: World, number: int) -> tuple[float, int]:
    """Return the weight decay that a stage chooses, and the number of its runs."""
    rng = np.random.default_rng([number, 1803])
    shared: dict[tuple[int, int], float] = {}
    kept: dict[tuple[float, int], float] = {}

    def end(run: Run) -> Outcome:
        seed = shared.setdefault((run.steps, run.replicate), 0.1 * rng.standard_normal())
        own = kept.setdefault((run.weight_decay, run.replicate), world.draw(rng))
        noise = math.sqrt(world.kept) * own + math.sqrt(1 - world.kept) * world.draw(rng)
        spread = dict(world.spreads).get(run.weight_decay, world.spread)
        loss = math.exp(seed + spread * noise)
        if run.weight_decay == BETTER:
            loss *= 1 - world.gain
        if run.weight_decay == RECIPE.weight_decay and rng.random() < world.losing:
            loss = math.inf
        point = Point(run.steps, 1.0, 0.1, 0.9, loss, loss)
        return Outcome(run, "", "finished", Curve.of([point]), Result())

    made = WeightDecay(name="weight_decay", facts=FACTS)
    decision, outcomes = walk(made, RECIPE, lambda runs: [end(run) for run in runs])
    return float(decision.values["weight_decay"]), len(outcomes)


EQUAL = (
    *(World(f"equal, spread {s:g}", s) for s in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)),
    *(
        World(f"equal, one candidate {x} x as noisy (.02)", 0.02, spreads=((1e-4, 0.02 * x),))
        for x in (3, 5, 10, 40)
    ),
    *(
        World(f"equal, incumbent {x} x as noisy (.02)", 0.02, spreads=((5e-4, 0.02 * x),))
        for x in (3, 5, 10, 40)
    ),
    World("equal, heavy tails (t with 2 df) x .05", 0.05, heavy),
    World("equal, heavy tails (t with 2 df) x .2", 0.2, heavy),
    World("equal, one seed in six much worse, .02", 0.02, bad_seeds),
    World("equal, one seed in six much worse, .1", 0.1, bad_seeds),
    World("equal, spread .1, half of it kept", 0.1, kept=0.5),
    World("equal, spread .3, half of it kept", 0.3, kept=0.5),
)
UNEQUAL = (
    World("10 % better, spread .02", 0.02, gain=0.1),
    World("20 % better, spread .05", 0.05, gain=0.2),
    World("20 % better, spread .1", 0.1, gain=0.2),
    World("20 % better, spread .2", 0.2, gain=0.2),
    World("40 % better, spread .2", 0.2, gain=0.4),
    World("60 % better, spread .3", 0.3, gain=0.6),
    World("20 % better; incumbent 20 x as noisy (.02)", 0.02, spreads=((5e-4, 0.4),), gain=0.2),
    World("60 % better; incumbent 20 x as noisy (.02)", 0.02, spreads=((5e-4, 0.4),), gain=0.6),
    World("20 % better; another 40 x as noisy (.02)", 0.02, spreads=((0.0, 0.8),), gain=0.2),
    World("equal, incumbent diverges on one seed in three", 0.05, losing=1 / 3),
)


def table(count: int) -> None:
    """Print how often something and how often the better value was chosen, and the runs."""
    print("| world | incumbent replaced | by the better one | runs a stage |")
    print("| --- | --- | --- | --- |")
    for world in (*EQUAL, *UNEQUAL):
        results = [stage(world, number) for number in range(count)]
        replaced = sum(v != RECIPE.weight_decay for v, _ in results) / count
        right = f"{sum(v == BETTER for v, _ in results) / count:.1%}" if world.gain else ""
        runs = sum(n for _, n in results) / count
        print(f"| {world.name} | {replaced:.1%} | {right} | {runs:.1f} |", flush=True)


if __name__ == "__main__":
    table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
