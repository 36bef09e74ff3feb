import math

import optuna
import pytest

from orchestrator.pruners import CluePruner

CHANCE = math.log(10)


@pytest.mark.parametrize(
    ("losses", "pruned_at", "why"),
    [
        ([2.3, 1.5, math.nan, 1.0], 2, "diverged: held-out loss is not finite"),
        ([2.3, 1.5, math.inf, 1.0], 2, "diverged: held-out loss is not finite"),
        ([2.3, 2.9, 3.3, 3.9], 2, "diverged: held-out loss 3.3 is above 1.3 x chance"),
        ([2.3] * 12, 5, "stuck: 3 points in a row at chance"),
        ([2.3, 2.0, 1.5, 2.9, 1.2, 1.0], None, ""),
        ([2.3, 1.0, 2.2, 0.9, 0.8, 0.7], None, ""),
    ],
)
def test_plain_optuna_trials_are_judged_by_their_own_curve(
    losses: list[float], pruned_at: int | None, why: str
) -> None:
    """With `trial.report` alone; a rise below 1.3 x chance, however steep, prunes nothing."""
    pruner = CluePruner(chance_loss=CHANCE, total_steps=len(losses) - 1)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    stopped = None
    for step, loss in enumerate(losses):
        trial.report(loss, step)
        if trial.should_prune():
            stopped = step
            break
    assert stopped == pruned_at
    assert pruner.reason(trial.number).startswith(why)


def test_the_first_value_stands_in_for_an_unknown_chance_loss() -> None:
    """Without `chance_loss` a loss that climbs 30 % above its start is lost."""
    study = optuna.create_study(pruner=CluePruner())
    trial = study.ask()
    trial.report(1.0, 0)
    assert not trial.should_prune()
    trial.report(1.4, 1)
    assert trial.should_prune()
