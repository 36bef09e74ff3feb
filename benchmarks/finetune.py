"""Learning rates for AdamW on pretrained networks, and on one that is slow to begin.

    python benchmarks/finetune.py grid --cifar WHERE
    python benchmarks/finetune.py rules --cifar WHERE
    python benchmarks/finetune.py table

`grid`: final runs at rates a factor of 2 apart, several seeds each. `rules`: what each rule says
for ten study seeds. `table`: a rule's rate is judged by the mean log test loss of the grid,
interpolated between its rates. So a seed's luck is in the rate that a rule finds, not in the loss
by which it is judged. Each line of a JSON file is one result; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

HOME = Path(__file__).resolve().parent
sys.path += [str(HOME), str(HOME / "frontier"), str(HOME.parent)]

from lab import Lab
from suite import WORKLOADS as FRONTIER
from suite import Workload

from orchestrator import build, lr_range_test
from orchestrator.plan.final_runs import FinalRuns
from orchestrator.recipe import Decision, Run
from orchestrator.schedules import Schedule
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.ramps import round_to
from orchestrator.stages.stage import run_of, walk

RESULTS = HOME / ".cache" / "finetune.jsonl"
LOWEST = {"lora": 4e-4, "vit": 4e-4, "cifar_resnet_adam": 8e-4}
RATES = 8  # of the grid, others 1e-4
GRID_SEEDS, SEEDS = 2, 10
NEAR, CLIFF = 1.05, 1.5  # x the loss of the best rate


def _workload(
    name: str, epochs: int, model: str, data: str, size: int, needs_cifar: bool
) -> Workload:
    config = {
        "data": {"_target_": f"finetune_parts.pretrained.{data}"},
        "model": {"_target_": f"finetune_parts.pretrained.{model}"},
        "optimizer": {"name": "adamw"},
        "recipe": {"batch_size": size},
        "stages": {"final": {"epochs": epochs}},
    }
    return Workload(name, "overfits", config, needs_cifar)


def _adam(workload: Workload) -> Workload:
    """Return a workload of the frontier, trained with AdamW."""
    config = {**workload.config, "optimizer": {"name": "adamw"}}
    return Workload(f"{workload.name}_adam", workload.regime, config, workload.needs_cifar)


# The rule was tuned on the first two; the others were named as judges before it was made. Then
# `resnet_cifar` showed that batch norm needs a rule of its own. So it tunes too, and
# `cifar_resnet_adam`, which was named before it was run, took its place.
TUNING = (
    _workload("text", 12, "characters", "manual", 16, False),
    FRONTIER["vit"],
    _workload("resnet_cifar", 5, "resnet", "new_classes", 32, True),
)
JUDGING = (
    _workload("lora", 12, "adapters", "manual", 16, False),
    _workload("vit_cifar", 5, "vit", "new_classes", 32, True),
    _adam(FRONTIER["cifar_resnet"]),
)
WORKLOADS = {w.name: w for w in (*TUNING, *JUDGING)}


class PretrainedLab(Lab):
    """A workload whose network needs CIFAR-10 as well as its data."""

    def __init__(self, workload: Workload, seed: int, cifar: str | None) -> None:
        config = dict(workload.config)
        if workload.needs_cifar and "_target_" in config["model"]:
            config["model"] = {**config["model"], "path": cifar}
        super().__init__(
            Workload(workload.name, workload.regime, config, workload.needs_cifar), seed, cifar
        )


# --- rules


def stage(lab: Lab) -> tuple[float | None, float, Decision]:
    """What the stage `lr_range` of a study decides, at the default effort."""
    recipe = build.recipe(lab.config, lab.facts)
    own = next(s for s in build.stages(lab.config, lab.facts) if s.name == "lr_range")
    decision, outcomes = walk(own, recipe, lab.outcomes)
    prices = FinalRuns(lab.facts, recipe.batch_size, 0, [])
    spent = prices.spent(outcomes)
    return decision.values.get("max_lr"), spent, decision


def best_cycle(lab: Lab) -> tuple[float | None, float, Decision]:
    """The best rate of the same cycles as it is: not lowered, not between two of them."""
    _, spent, decision = stage(lab)
    rows = [r for r in decision.evidence["rows"] if r["held_out_loss"] is not None]
    last = [r for r in rows if r["steps"] == rows[-1]["steps"]]
    return min(last, key=lambda r: r["held_out_loss"])["max_lr"], spent, decision


def alone(lab: Lab, **options: Any) -> tuple[float | None, float, Decision]:
    """What `lr_range_test` says in a script with the same model, data and optimiser."""
    setup: Any = lab.objective._setup  # type: ignore[attr-defined]
    model = setup.network(0)
    decay = build.recipe(lab.config, lab.facts).weight_decay
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=decay)
    size = lab.config.recipe.batch_size
    parts = setup.inputs.train, setup.inputs.held_out
    (x, y), held_out = ((setup.inputs.normalised(part.x), part.y) for part in parts)
    order = torch.Generator().manual_seed(lab.seed)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), size, shuffle=True, drop_last=True, generator=order
    )

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(scores.flatten(0, -2), targets.flatten())

    found = lr_range_test(
        model, loss, loader, held_out, optimizer=optimizer, seed=lab.seed,
        **options,
    )  # fmt: skip
    spent = sum(o.result.examples for o in found.outcomes) / lab.facts.final_examples
    return found.max_lr, spent, found.decision


def alone_for_length(lab: Lab) -> tuple[float | None, float, Decision]:
    """The same with the length of the training."""
    steps = lab.facts.steps(1, lab.config.recipe.batch_size)
    return alone(lab, final_steps=steps, schedule="paper")


def _train_losses(lab: Lab, start: float, end: float, beta: float, stop: float) -> Any:
    """Return rates and smoothed train losses of a finder's ramp of 100 steps."""
    recipe = build.recipe(lab.config, lab.facts)
    ramp = run_of(
        recipe, Schedule("exponential_ramp", start, end, 0.9, 0.9), 100, 0, "finder",
        points=100, cost=1.0, kind="ramp", prunable=False,
    )  # fmt: skip
    from dataclasses import replace

    curve = lab.outcome(replace(ramp, points=100, held_out_examples=1)).curve
    mean, smoothed = 0.0, []
    for step, value in enumerate(curve.train_loss, 1):
        mean = beta * mean + (1 - beta) * value
        smoothed.append(mean / (1 - beta**step))
        if not smoothed[-1] <= stop * min(smoothed):
            break
    return curve.lr[: len(smoothed)], np.array(smoothed)


def fastai(lab: Lab) -> tuple[float | None, float, None]:
    """Fastai's `valley`: 1e-7 to 10, losses of the steps 10 to -5."""
    lr, loss = _train_losses(lab, 1e-7, 10, 0.98, 4)
    lr, loss = lr[10:-5], loss[10:-5]
    from orchestrator.stages.suggest import valley

    return valley(lr, loss, math.nan), 100 * _step(lab), None


def lightning(lab: Lab) -> tuple[float | None, float, None]:
    """Lightning's steepest: 1e-8 to 1, by step, without the first 10 and the last."""
    lr, loss = _train_losses(lab, 1e-8, 1, 0.98, 4)
    return _steepest(lr[10:-1], loss[10:-1]), 100 * _step(lab), None


def torch_lr_finder(lab: Lab) -> tuple[float | None, float, None]:
    """torch-lr-finder's steepest: 1e-7 to 10, smooth_f .05, without the first 10 and last 5."""
    lr, loss = _train_losses(lab, 1e-7, 10, 0.95, 5)
    return _steepest(lr[10:-5], loss[10:-5]), 100 * _step(lab), None


def _steepest(lr: Any, loss: Any) -> float | None:
    return float(lr[np.argmin(np.gradient(loss))]) if len(lr) > 1 else None


def _step(lab: Lab) -> float:
    return float(lab.config.recipe.batch_size / lab.facts.final_examples)


def usual(lab: Lab) -> tuple[float | None, float, None]:
    """torch's default."""
    return 1e-3, 0.0, None


RULES: Mapping[str, Callable[[Lab], tuple[float | None, float, Decision | None]]] = {
    "stage": stage,
    "best_cycle": best_cycle,
    "alone": alone,
    "alone_for_length": alone_for_length,
    "fastai": fastai,
    "lightning": lightning,
    "torch_lr_finder": torch_lr_finder,
    "usual": usual,
}


# --- results


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _write(file: Path, line: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line)[:300], flush=True)


def grid(lab: Lab, lr: float) -> dict[str, Any]:
    """Train at a rate and test."""
    recipe = build.recipe(lab.config, lab.facts).at_lr(lr)
    run: Run = full_run(recipe, lab.facts, opens_test=True)
    outcome = lab.twin(run)
    return {"held_out": outcome.held_out_loss, "test": outcome.result.test_loss}


def rates(workload: str) -> list[float]:
    """Return the rates of the grid, a factor of 2 apart."""
    return [round_to(LOWEST.get(workload, 1e-4) * 2**n) for n in range(RATES)]


def curve(lines: list[dict[str, Any]], workload: str) -> tuple[list[float], list[float]]:
    """Return rates and mean log test loss; a lost run counts as chance."""
    chance = next(d["chance"] for d in lines if d["workload"] == workload and "chance" in d)
    by_lr: dict[float, list[float]] = defaultdict(list)
    for d in lines:
        if d["workload"] == workload and d["kind"] == "grid":
            test = d["test"] if math.isfinite(d["test"]) else math.inf
            by_lr[d["lr"]].append(math.log(min(test, 10 * chance)))
    lrs = sorted(by_lr)
    return lrs, [fmean(by_lr[lr]) for lr in lrs]


def excess(lines: list[dict[str, Any]], workload: str, lr: float | None) -> float:
    """Return the loss at a rate as a multiple of the grid's best; inf without a rate."""
    if lr is None:
        return math.inf
    lrs, logs = curve(lines, workload)
    return math.exp(float(np.interp(math.log(lr), np.log(lrs), logs)) - min(logs))


def table(lines: list[dict[str, Any]]) -> str:
    """Return a markdown table: rule against workload."""
    names = [w for w in WORKLOADS if any(d["workload"] == w for d in lines)]
    rows = []
    for workload in names:
        lrs, logs = curve(lines, workload)
        best = lrs[int(np.argmin(logs))]
        near = [lr for lr, v in zip(lrs, logs, strict=True) if v - min(logs) < math.log(NEAR)]
        rows.append(
            f"**{workload}**: best {best:g}, within 5 % {near[0]:g} to {near[-1]:g}, loss"
            f" {math.exp(min(logs)):.3f}\n"
        )
        rows += [
            "| rule | rates | loss / best, median | worst | within 5 % | beyond the cliff | H |"
        ]
        rows += ["| --- | --- | --- | --- | --- | --- | --- |"]
        rules = dict.fromkeys(d["rule"] for d in lines if d["kind"] == "rule")
        for rule in rules:
            own = [d for d in lines if d.get("rule") == rule and d["workload"] == workload]
            if not own:
                continue
            found = sorted(d["lr"] for d in own if d["lr"])
            ratios = [excess(lines, workload, d["lr"]) for d in own]
            beyond = [r > CLIFF and (d["lr"] or 0) > best for r, d in zip(ratios, own, strict=True)]
            rows.append(
                f"| {rule} | {found[0]:.2g} to {found[-1]:.2g} | {np.median(ratios):.2f} |"
                f" {max(ratios):.2f} | {sum(r <= NEAR for r in ratios)} of {len(own)} |"
                f" {sum(beyond)} | {fmean(d['spent'] for d in own):.2f} |"
            )
        rows.append("")
    return "\n".join(rows)


def main() -> None:
    """Make what is missing, or print the table."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("what", choices=("grid", "rules", "table"))
    parse.add_argument("--workloads", default=",".join(WORKLOADS))
    parse.add_argument("--rules", default=",".join(RULES))
    parse.add_argument("--seeds", type=int)
    parse.add_argument("--cifar", help="where CIFAR-10 lies")
    parse.add_argument("--as", dest="suffix", default="", help="appended to the rules' names")
    parse.add_argument("--out", type=Path, default=RESULTS)
    args = parse.parse_args()
    torch.set_num_threads(1)
    if args.what == "table":
        print(table(_read(args.out)))
        return
    seeds = args.seeds or (GRID_SEEDS if args.what == "grid" else SEEDS)
    there = {
        (d["workload"], d["seed"], d.get("lr") if d["kind"] == "grid" else d["rule"])
        for d in _read(args.out)
    }
    for seed in range(seeds):
        for workload in (WORKLOADS[name] for name in args.workloads.split(",")):
            if workload.needs_cifar and not args.cifar:
                continue
            items: list[Any] = [r + args.suffix for r in args.rules.split(",")]
            if args.what == "grid":
                items = rates(workload.name)
            if all((workload.name, seed, item) in there for item in items):
                continue
            lab = PretrainedLab(workload, seed, args.cifar)
            line: dict[str, Any] = {"workload": workload.name, "seed": seed}
            for item in items:
                if (workload.name, seed, item) in there:
                    continue
                if args.what == "grid":
                    made = {"kind": "grid", "lr": item, "chance": lab.facts.chance_loss}
                    _write(args.out, {**line, **made, **grid(lab, item)})
                    continue
                lr, spent, why = RULES[item.removesuffix(args.suffix)](lab)
                reason = why.reason if why else ""
                made = {"kind": "rule", "rule": item, "lr": lr, "spent": spent, "reason": reason}
                _write(args.out, {**line, **made})


if __name__ == "__main__":
    main()
