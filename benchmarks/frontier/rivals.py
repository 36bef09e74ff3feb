"""What other ways of choosing hyper-parameters reach for the same price, on the same workloads.

All train with the same loop, data and seeds, and search the same space; compute is counted alike
(`FinalRuns`). A line of JSON for each workload, seed and rival; a command that is cut off goes on
where it was, since runs that have ended are kept.

- `untuned`: the defaults.
- `valley`, `steepest`: the rules of fastai's and Lightning's learning-rate finders on a ramp of
  theirs, then one full run with their schedule (`fit_one_cycle`, `OneCycleLR`), weight decay and
  momentum at the defaults of the optimiser.
- `prodigy`, `schedule_free`: one full run of an optimiser that is used to do without a learning
  rate (ready.py). They need the packages prodigyopt and schedulefree.
- `cycles_random`, `cycles_tpe`, `cycles_gp`: complete cycles of a quarter of the final length; the
  best configuration is trained at full length at the end.
- `tpe_median`, `tpe_hyperband`, `asha`: full-length trials that a pruner of Optuna's stops, as most
  people run them; the best of those that ended is the answer.
- `priorband`: PriorBand, the untuned recipe as its prior and first trial (priorband.py). It needs
  the package neural-pipeline-search, whose many dependencies are best installed into a folder of
  their own: `pip install --target FOLDER neural-pipeline-search`, and FOLDER on PYTHONPATH.

A rival whose package is missing is left out. What a search itself computes is not counted:
GPSampler takes 18 s for 92 trials.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import priorband
import ready
from lab import Lab
from page import SLACK
from search import BUDGETS, Answer, Search, cycles, pruned
from suite import JUDGING, TUNING, WORKLOADS

from orchestrator.recipe import Recipe
from orchestrator.schedules import Schedule
from orchestrator.stages import suggest
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.stage import run_of
from orchestrator.stages.tested import untuned

# The cheap ones first, GPSampler last.
RIVALS = (
    "untuned", "valley", "steepest", "prodigy", "schedule_free", "cycles_random", "cycles_tpe",
    "asha", "tpe_median", "tpe_hyperband", "priorband", "cycles_gp",
)  # fmt: skip
PACKAGES = {  # what some rivals import, and the package's name
    "prodigy": ("prodigyopt", "prodigyopt"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "priorband": ("neps", "neural-pipeline-search"),
}


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
    elif rival == "priorband":
        yield from priorband.answers(search, seed)
    else:
        raise SystemExit(f"no rival {rival}")


def frontier(lab: Lab, rival: str) -> dict[int, Any]:
    """Return the test loss of a rival's answer at each budget that it needs no more than."""
    if rival in ready.PACKAGES:
        test = _finite(ready.tested(lab, rival).result.test_loss)
        return {budget: {"spent": 1.0, "test": test} for budget in BUDGETS}
    search = Search(lab)
    chosen: dict[int, Answer] = {}
    last: Answer | None = None
    for spent, recipe in answers(search, rival, lab.seed):
        for budget in BUDGETS:
            if last is not None and spent > budget + 1e-6:
                chosen.setdefault(budget, last)
        last = spent, recipe
    for budget in BUDGETS:
        if last is not None:
            chosen.setdefault(budget, last)
    return {b: _tested(lab, *a) for b, a in chosen.items() if a[0] <= b + SLACK}


def _tested(lab: Lab, spent: float, recipe: Recipe) -> dict[str, Any]:
    outcome = lab.twin(full_run(recipe, lab.facts, opens_test=True))
    shown = {"max_lr": recipe.max_lr, "batch_size": recipe.batch_size, "decay": recipe.weight_decay}
    return {"spent": round(spent, 2), "test": _finite(outcome.result.test_loss), **shown}


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _installed(rivals: list[str]) -> list[str]:
    """Return the rivals whose packages are there; the others are named."""
    missing = [r for r in rivals if r in PACKAGES and find_spec(PACKAGES[r][0]) is None]
    for rival in missing:
        print(f"{rival} is left out: it needs the package {PACKAGES[rival][1]}", file=sys.stderr)
    return [r for r in rivals if r not in missing]


def main() -> None:
    """Write the lines, seed by seed and rival by rival; those that are there are skipped."""
    parse = argparse.ArgumentParser(description=main.__doc__)
    parse.add_argument("--workloads", default="judging", help="tuning, judging, or names")
    parse.add_argument("--rivals", default=",".join(RIVALS))
    parse.add_argument("--seeds", type=int, default=3)
    parse.add_argument("--cifar", help="where CIFAR-10 lies")
    parse.add_argument("--out", type=Path, required=True)
    args = parse.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    groups = {"tuning": TUNING, "judging": JUDGING}
    asked = groups.get(args.workloads) or [WORKLOADS[n] for n in args.workloads.split(",")]
    chosen = [w for w in asked if args.cifar or not w.needs_cifar]
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    there = {(d["workload"], d["seed"], d["rival"]) for d in map(json.loads, lines)}
    rivals = _installed(args.rivals.split(","))
    for seed in range(args.seeds):
        lab = cache(lambda name, seed=seed: Lab(WORKLOADS[name], seed, args.cifar))
        for rival in rivals:
            for workload in chosen:
                if (workload.name, seed, rival) in there:
                    continue
                own, start = lab(workload.name), time.process_time()
                found = frontier(own, rival)
                seconds = round(time.process_time() - start, 1)  # of what was not known before
                named = {"workload": workload.name, "seed": seed, "rival": rival}
                print(*named.values(), f"{seconds} s", file=sys.stderr, flush=True)
                line = {**named, "processor_seconds": seconds, "at": found}
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
