"""Which rule and which margin of the LR range test are best for the final run?

    python benchmarks/archive/lr_rules.py [--cifar FOLDER] [--quick] [--curves FILE] [--out FILE]

Ground truth: final 1cycle runs over a grid of max_lr, a few seeds each. Then the ramps of several
range tests (study seeds that the truth has not seen) are recorded once, and every rule, margin and
length is read off the same ramps. The figure of merit is the excess: by how much the final loss at
the suggested rate lies above the best of the grid (geometric mean over seeds, interpolated between
grid points, losses capped at chance). `--curves` keeps what was trained, so that another look costs
nothing; `--quick` is a smoke test on the digits.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.recipe import Recipe
from orchestrator.stages import suggest
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.ramps import ramp, read
from orchestrator.stages.stage import cycle
from orchestrator.testing import execute
from orchestrator.training.objective import TrainingObjective, TrainingSettings

OUT = Path(__file__).parents[1] / "results" / "lr_rules.json"
GRID = (0.01, 0.02, 0.03, 0.045, 0.065, 0.09, 0.12, 0.16, 0.2, 0.25, 0.32, 0.45, 0.7, 1.0)
WIDE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
MARGINS = (0.3, 0.4, 0.5, 0.6, 0.7, 1.0)


@dataclass(frozen=True)
class Workload:
    """What is trained, how long, and the grid of the truth."""

    data: dict[str, Any]
    model: dict[str, Any]
    epochs: float
    batch_size: int = 32
    schedule: str = "paper"
    grid: tuple[float, ...] = GRID
    truth_seeds: int = 8
    studies: int = 6

    def objective(self, seed: int, cache: Path, cifar: Path | None) -> TrainingObjective:
        data = dict(self.data)
        if data["name"] == "cifar10":
            data |= {"path": str(cifar), "image_size": 16, "held_out_examples": 1000}
        return TrainingObjective(
            TrainingSettings(
                DataConfig(**data),
                ModelConfig(**self.model),
                threads=1,
                seed=seed,
                final_epochs=self.epochs,
            ),
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
    "digits_bn": Workload(
        DIGITS, {"name": "resnet9", "width": 0.125}, 10, grid=WIDE, truth_seeds=4
    ),
    "digits_conv3": Workload(
        DIGITS, {"name": "conv3"}, 15, grid=GRID[2:], truth_seeds=4, studies=5
    ),
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
        row, reading = record(
            "exponential", "exponential_ramp", first.schedule.max_lr, steps, replicate
        )
        yield row
        if replicate == 0:
            bracket = reading
    if bracket is None or bracket.drop < stage.min_drop:
        steps *= 2
        row, bracket = record(
            "exponential again", "exponential_ramp", first.schedule.max_lr, steps, 0
        )
        yield row
    if bracket is None:
        return
    read_off = []
    for name, times, factor in (("3x", 3, 1), ("3x long", 3, 2), ("1.5x", 1.5, 1)):
        for replicate in range(3):
            end = times * bracket.max_lr
            row, reading = record(name, "range_test", end, factor * steps, replicate)
            yield row
            if name == "3x" and reading:
                read_off.append(reading.max_lr)
    for replicate in range(3):
        yield record("again long", "range_test", 3 * median(read_off), 2 * steps, replicate)[0]


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


def excess_of(losses: list[list[Any]]) -> Callable[[float], float]:
    """Return lr -> share by which the final loss lies above the best of the grid."""
    lr = np.log([lr for lr, _ in losses])
    level = np.array([np.mean(np.log(x)) for _, x in losses])
    return lambda at: float(np.expm1(np.interp(math.log(at), lr, level) - level.min()))


def marks(study: list[dict[str, Any]], name: str, rule: suggest.Rule, chance: float) -> list[float]:
    """Return what a rule reads off the ramps of one round of one study."""
    found = []
    for row in (r for r in study if r["round"] == name):
        loss = np.array(row["loss"], float)
        fine = np.isfinite(loss)
        count = len(loss) if fine.all() else int(np.argmin(fine))
        smooth = suggest.smooth(loss[:count])
        if count >= 3 and smooth.min() < chance:
            mark = rule(np.array(row["lr"][:count]), smooth, chance)
            found += [mark] if mark else []
    return found


def table(curves: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per round, rule and margin: mean and worst excess by workload."""
    rows = []
    for name in ("exponential", "3x", "3x long", "1.5x", "again long"):
        for rule_name, rule in suggest.RULES.items():
            for margin in MARGINS:
                by = {}
                for workload, data in curves.items():
                    excess = excess_of(data["truth"])
                    found = [marks(s, name, rule, data["chance"]) for s in data["studies"]]
                    values = [excess(margin * median(m)) for m in found if m]
                    if values:
                        by[workload] = {
                            "mean": round(mean(values), 3),
                            "worst": round(max(values), 3),
                        }
                means = [v["mean"] for v in by.values()]
                rows.append(
                    {
                        "ramps": name,
                        "rule": rule_name,
                        "margin": margin,
                        "mean": round(mean(means), 3),
                        # What a workload costs that is not like the others:
                        "worst workload": max(means),
                        "worst study": max(v["worst"] for v in by.values()),
                        "by workload": by,
                    }
                )
    return sorted(rows, key=lambda row: row["mean"])


def left_out(rows: list[dict[str, Any]], workloads: list[str]) -> list[dict[str, Any]]:
    """Tune rule and margin on all workloads but one, judge on it; ramps as the stage makes them."""
    rows = [row for row in rows if row["ramps"] == "3x"]
    judged = []
    for out in workloads:
        others = [w for w in workloads if w != out]
        best = min(rows, key=lambda r: mean(r["by workload"][w]["mean"] for w in others))
        judged.append(
            {
                "left out": out,
                **{k: best[k] for k in ("rule", "margin")},
                **best["by workload"][out],
            }
        )
    return judged


def _lines(value: Any) -> str:
    """Return JSON, a list with a line for each member: the table can be read and compared."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(member) for member in value) + "\n]"
    return json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", type=Path, help="a folder with CIFAR-10 as Parquet files")
    parser.add_argument("--curves", type=Path, help="keep what was trained here, or take it")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    todo = dict(WORKLOADS)
    if args.quick:
        quick = replace(WORKLOADS["digits_mlp"], epochs=4, grid=GRID[::3], truth_seeds=2, studies=2)
        todo = {"digits_mlp": quick}
    if args.cifar is None:
        todo = {name: w for name, w in todo.items() if w.data["name"] != "cifar10"}
    curves: dict[str, Any] = {}
    if args.curves and args.curves.exists():
        curves = json.loads(args.curves.read_text())
    for name, workload in todo.items():
        if name not in curves:
            curves[name] = collect(workload, args.cifar)
            print(name, {k: round(v) for k, v in curves[name]["seconds"].items()}, flush=True)
            if args.curves:
                args.curves.write_text(json.dumps(curves))
    rows = table(curves)
    result = {
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "seconds": {name: data["seconds"] for name, data in curves.items()},
        "truth": {
            name: {lr: round(math.exp(np.mean(np.log(x))), 4) for lr, x in data["truth"]}
            for name, data in curves.items()
        },
        "seeds": {
            name: {"truth": len(data["truth"][0][1]), "studies": len(data["studies"])}
            for name, data in curves.items()
        },
        "left out": left_out(rows, list(curves)) if len(curves) > 1 else [],
        "table": rows,
    }
    print(
        f"{'ramps':12}{'rule':18}{'margin':>6}{'mean':>7}{'worst workload':>16}{'worst study':>13}"
    )
    for row in rows[:25]:
        print(
            f"{row['ramps']:12}{row['rule']:18}{row['margin']:6}{row['mean']:7.2f}"
            f"{row['worst workload']:16.2f}{row['worst study']:13.2f}"
        )
    for row in result["left out"]:
        print(row)
    if not args.quick:
        lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in result.items()]
        args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
