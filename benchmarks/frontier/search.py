"""Searches with the same space, loop and prices: complete short cycles, and pruned full runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import optuna
from lab import Lab

from orchestrator import build
from orchestrator.curve import Outcome, Point
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.prices import progress
from orchestrator.recipe import Recipe, Run
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.stage import cycle

BUDGETS = (1, 2, 4, 6, 12, 24)
LOST = 1e9  # what a pruner is told of a loss that is not finite
Answer = tuple[float, Recipe]  # final runs spent, the recipe to train


class Search:
    """A search on one workload: what it spent, and the space that all searches share."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.facts = lab, lab.facts
        self.base = build.recipe(lab.config, lab.facts)
        self.spent = 0.0
        self.sizes = [2**k for k in range(4, 10) if 2**k <= self.facts.train_examples // 2]
        self._prices = FinalRuns(self.facts, self.base.batch_size, 0, [])

    def pay(self, run: Run, share: float = 1.0) -> None:
        """Count a run, or a share of it."""
        self.spent += self._prices.of(run, share)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of what is searched on a log scale; the batch size is one of
        `sizes`.
        """
        adaptive = self.base.adaptive
        return {
            "lr": (1e-5, 0.3) if adaptive else (1e-4, 3.0),
            "one_minus_momentum": (0.01, 0.2),
            "weight_decay": (1e-6, 1.0 if adaptive else 0.1),
        }

    def recipe(
        self, lr: float, one_minus_momentum: float, weight_decay: float, batch_size: int
    ) -> Recipe:
        """Return the recipe of a point of the space."""
        momentum = 1 - one_minus_momentum
        made = replace(
            self.base,
            max_momentum=momentum,
            min_momentum=min(0.85, momentum),
            weight_decay=weight_decay,
            batch_size=batch_size,
        )
        return made.at_lr(lr)

    def suggested(self, trial: optuna.Trial) -> Recipe:
        """Return the recipe that Optuna suggests."""
        drawn = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in self.ranges.items()
        }
        return self.recipe(**drawn, batch_size=trial.suggest_categorical("batch_size", self.sizes))

    def loss(self, outcome: Outcome) -> float:
        """Return the held-out loss, that of chance for a lost run."""
        loss = outcome.held_out_loss
        return min(loss, self.facts.chance_loss) if math.isfinite(loss) else self.facts.chance_loss

    def study(
        self, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner | None = None
    ) -> optuna.Study:
        """Return an Optuna study; Hyperband draws its brackets by the study's name."""
        name = f"{self.lab.workload.name}-{self.lab.seed}"
        return optuna.create_study(study_name=name, sampler=sampler, pruner=pruner)


def cycles(search: Search, sampler: optuna.samplers.BaseSampler) -> Iterator[Answer]:
    """Complete cycles of a quarter of the final length."""
    study = search.study(sampler)
    best = math.inf, search.base
    while search.spent < max(BUDGETS) - 1:
        trial = study.ask()
        recipe = search.suggested(trial)
        run = cycle(recipe, search.facts.steps(0.25, recipe.batch_size), 0, "trial")
        loss = search.loss(search.lab.outcome(run))
        search.pay(run)
        study.tell(trial, loss)
        best = min(best, (loss, recipe), key=lambda pair: pair[0])
        yield search.spent + 1, best[1]


def pruned(
    search: Search, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
) -> Iterator[Answer]:
    """Full-length trials that a pruner stops; the answer is one of those that ended."""
    study = search.study(sampler, pruner)
    best: tuple[float, Recipe] | None = None
    while search.spent < max(BUDGETS):
        trial = study.ask()
        recipe = search.suggested(trial)
        run = full_run(recipe, search.facts)
        outcome = search.lab.until(replace(run, opens_test=True), _asked(trial))
        search.pay(run, progress(outcome))
        if outcome.reason == "stopped":
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            loss = search.loss(outcome)
            study.tell(trial, loss)
            best = min(best or (loss, recipe), (loss, recipe), key=lambda pair: pair[0])
        if best is not None:
            yield search.spent, best[1]


def _asked(trial: optuna.Trial) -> Callable[[Point], bool]:
    """Return what reports to Optuna and asks its pruner; reports are numbered from 1."""
    count = 0

    def stops(point: Point) -> bool:
        nonlocal count
        count += 1
        trial.report(point.held_out_loss if math.isfinite(point.held_out_loss) else LOST, count)
        return trial.should_prune()

    return stops
