"""Pools: many recipes of a workload, at several lengths and seeds, on which policies are replayed.

    python benchmarks/frontier/pools.py [WORKLOAD ...] --cifar PATH

`wide` recipes are spread over the whole search space, `near` ones over an octave and a half around
the range test's rate (which follows the square root of the batch size). Every run is complete: its
own cycle, of 1/8 to all of a final run. Resumable: what was trained is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
import numpy as np
from lab import CACHE, Lab
from scipy.stats import qmc
from suite import TUNING, WORKLOADS

from orchestrator import build
from orchestrator.recipe import Recipe
from orchestrator.stages.stage import cycle, walk

NEAR, WIDE = 220, 120
LENGTHS = (1 / 8, 1 / 4, 1 / 2, 1.0)
BATCHES = (16, 32, 64, 128, 256, 512)
TRUTH = 9000  # replicates from here on; no study uses them


def range_test(lab: Lab) -> Recipe:
    """Return the recipe after the range test, at defaults."""
    stage = next(s for s in build.stages(lab.config, lab.facts) if s.kind == "lr_range")
    recipe = build.recipe(lab.config)
    return recipe.with_(walk(stage, recipe, lab.outcomes)[0])


def recipes(kind: str, count: int, start: Recipe, examples: int) -> list[Recipe]:
    """Return so many recipes, quasi-random, batches no larger than half the data."""
    assert start.max_lr is not None
    sizes = [b for b in BATCHES if b <= examples // 2]
    made = []
    for lr, momentum, decay, batch in qmc.Sobol(4, seed=7).random(count):
        size = sizes[int(batch * len(sizes))]
        if kind == "near":
            guess = start.max_lr * math.sqrt(size / start.batch_size)
            max_lr = guess * 2 ** (3 * lr - 1.5)
            wd = 0.0 if decay < 0.12 else 10 ** (-5 + 4 * (decay - 0.12) / 0.88)
            m = 1 - 0.2 * (0.02 / 0.2) ** momentum
        else:
            low, high = (1e-5, 0.1) if start.adaptive else (1e-4, 3.0)
            max_lr = low * (high / low) ** lr
            wd = 0.0 if decay < 0.15 else 10 ** (-6 + 5 * (decay - 0.15) / 0.85)
            m = 1 - 0.2 * (0.01 / 0.2) ** momentum
        at = Recipe(**{**start.values(), "batch_size": size, "weight_decay": float(wd)})
        made.append(Recipe(**{**at.values(), "max_momentum": float(m)}).at_lr(float(max_lr)))
    return made


def record(lab: Lab) -> list[dict[str, Any]]:
    """Train a workload's pool, return its rows."""
    start, rows = range_test(lab), []
    plan = [("near", r) for r in recipes("near", NEAR, start, lab.facts.train_examples)]
    plan += [("wide", r) for r in recipes("wide", WIDE, start, lab.facts.train_examples)]
    for kind, recipe in plan:
        for length in LENGTHS if kind == "near" else (1 / 4, 1.0):
            for seed in range(2 if kind == "near" else 1):
                steps = lab.facts.steps(length, recipe.batch_size)
                run = cycle(recipe, steps, TRUTH + seed, "pool", points=16, opens_test=length == 1)
                found = lab.outcome(run)
                rows.append(
                    {
                        "kind": kind,
                        **recipe.values(),
                        "length": length,
                        "seed": seed,
                        "loss": found.held_out_loss,
                        "test_loss": found.result.test_loss,
                        "metric": found.metric,
                        "curve": found.curve.held_out_loss.tolist(),
                        "train": found.curve.train_loss.tolist(),
                        "progress": found.curve.progress.tolist(),
                        "seconds": found.result.seconds,
                    }
                )
    return rows


def main() -> int:
    """Record the pools that are named, all of the tuning workloads without a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=[w.name for w in TUNING])
    parser.add_argument("--cifar")
    options = parser.parse_args()
    for name in options.workloads:
        began, lab = time.monotonic(), Lab(WORKLOADS[name], 0, options.cifar)
        rows = record(lab)
        file = CACHE / f"pool_{name}.json"
        file.write_text(json.dumps({"facts": vars(lab.facts), "rows": rows}))
        best = np.nanmin([r["test_loss"] for r in rows])
        print(
            f"{name}: {len(rows)} runs, best {best:.4g}, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
