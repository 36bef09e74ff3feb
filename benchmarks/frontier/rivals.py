"""What other ways of choosing hyper-parameters reach for the same price, on the same workloads.

All train with the same loop, data and seeds, and search the same space; compute is counted alike
(`FinalRuns`). `cycles_*`: complete cycles of a quarter of the final length, the best configuration
trained at full length at the end. `tpe_median`, `tpe_hyperband`, `asha`: full-length trials that a
pruner of Optuna's ends, as most people run them; the best trial is the answer. `valley`,
`steepest`: the rules of fastai's and Lightning's learning-rate finders on a ramp of theirs, then
one full run with their schedule, weight decay and momentum at the defaults of the optimiser.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from lab import Lab
from suite import JUDGING, TUNING, WORKLOADS

from orchestrator import build
from orchestrator.curve import Outcome
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.prices import progress
from orchestrator.recipe import Recipe, Run
from orchestrator.schedules import Schedule
from orchestrator.stages import suggest
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.stage import cycle, run_of
from orchestrator.stages.tested import untuned

BUDGETS = (1, 2, 4, 6, 12, 24)
Answer = tuple[float, Recipe]  # final runs spent, the recipe to train


class Search:
    """A search on one workload: what it spent, and its best recipe after each trial."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.facts = lab, lab.facts
        self.base = build.recipe(lab.config, lab.facts)
        self.spent = 0.0
        self._prices = FinalRuns(self.facts, self.base.batch_size, 0, [])

    def pay(self, run: Run, share: float = 1.0) -> None:
        """Count a run."""
        self.spent += self._prices.of(run, share)

    def suggested(self, trial: optuna.Trial) -> Recipe:
        """Return a recipe from the space that all searches share."""
        adaptive = self.base.adaptive
        lr = trial.suggest_float("lr", 1e-5 if adaptive else 1e-4, 0.3 if adaptive else 3, log=True)
        momentum = 1 - trial.suggest_float("one_minus_momentum", 0.01, 0.2, log=True)
        decay = trial.suggest_float("weight_decay", 1e-6, 1.0 if adaptive else 0.1, log=True)
        sizes = [2**k for k in range(4, 10) if 2**k <= self.facts.train_examples // 2]
        size = trial.suggest_categorical("batch_size", sizes)
        made = replace(
            self.base,
            max_momentum=momentum,
            min_momentum=min(0.85, momentum),
            weight_decay=decay,
            batch_size=size,
        )
        return made.at_lr(lr)

    def loss(self, outcome: Outcome) -> float:
        """Return the held-out loss, that of chance for a lost run."""
        loss = outcome.held_out_loss
        return min(loss, self.facts.chance_loss) if math.isfinite(loss) else self.facts.chance_loss


def cycles(search: Search, sampler: optuna.samplers.BaseSampler) -> Iterator[Answer]:
    """Complete cycles of a quarter of the final length."""
    study = optuna.create_study(sampler=sampler)
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
    """Full-length trials that a pruner ends; the answer is one of those that ended."""
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    best: tuple[float, Recipe] | None = None
    while search.spent < max(BUDGETS):
        trial = study.ask()
        recipe = search.suggested(trial)
        outcome = search.lab.twin(full_run(recipe, search.facts))
        losses = outcome.curve.held_out_loss
        state, share = optuna.trial.TrialState.COMPLETE, progress(outcome)
        for point, loss in enumerate(losses, 1):
            trial.report(loss if math.isfinite(loss) else 1e9, point)
            if trial.should_prune() and point < len(losses):
                state, share = (
                    optuna.trial.TrialState.PRUNED,
                    float(outcome.curve.progress[point - 1]),
                )
                break
        search.pay(outcome.run, share)
        done = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, search.loss(outcome) if done else None, state)
        if done and (best is None or search.loss(outcome) < best[0]):
            best = search.loss(outcome), recipe
        if best is not None:
            yield search.spent, best[1]


def finder(search: Search, rule: str, start: float, end: float, schedule: str) -> Iterator[Answer]:
    """A learning-rate finder's ramp of 100 steps, then one run with its rate."""
    plain = replace(untuned(search.base, search.facts), batch_size=search.base.batch_size)
    base = replace(plain, schedule=schedule)
    ramp = run_of(
        base, Schedule("exponential_ramp", start, end, 0.9, 0.9), 100, 0, "finder",
        points=100, cost=1.0, kind="ramp", prunable=False,
    )  # fmt: skip
    curve = search.lab.outcome(replace(ramp, points=100, held_out_examples=1)).curve
    loss = np.where(np.isfinite(curve.train_loss), curve.train_loss, np.inf)
    lost = loss > 4 * np.minimum.accumulate(loss)  # both tools stop there
    count = int(np.argmax(lost)) if lost.any() else len(loss)
    found = suggest.RULES[rule](
        curve.lr[:count], suggest.smooth(loss[:count]), search.facts.start_loss
    )
    search.spent += ramp.examples / search.facts.final_examples
    yield search.spent + 1, base.at_lr(found or 1e-3)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    made: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
    }
    return made[name]()


def answers(search: Search, rival: str, seed: int) -> Iterator[Answer]:
    """Yield what a rival would answer as its spending grows."""
    if rival == "untuned":
        yield 1.0, untuned(search.base, search.facts)
    elif rival == "valley":
        yield from finder(search, "valley", 1e-7, 10, "fastai")
    elif rival == "steepest":
        yield from finder(search, "steepest", 1e-8, 1, "torch")
    elif rival.startswith("cycles_"):
        yield from cycles(search, _sampler(rival.removeprefix("cycles_"), seed))
    elif rival == "tpe_median":
        yield from pruned(search, _sampler("tpe", seed), optuna.pruners.MedianPruner())
    elif rival == "tpe_hyperband":
        bands = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=20, reduction_factor=3)
        yield from pruned(search, _sampler("tpe", seed), bands)
    elif rival == "asha":
        halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        yield from pruned(search, _sampler("random", seed), halving)
    else:
        raise SystemExit(f"no rival {rival}")


RIVALS = (
    "untuned", "valley", "steepest", "cycles_random", "cycles_tpe", "cycles_gp", "tpe_median",
    "tpe_hyperband", "asha",
)  # fmt: skip


def frontier(lab: Lab, rival: str) -> dict[int, Any]:
    """Return the test loss of a rival's answer at each budget that it needs no more than."""
    search, found = Search(lab), dict[int, Any]()
    last: Answer | None = None
    for spent, recipe in answers(search, rival, lab.seed):
        for budget in BUDGETS:
            if budget not in found and spent > budget + 1e-6 and last is not None:
                found[budget] = _tested(lab, *last)
        last = spent, recipe
    if last is not None:
        for budget in BUDGETS:
            if budget not in found and last[0] <= budget + 0.3:
                found[budget] = _tested(lab, *last)
    return found


def _tested(lab: Lab, spent: float, recipe: Recipe) -> dict[str, Any]:
    outcome = lab.twin(full_run(recipe, lab.facts, opens_test=True))
    loss = outcome.result.test_loss
    shown = {"max_lr": recipe.max_lr, "batch_size": recipe.batch_size, "decay": recipe.weight_decay}
    return {"spent": round(spent, 2), "test": loss if math.isfinite(loss) else None, **shown}


def main() -> None:
    """A line of JSON for each workload, seed and rival; cells that are there are skipped."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--workloads", default="judging", help="tuning, judging, or names")
    parse.add_argument("--rivals", default=",".join(RIVALS))
    parse.add_argument("--seeds", type=int, default=3)
    parse.add_argument("--cifar", help="where CIFAR-10 lies")
    parse.add_argument("--out", type=Path, required=True)
    args = parse.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    groups = {"tuning": TUNING, "judging": JUDGING}
    chosen = groups.get(args.workloads) or [WORKLOADS[n] for n in args.workloads.split(",")]
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    there = {(d["workload"], d["seed"], d["rival"]) for d in map(json.loads, lines)}
    for seed in range(args.seeds):
        for workload in chosen:
            if workload.needs_cifar and not args.cifar:
                continue
            for rival in args.rivals.split(","):
                if (workload.name, seed, rival) in there:
                    continue
                found = frontier(Lab(workload, seed, args.cifar), rival)
                line = {"workload": workload.name, "seed": seed, "rival": rival, "at": found}
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
