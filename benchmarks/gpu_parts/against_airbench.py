"""airbench94's network with its hyper-parameters: by our loop, beside its own recipe and loop.

Ours gets the network as a user's own model and the recipe as a run: lr, momentum, weight decay,
batch size, schedule, steps; the lr of the norms' biases sits in the network (`airbench.Norm`). What
else the recipe has and our training options do not is listed as missing. The study is measured by
what is found here (`options.airbench`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from io import BytesIO
from statistics import mean, stdev
from typing import Any

import bench
import torch
from speed_parts.contest import free_cudnn

from gpu_parts.airbench import Recipe94, Triangle, accuracy, network, normalised, train
from gpu_parts.place import left, objective
from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.recipe import Run
from orchestrator.testing import FakeSession
from orchestrator.training.data.parts import Part
from orchestrator.training.objective import TrainingObjective

OWN, OURS, FREE = "airbench's own", "ours", "ours, deterministic=false"
HELD_OUT = 500  # of 50,000: as many batches an epoch as with all of them
# What the recipe asks of our optimizer section, should it have the option.
WANTED = {"label_smoothing": Recipe94.label_smoothing}
GIVEN = {name: value for name, value in WANTED.items() if name in OptimizerConfig.model_fields}
MISSING = (
    "averaged weights (lookahead)",
    "alternating flip",
    "shifts of 2 pixels (ours: an eighth, 4)",
    "half-precision weights (ours: float32, bfloat16 by autocast)",
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train both, in turn, as often as there is time; the first run of each is for nothing.

    airbench lets cuDNN choose freely; ours does both, as it is by default and freely.
    """
    recipe, seeds = Recipe94(), options.seeds
    if options.cpu_check:
        recipe, seeds = replace(recipe, batch_size=16, width=4, epochs=4.5), 2
    made = _objective(options, recipe)
    setup = made._setup
    images = _own_images(options, made)
    test = made._setup.data.open_test()
    sides = {
        OWN: lambda seed: _own(images, recipe, test, setup, seed),
        OURS: lambda seed: _ours(made, recipe, test, seed),
        FREE: lambda seed: _free(made, recipe, test, seed),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for seed in range(-1, seeds):
        began = time.monotonic()
        for name, train_once in sides.items():
            measured = train_once(seed + 1)
            if seed >= 0:
                found[name].append(measured)
        if seed >= 0 and left(options) < time.monotonic() - began:
            break
    rows = [{"loop": name, **_summary(runs)} for name, runs in found.items()]
    options.airbench = rows[0]
    absent = [name.replace("_", " ") for name in WANTED if name not in GIVEN]
    return {"rows": rows, "missing": [*absent, *MISSING], "goals": _goals(rows)}


def _objective(options: argparse.Namespace, recipe: Recipe94) -> TrainingObjective:
    per_epoch = 160 // recipe.batch_size if options.cpu_check else 50_000 // recipe.batch_size
    model = {
        "_target_": "gpu_parts.airbench.network",
        "width": recipe.width,
        "whitening_steps": recipe.whitening_epochs * per_epoch,
    }
    return objective(
        options, model, precision="bfloat16", optimizer=GIVEN, held_out_examples=HELD_OUT
    )


def _own_images(
    options: argparse.Namespace, made: TrainingObjective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all training images, ours' held-out ones too, in the precision of the source."""
    data = made._setup.data
    dtype = torch.float32 if options.cpu_check else torch.float16
    whole = [torch.cat(pair) for pair in zip(data.train, data.held_out, strict=True)]
    return normalised(Part(*whole), made._setup.device, dtype)


def _own(
    images: tuple[torch.Tensor, torch.Tensor], recipe: Recipe94, test: Part, setup: Any, seed: int
) -> dict[str, float]:
    x, y = normalised(test, setup.device, images[0].dtype)
    with free_cudnn():
        net, seconds, _ = train(images, recipe, seed)
        started = setup.now()
        augmented = accuracy(net, x, y, augment=True)
        whole = seconds + setup.now() - started
        plain = accuracy(net, x, y, augment=False)
    return {"seconds": seconds, "accuracy": plain, "augmented": augmented, "whole": whole}


def _ours(made: TrainingObjective, recipe: Recipe94, test: Part, seed: int) -> dict[str, float]:
    setup = made._setup
    steps = recipe.steps(len(setup.data.train))
    planned = Run(
        kind="train",
        schedule=Triangle.of(recipe),
        weight_decay=recipe.mean_decay,
        batch_size=recipe.batch_size,
        steps=steps,
        replicate=seed,
        points=10,
        opens_test=True,
    )
    session = FakeSession(planned)
    started = setup.now()
    result = made(planned, session)
    whole = setup.now() - started
    net = network(10, recipe.width).to(setup.device)
    assert session.model is not None
    net.load_state_dict(torch.load(BytesIO(session.model), weights_only=True))
    net.to(memory_format=torch.channels_last)
    with setup.autocast():
        x = setup.inputs.normalised(setup.inputs.on_device(test).x)
        augmented = accuracy(net, x, test.y.to(setup.device), augment=True)
    return {
        "seconds": result.seconds,
        "accuracy": result.test_metric,
        "augmented": augmented,
        "whole": whole,
    }


def _free(made: TrainingObjective, recipe: Recipe94, test: Part, seed: int) -> dict[str, float]:
    with free_cudnn():
        return _ours(made, recipe, test, seed)


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(runs)}
    for name in runs[0]:
        values = [r[name] for r in runs]
        found[name] = [mean(values), stdev(values) if len(values) > 1 else 0.0]
    return found


def _goals(rows: list[dict[str, Any]]) -> list[bench.Goal]:
    own, ours, free = rows
    goals = [
        bench.Goal(f"{what} / airbench's", row["seconds"][0] / own["seconds"][0], 1.5)
        for what, row in (
            ("our training time", ours),
            ("our training time with deterministic=false", free),
        )
    ]
    for name, views in (("accuracy", "one view"), ("augmented", "six views")):
        behind = 100 * (own[name][0] - ours[name][0])
        goals.append(bench.Goal(f"points of accuracy behind airbench ({views})", behind, 0.2))
    return goals


def table(result: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        (
            row["loop"],
            *(f"{row[name][0]:.3g} +- {row[name][1]:.2g}" for name in ("seconds", "whole")),
            *(
                f"{100 * row[name][0]:.2f} +- {100 * row[name][1]:.2f}"
                for name in ("accuracy", "augmented")
            ),
            row["n"],
        )
        for row in result["rows"]
    ]
    head = ("loop", "training, s", "with its evaluations, s", "test %", "six views %", "n")
    return "\n\n".join(
        (
            bench.markdown(head, rows),
            f"Of the recipe our loop has not: {', '.join(result['missing'])}.",
            bench.goals(result["goals"]),
        )
    )
