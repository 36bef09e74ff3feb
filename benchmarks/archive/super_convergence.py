"""ResNet-56 on CIFAR-10, for a GPU: super-convergence, and the balance of regularisation.

Source: Smith and Topin 2017 (arXiv 1708.07120), figure 1: lr to 3.0 in 10,000 steps of 1,000 images
against 80,000 steps from .1 with drops; Smith 2018, figure on weight decay at lr up to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import workloads
from rightness_parts.claims import Claim
from rightness_parts.claims import table as claims_table
from rightness_parts.policies import Steps

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import execute


@dataclass(frozen=True)
class Size:
    """How large an experiment: `width` of the network, `images` (None: all), steps, seeds."""

    batch_size: int = 1000
    fast: int = 10_000  # steps
    slow: int = 80_000
    width: float = 1.0
    images: int | None = None
    image_size: int | None = None
    seeds: int = 4


TINY = Size(16, 12, 24, 0.25, 64, 8, 2)  # to see that it runs
WEIGHT_DECAYS = (1e-3, 1e-4, 1e-5)


def run(options: Any) -> dict[str, Any]:
    """Run the part: about a day on one GPU, most of it the slow rival."""
    if not options.cifar:
        return {"rows": [], "left_out": "needs CIFAR-10"}
    size = TINY if options.quick else Size()
    return {"rows": [claim.row() for claim in _claims(options.cifar, size)], "left_out": ""}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    if result["left_out"]:
        return f"Left out: {result['left_out']}."
    return claims_table(result["rows"])


def _claims(path: str, size: Size) -> list[Claim]:
    objective = build.objective(
        Config.from_mapping(
            {
                "data": {
                    "name": "cifar10",
                    "path": path,
                    "train_examples": size.images,
                    "held_out_examples": 5000 if size.images is None else size.images,
                    "image_size": size.image_size,
                    "augment": True,
                },
                "model": {"name": "resnet56", "width": size.width},
            }
        ),
        workloads.CACHE,
    )

    def outcomes(schedule: Schedule, steps: int, weight_decay: float) -> list[Outcome]:
        return [
            execute(objective, Run("train", schedule, weight_decay, size.batch_size, steps, seed))
            for seed in range(size.seeds)
        ]

    cycle = Schedule("paper", 0.1, 3.0, 0.85, 0.95)
    balance = {wd: _accuracy(outcomes(cycle, size.fast, wd)) for wd in WEIGHT_DECAYS}
    steps = Steps.at_lr(0.1, 0.9)
    slow = _accuracy(outcomes(steps, size.slow, 1e-4))
    equal = _accuracy(outcomes(steps, size.fast, 1e-4))
    where = f"CIFAR-10, ResNet-56 x {size.width:g}, {objective.facts.train_examples:,} images"
    fast = balance[1e-4]
    length = f"{size.fast:,} steps against {size.slow:,}"
    rows: list[tuple[str, Sequence[float], Sequence[float], str]] = [
        ("1cycle to lr 3 > steps from .1", fast, slow, length),
        ("1cycle to lr 3 > steps from .1, equally long", fast, equal, f"{size.fast:,} steps"),
        ("lr to 3: weight decay 1e-4 > 1e-3 (chance)", fast, balance[1e-3], ""),
        ("lr to 3: weight decay 1e-4 > 1e-5", fast, balance[1e-5], ""),
    ]
    return [Claim(where, what, 1, a, b, "%", note) for what, a, b, note in rows]


def _accuracy(outcomes: Sequence[Outcome]) -> list[float]:
    return [100 * o.metric for o in outcomes]
