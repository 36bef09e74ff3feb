"""What a network costs that nobody has trained: in a regression often far more than a constant."""

from __future__ import annotations

import math

from orchestrator.training.data.parts import Part
from orchestrator.training.evaluate import evaluate
from orchestrator.training.trainer import Setup

EXAMPLES = 256
SEEDS = 3  # replicates: those of the range test's ramps
NEAR = 1.1  # x chance: a network that starts below that starts at chance


def untrained_loss(setup: Setup, chance_loss: float) -> float:
    """Return the highest held-out loss of the first seeds before any training, 0 if near chance.

    0 for cross-entropy as well: an untrained network costs log(classes) there, or its inputs are
    off. Three digits: it decides where ramps stop, which must not depend on the machine's last bit.
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
