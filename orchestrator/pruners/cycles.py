"""Halving over cycle length in plain Optuna: trials are compared by complete cycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna


def report_cycles(
    trial: optuna.Trial, lengths: Sequence[int], train: Callable[[int], float]
) -> float:
    """Train complete cycles of growing `lengths` until the pruner stops; return the last end loss.

    `train(length)` trains from scratch by a whole cycle of that many steps (or epochs) and returns
    its held-out loss; it is reported at step = `length`. Mid-run losses mislead while the learning
    rate is high, the ends of cycles do not, at the price of training the short ones in addition:

        lengths = [100, 200, 400]
        pruner = SuccessiveHalvingPruner(min_resource=lengths[0], reduction_factor=2)
        study = optuna.create_study(pruner=pruner)
        study.optimize(lambda trial: report_cycles(trial, lengths, cycle_of(trial)), n_trials=20)

    The longest cycle is never pruned: it has been paid for. Raises TrialPruned where the study's
    pruner says so, ValueError unless `lengths` grow.
    """
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"lengths must be positive and grow, got {list(lengths)}")
    loss = float("nan")
    for length in lengths:
        loss = train(length)
        trial.report(loss, length)
        if length != lengths[-1] and trial.should_prune():
            raise optuna.TrialPruned(f"after a cycle of {length}: held-out loss {loss:.4g}")
    return loss
