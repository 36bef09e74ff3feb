"""Halving over cycle length in plain Optuna: trials are compared by complete cycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna


def report_cycles(
    trial: optuna.Trial, lengths: Sequence[int], train: Callable[[int], float]
) -> float:
    """Train complete cycles of growing `lengths` until the pruner stops the trial.

    Losses in the middle of a run mislead while the learning rate is high; losses at the end of a
    cycle do not. The price is that the short cycles are trained in addition:

        lengths = [100, 200, 400]
        pruner = SuccessiveHalvingPruner(min_resource=lengths[0], reduction_factor=2)
        study = optuna.create_study(pruner=pruner)
        study.optimize(lambda trial: report_cycles(trial, lengths, cycle_of(trial)), n_trials=20)

    The longest cycle is never pruned, since it is complete when it is reported.

    Args:
        trial: The trial; each loss is reported to it at step = length.
        lengths: Lengths of the cycles in steps or epochs, increasing.
        train: `train(length)` trains from scratch by a whole cycle of this length and returns its
            held-out loss.

    Returns:
        The held-out loss at the end of the longest cycle.

    Raises:
        optuna.TrialPruned: The study's pruner stops the trial.
        ValueError: `lengths` are not positive and increasing.
    """
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"lengths must be positive and increasing, got {list(lengths)}")
    loss = float("nan")
    for length in lengths:
        loss = train(length)
        trial.report(loss, length)
        if length != lengths[-1] and trial.should_prune():
            raise optuna.TrialPruned(f"after a cycle of {length}: held-out loss {loss:.4g}")
    return loss
