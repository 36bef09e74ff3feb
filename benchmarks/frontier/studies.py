"""Whole studies on the workloads, run by run from the cache: cost in final runs, and test loss."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import Lab
from suite import JUDGING, TUNING, WORKLOADS

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.plan.budget import Budget
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.plan.pace import Pace
from orchestrator.recipe import Run
from orchestrator.stages.expected.answer import Answer


def study(lab: Lab, cifar: str | None, **changes: Any) -> dict[str, Any]:
    """Walk a study to its end; return costs in final runs and test losses (nats, or the loss's)."""
    config = Config.from_mapping(lab.workload.mapping(lab.seed, cifar, **changes))
    facts, recipe = lab.facts, build.recipe(config, lab.facts)
    done: list[Outcome] = []
    stages = build.stages(config, facts)

    def known(run: Run) -> Outcome | None:
        return next((o for o in done if o.run == run), None)

    def price(outcomes: Sequence[Outcome]) -> FinalRuns:
        return FinalRuns(facts, config.recipe.batch_size, 0, outcomes)

    pace = Pace(stages, facts, lambda: 0.0, known)
    budget = Budget(pace, None, config.budget.final_runs, price)
    told: dict[str, Any] = {"decisions": {}, "cost": {}, "reasons": {}}

    def run_round(runs: list[Run]) -> list[Outcome]:
        outcomes = [known(run) or lab.twin(run) if run.kept else lab.outcome(run) for run in runs]
        done.extend(outcomes)
        if any(run.kept for run in runs):  # a network that Ctrl-C would leave, tested
            told.setdefault("trained", round(price(done).spent(done), 3))
        return outcomes

    for stage in stages:
        fitting = budget.final_that_fits(stage, recipe) or stage
        decision, _ = budget.walk(fitting, recipe, run_round)
        if decision is None and isinstance(stage, Answer):  # as `study.walk` does
            smaller = budget.tested_as_it_is(stage, recipe)
            decision, _ = budget.walk(smaller or stage, recipe, run_round)
        if decision is None:
            break
        recipe = recipe.with_(decision)
        own = [o for o in done if "untuned" not in o.run.label]
        told["cost"][stage.name] = round(price(own).spent(own), 3)
        told["total"] = round(price(done).spent(done), 3)
        told["decisions"][stage.name] = dict(decision.values)
        told["reasons"][stage.name] = decision.reason
        if not decision.answered:
            break
    else:
        evidence = decision.evidence
        told["test"] = evidence["test_loss"]["mean"]
        told["baselines"] = {b["name"]: b["test_loss"]["mean"] for b in evidence["baselines"]}
    return told


def main() -> None:
    """Run studies; a line of JSON each, and those that are there are skipped."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--workloads", default="tuning", help="tuning, judging, or names")
    parse.add_argument("--seeds", type=int, default=3)
    parse.add_argument("--effort", default="standard")
    parse.add_argument("--cifar", help="where CIFAR-10 lies")
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    groups = {"tuning": TUNING, "judging": JUDGING}
    chosen = groups.get(args.workloads) or [WORKLOADS[n] for n in args.workloads.split(",")]
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    there = {(d["workload"], d["seed"], d["effort"]) for d in map(json.loads, lines)}
    for workload in chosen:
        if workload.needs_cifar and not args.cifar:
            continue
        for seed in range(args.seeds):
            if (workload.name, seed, args.effort) in there:
                continue
            lab = Lab(workload, seed, args.cifar)
            told = study(lab, args.cifar, effort=args.effort)
            line = {"workload": workload.name, "seed": seed, "effort": args.effort, **told}
            print(json.dumps(line), file=sys.stderr, flush=True)
            test, first = told.get("test"), told.get("baselines", {}).get("range_test_only")
            base = told.get("baselines", {}).get("untuned")
            ratios = [math.log(test / b) if test and b else math.nan for b in (first, base)]
            print(
                f"{workload.name:14s} {seed} H {list(told['cost'].values())} all {told['total']}"
                f" test {test or math.nan:.4g}; log ratio to the first recipe {ratios[0]:+.3f},"
                f" to untuned {ratios[1]:+.3f}",
                flush=True,
            )
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
