"""The held-out loss of an untrained network, which in a regression is often far above chance."""

from __future__ import annotations

import math

from orchestrator.training.data.parts import Part
from orchestrator.training.evaluate import evaluate
from orchestrator.training.trainer import Setup

EXAMPLES = 256
SEEDS = 3  # replicates: those of the range test's ramps
NEAR = 1.1  # x chance: a network that starts below this is said to start at chance


def untrained_loss(setup: Setup, chance_loss: float, classes: int) -> float:
    """Return the highest held-out loss of the first seeds before training, 0 if near chance.

    For cross-entropy it is log(`classes`), where an untrained network starts unless its inputs are
    wrong: above chance if some classes are rare, as characters of a text. Rounded to three digits,
    since it decides where ramps stop, which must not depend on the last bits.
    """
    if setup.task.kind == "cross_entropy":
        highest = math.log(classes)
    else:
        part = Part(*(t[:EXAMPLES] for t in setup.inputs.held_out))
        losses = [_of_seed(setup, part, replicate) for replicate in range(SEEDS)]
        highest = max(filter(math.isfinite, losses), default=0)
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
