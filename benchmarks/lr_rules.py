"""Which rule and which margin of the LR range test are best for the final run?

    python benchmarks/lr_rules.py [--cifar FOLDER] [--quick] [--curves FILE] [--out FILE]

Ground truth: final 1cycle runs over a grid of max_lr, a few seeds each. Then the ramps of several
range tests (study seeds that the truth has not seen) are recorded once, and every rule, margin and
length is read off the same ramps. The figure of merit is the excess: by how much the final loss at
the suggested rate lies above the best of the grid (geometric mean over seeds, interpolated between
grid points, losses capped at chance). `--curves` keeps what was trained, so that another look costs
nothing; `--quick` is a smoke test on the digits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.config import DataConfig, ModelConfig, OptimizerConfig
from orchestrator.objectives.training import TrainingObjective
from orchestrator.recipe import Recipe
from orchestrator.stages.lr_range import LRRange, ramp, read
from orchestrator.stages.stage import cycle
from orchestrator.testing import execute

OUT = Path(__file__).parent / "results" / "lr_rules.json"
GRID = (0.01, 0.02, 0.03, 0.045, 0.065, 0.09, 0.12, 0.16, 0.2, 0.25, 0.32, 0.45, 0.7, 1.0)
WIDE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
MARGINS = (0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Workload:
    """What is trained, how long, and the grid of the truth."""

    data: dict[str, Any]
    model: dict[str, Any]
    epochs: float
    batch_size: int = 32
    schedule: str = "paper"
    grid: tuple[float, ...] = GRID
    truth_seeds: int = 4
    studies: int = 6

    def objective(self, seed: int, cache: Path, cifar: Path | None) -> TrainingObjective:
        data = dict(self.data)
        if data["name"] == "cifar10":
            data |= {"path": str(cifar), "image_size": 16, "held_out_examples": 1000}
        return TrainingObjective(
            DataConfig(**data),
            ModelConfig(**self.model),
            OptimizerConfig(),
            threads=1,
            seed=seed,
            final_epochs=self.epochs,
            cache=cache,
        )

    def recipe(self) -> Recipe:
        return Recipe(batch_size=self.batch_size, schedule=self.schedule)


DIGITS, CIFAR = {"name": "digits"}, {"name": "cifar10", "train_examples": 3000, "augment": True}
WORKLOADS = {
    "digits_mlp": Workload(DIGITS, {"name": "mlp"}, 15),
    "digits_x5": Workload({**DIGITS, "scale": 5.0}, {"name": "mlp"}, 15),
    "digits_linear": Workload(DIGITS, {"name": "mlp"}, 15, schedule="linear"),
    "digits_constant": Workload(DIGITS, {"name": "mlp"}, 15, schedule="constant"),
    "digits_bn": Workload(DIGITS, {"name": "resnet9", "width": 0.125}, 10, grid=WIDE),
    "digits_conv3": Workload(DIGITS, {"name": "conv3"}, 15, grid=GRID[2:], studies=5),
    "cifar_conv3": Workload(CIFAR, {"name": "conv3"}, 8, grid=GRID[1:-1], truth_seeds=3, studies=4),
    "cifar_bn": Workload(
        CIFAR, {"name": "resnet9", "width": 0.125}, 5, 64, grid=WIDE, truth_seeds=2, studies=3
    ),
}


def truth(workload: Workload, objective: TrainingObjective) -> dict[float, list[float]]:
    """Return the final held-out losses by max_lr."""
    recipe, chance = workload.recipe(), objective.facts.chance_loss
    steps = objective.facts.steps(1, recipe.batch_size)
    losses, dead = {}, 0
    for lr in workload.grid:
        runs = [
            cycle(recipe.at_lr(lr), steps, 5000 + s, "", points=10)
            for s in range(workload.truth_seeds)
        ]
        losses[lr] = [min(execute(objective, run).held_out_loss, chance) for run in runs]
        dead = dead + 1 if min(losses[lr]) > 0.95 * chance else 0
        if dead == 2:  # it does not come back
            break
    return losses


def rounds(workload: Workload, objective: TrainingObjective) -> Iterator[dict[str, Any]]:
    """Record the ramps of one study, as the stage does them and in other lengths."""
    recipe, facts = workload.recipe(), objective.facts
    stage = LRRange(name="lr_range", facts=facts)

    def record(name: str, shape: str, end: float, steps: int, replicate: int) -> Any:
        start = stage.start_lr if shape == "exponential_ramp" else end / 100
        run = ramp(recipe, facts, shape, start, end, steps, replicate)
        outcome = execute(objective, run)
        curve = outcome.curve
        row = {"round": name, "steps": steps, "end": end, "replicate": replicate}
        row |= {"lr": curve.lr.tolist(), "loss": curve.held_out_loss.tolist()}
        return row, read(outcome, facts.chance_loss)

    (first,) = stage.propose(recipe, [])
    steps = first.steps
    for replicate in range(3):
        row, reading = record("exponential", "exponential_ramp", stage.end_lr, steps, replicate)
        yield row
        if replicate == 0:
            bracket = reading
    if bracket is None or bracket.drop < stage.least_drop:
        steps *= 2
        row, bracket = record("exponential again", "exponential_ramp", stage.end_lr, steps, 0)
        yield row
    if bracket is None:
        return
    marks = []
    for name, times, factor in (("3x", 3, 1), ("3x long", 3, 2), ("1.5x", 1.5, 1)):
        for replicate in range(3):
            end = times * bracket.max_lr
            row, reading = record(name, "range_test", end, factor * steps, replicate)
            yield row
            if name == "3x" and reading:
                marks.append(reading.max_lr)
    for replicate in range(3):
        yield record("again long", "range_test", 3 * median(marks), 2 * steps, replicate)[0]


def collect(workload: Workload, cifar: Path | None) -> dict[str, Any]:
    """Train everything of a workload."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        objective = workload.objective(0, Path(cache), cifar)
        losses = truth(workload, objective)
        middle = time.perf_counter()
        studies = [
            list(rounds(workload, workload.objective(100 + k, Path(cache), cifar)))
            for k in range(workload.studies)
        ]
    return {
        "chance": objective.facts.chance_loss,
        "final_steps": objective.facts.steps(1, workload.batch_size),
        "truth": [[lr, x] for lr, x in losses.items()],
        "studies": studies,
        "seconds": {"truth": middle - begin, "ramps": time.perf_counter() - middle},
    }
