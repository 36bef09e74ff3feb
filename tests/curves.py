"""Made-up curves for tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orchestrator.curve import Curve, Outcome, Point, Result, State
from orchestrator.recipe import Run


def curve(
    held_out: Sequence[float],
    train: Sequence[float] | None = None,
    lr: Sequence[float] | None = None,
) -> Curve:
    """Return a curve of evenly spaced points, ten steps each; train loss as held-out by default."""
    n = len(held_out)
    points = [
        Point(
            step=10 * (i + 1),
            progress=(i + 1) / n,
            lr=lr[i] if lr is not None else 0.1,
            momentum=0.9,
            train_loss=train[i] if train is not None else held_out[i],
            held_out_loss=held_out[i],
            seconds=0.1 * (i + 1),
        )
        for i in range(n)
    ]
    return Curve.of(points)


def outcome(run: Run, loss: float, state: State = "finished") -> Outcome:
    """Return an outcome of `run` that ends at `loss`."""
    shape = curve(
        list(np.geomspace(2.3, max(loss, 1e-6), 10)) if np.isfinite(loss) else [2.3, loss]
    )
    shape = replace(shape, step=np.linspace(1, run.steps, len(shape)))
    return Outcome(run, str(hash(run)), state, shape, Result(1.0, run.examples))
