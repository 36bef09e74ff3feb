"""The held-out loss of an untrained network, which in a regression is often far above chance."""

from __future__ import annotations

import math

from orchestrator.training.data.parts import Part
from orchestrator.training.evaluate import evaluate
from orchestrator.training.trainer import Setup

EXAMPLES = 256
SEEDS = 3  # replicates: those of the range test's ramps
NEAR = 1.1  # x chance: a network that starts below this is said to start at chance


def untrained_loss(setup: Setup, chance_loss: float) -> float:
    """Return the highest held-out loss of the first seeds before training, 0 if near chance.

    Also 0 for cross-entropy: an untrained network starts at log(classes) unless its inputs are
    wrong. Rounded to three digits, since it decides where ramps stop, which must not depend on the
    last bits.
    """
    if setup.task.kind == "cross_entropy":
        return 0.0
    part = Part(*(t[:EXAMPLES] for t in setup.inputs.held_out))
    highest = max(
        (x for r in range(SEEDS) if math.isfinite(x := _of_seed(setup, part, r))), default=0
    )
    return float(f"{highest:.3g}") if highest > NEAR * chance_loss else 0.0


def _of_seed(setup: Setup, part: Part, replicate: int) -> float:
    loss, _ = evaluate(
        setup.network(replicate),
        setup.inputs,
        part,
        task=setup.task,
        batch_statistics=True,
        autocast=setup.autocast(),
    )
    return loss
