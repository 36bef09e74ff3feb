"""A plausible study made of made-up curves, for the tests of the report (and to look at it).

`python -m tests.records FOLDER` writes its report there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.clues import Clue, read
from orchestrator.curve import Curve, Outcome, Point, Result, State
from orchestrator.recipe import Decision, Recipe, Run, RunKind
from orchestrator.record import StageRecord, Status, StudyRecord
from orchestrator.schedules import Schedule

CHANCE = math.log(10)


def run(
    label: str,
    *,
    lr: float = 0.06,
    momentum: float = 0.9,
    kind: RunKind = "train",
    schedule: str = "paper",
    **fields: Any,
) -> Run:
    """Return a run; `fields` replace its defaults."""
    defaults = {"weight_decay": 5e-4, "batch_size": 64, "steps": 240, "replicate": 0}
    bounds = Schedule(schedule, lr / 10, lr, min(0.85, momentum), momentum)
    return Run(kind=kind, schedule=bounds, label=label, **{**defaults, **fields})


def falling(
    r: Run,
    end: float,
    *,
    gap: float = 0.05,
    metric: bool = True,
    seconds: float = 4.0,
    until: float = 1.0,
    noise: float = 0.02,
) -> Curve:
    """Return a curve that falls from chance to `end` and stops at the fraction `until`."""
    rng = np.random.default_rng(zlib.crc32(f"{r.label} {r.steps}".encode()))
    points = []
    for step in r.report_steps():
        progress = step / r.steps
        if progress > until:
            break
        lr, momentum = r.schedule.at(progress)
        loss = end + (CHANCE - end) * math.exp(-5 * progress) * (1 + noise * rng.standard_normal())
        accuracy = max(0.1, 1 - 0.28 * loss) if metric else math.nan
        points.append(
            Point(step, progress, lr, momentum, loss - gap, loss, accuracy, seconds * progress)
        )
    return Curve.of(points)


def outcome(
    r: Run,
    curve: Curve,
    state: State = "finished",
    reason: str = "",
    test: tuple[float, float] = (math.nan, math.nan),
) -> Outcome:
    """Return an outcome whose key is its label."""
    examples = int(curve.step[-1]) * r.batch_size if len(curve) else 0
    seconds = float(curve.seconds[-1]) if len(curve) else 0.0
    result = Result(seconds, examples, test_loss=test[0], test_metric=test[1])
    return Outcome(r, f"{r.label}/{r.steps}", state, curve, result, reason)


def clues(outcomes: Sequence[Outcome]) -> dict[str, Clue]:
    """Return what a study reads off the curves of its training runs."""
    return {o.key: read(o.curve, CHANCE) for o in outcomes if o.run.kind == "train"}


def ramp(seed: int, low: float, high: float, schedule: str, cliff: float = 0.25) -> Outcome:
    """Return a ramp whose held-out loss falls from chance and explodes beyond `cliff`."""
    name = "bracket" if schedule == "exponential_ramp" else "ramp"
    r = replace(
        run(
            f"{name} to {high:.2g} seed {seed}", lr=high, kind="ramp", schedule=schedule, points=60
        ),
        schedule=Schedule(schedule, low, high, 0.85, 0.9),
        replicate=seed,
    )
    rng = np.random.default_rng(seed)
    points = []
    for step in r.report_steps():
        lr, momentum = r.schedule.at(step / r.steps)
        learnt = 1 / (1 + (0.012 / lr) ** 1.1)
        loss = CHANCE - 1.9 * learnt + (lr / cliff) ** 4 + 0.04 * rng.standard_normal()
        points.append(
            Point(
                step, step / r.steps, lr, momentum, loss - 0.1, loss, math.nan, 3 * step / r.steps
            )
        )
        if loss > 1.5 * CHANCE:
            break
    return outcome(r, Curve.of(points))


def lr_range_stage() -> StageRecord:
    """Two brackets and two linear ramps that agree on about 0.063."""
    ramps = [ramp(0, 1e-4, 10, "exponential_ramp")]
    ramps += [ramp(seed, 0.01, 0.4, "range_test") for seed in (1, 2)]

    def smooth(loss: Any) -> list[float]:
        padded = np.pad(loss, 3, mode="edge")
        return [float(v) for v in np.convolve(padded, np.ones(7) / 7, "valid")]

    rules = {"within_drop": 0.0631, "steepest": 0.0215, "minimum_over_10": 0.0133, "valley": None}
    decision = Decision(
        "lr_range",
        "lr_range",
        "max_lr 0.0631: the last rate at which held-out loss stays near its minimum, median of 2"
        " ramps (0.0583 to 0.0687)",
        {"max_lr": 0.0631, "min_lr": 0.00631},
        interval=(0.0583, 0.0687),
        evidence={
            "rules": rules,
            "rows": [
                {
                    "rule": k,
                    "lr, median of the ramps": v,
                    "used": "0.4 of it" if k == "within_drop" else "",
                }
                for k, v in rules.items()
            ],
        },
    )
    return StageRecord(decision, Recipe().with_(decision), tuple(ramps), {})


def momentum_stage(recipe: Recipe) -> StageRecord:
    """Four candidates at two horizons; .99 is pruned, .95 and .97 tie."""
    ends = {0.99: 3.0, 0.97: 0.31, 0.95: 0.3, 0.9: 0.42}
    outcomes = []
    for steps in (240, 480):
        for value, end in ends.items():
            for seed in (0, 1):
                r = run(
                    f"momentum {value} seed {seed}", momentum=value, steps=steps, replicate=seed
                )
                if value == 0.99:
                    curve = Curve.of(
                        [
                            Point(12 * i, 0.05 * i, 0.01, 0.99, CHANCE * 1.2**i, CHANCE * 1.3**i)
                            for i in range(1, 5)
                        ]
                    )
                    reason = "above chance and rising for 2 points (5.06 at step 36)"
                    outcomes.append(outcome(r, curve, "pruned", reason))
                elif steps == 240 or value > 0.9:
                    outcomes.append(outcome(r, falling(r, end - 0.05 * (steps > 240))))
    decision = Decision(
        "momentum",
        "momentum",
        "max_momentum 0.95: held-out loss 0.251 at 480 steps, 21 % below 0.9 (noise 6 %)",
        {"max_momentum": 0.95},
        interval=(0.95, 0.97),
        tied_with=(0.97,),
        evidence={
            "field": "max_momentum",
            "rows": [
                {
                    "max_momentum": value,
                    "steps": 240,
                    "seeds": 2,
                    "held_out_loss": end if end < 1 else None,
                    "against incumbent": "incumbent"
                    if value == 0.9
                    else f"{end / 0.42 - 1:+.0%}"
                    if end < 1
                    else None,
                }
                for value, end in ends.items()
            ],
        },
    )
    return StageRecord(decision, recipe.with_(decision), tuple(outcomes), clues(outcomes))


def weight_decay_stage(recipe: Recipe) -> StageRecord:
    """The incumbent stays: nothing is better beyond noise. One run failed."""
    outcomes = []
    for value, end in {5e-4: 0.3, 1e-3: 0.31, 1e-4: 0.33, 0.0: 0.38}.items():
        r = run(f"weight decay {value:g} seed 0", weight_decay=value)
        outcomes.append(outcome(r, falling(r, end)))
    r = run("weight decay 1e-05 seed 0", weight_decay=1e-5)
    outcomes.append(outcome(r, Curve.of([]), "failed", "RuntimeError: <out of memory> & more"))
    decision = Decision(
        "weight_decay",
        "weight_decay",
        "weight_decay 5e-4 stays: no candidate beat it beyond noise (8 %)",
        {"weight_decay": 5e-4},
        incumbent_kept=True,
        tied_with=(1e-3,),
        evidence={
            "field": "weight_decay",
            "rows": [
                {"weight_decay": o.run.weight_decay, "seeds": 1, "held_out_loss": o.held_out_loss}
                for o in outcomes
            ],
        },
    )
    return StageRecord(decision, recipe.with_(decision), tuple(outcomes), clues(outcomes))


def batch_size_stage(recipe: Recipe) -> StageRecord:
    """A probe, and three sizes at equal time."""
    probe = replace(run("probe 32, 64, 128", kind="probe"), batch_sizes=(32, 64, 128))
    outcomes = [outcome(probe, Curve.of([]))]
    rows = []
    for size, end in {32: 0.34, 64: 0.29, 128: 0.3}.items():
        for seed in (0, 1):
            r = run(
                f"batch size {size} seed {seed}",
                batch_size=size,
                steps=16000 // size,
                replicate=seed,
                timed=True,
            )
            outcomes.append(outcome(r, falling(r, end, seconds=4 + 0.05 * seed)))
        rows.append(
            {
                "batch_size": size,
                "max_lr": 0.0631,
                "steps": 16000 // size,
                "examples per second": 8100 + size,
                "seconds": 4.025,
                "on time": "2 of 2",
                "seeds": 2,
                "held_out_loss": end,
                "accuracy": 1 - 0.28 * end,
            }
        )
    decision = Decision(
        "batch_size",
        "batch_size",
        "batch_size 128 (max_lr 0.0892): held-out loss 0.3 at equal time, a tie with 64; the"
        " largest is taken",
        {"batch_size": 128, "max_lr": 0.0892, "min_lr": 0.00892},
        tied_with=(64.0,),
        interval=(64.0, 128.0),
        evidence={"rows": rows},
    )
    return StageRecord(decision, recipe.with_(decision), tuple(outcomes), clues(outcomes))


def final_stage(recipe: Recipe, metric: bool = True) -> StageRecord:
    """Three sealed seeds of the answer and of both baselines."""
    ends = {"answer": (0.21, 0.04), "range_test_only": (0.26, 0.09), "untuned": (0.3, 0.16)}
    outcomes, baselines, spreads = [], [], {}
    for name, (end, gap) in ends.items():
        losses, metrics = [], []
        for seed in range(3):
            r = run(
                f"{name} tests seed {seed}",
                lr={"answer": 0.0892, "range_test_only": 0.0631}.get(name, 0.1),
                momentum=0.95 if name == "answer" else 0.9,
                steps=1200,
                replicate=2000 + seed,
                opens_test=True,
                prunable=False,
                points=40,
            )
            loss = end + 0.01 * seed
            test = (loss, 1 - 0.12 * loss if metric else math.nan)
            outcomes.append(outcome(r, falling(r, loss, gap=gap, metric=metric), test=test))
            losses.append(test[0])
            metrics.append(test[1])
        spreads[name] = {
            "test_metric": spread(metrics),
            "test_loss": spread(losses),
        }
        if name != "answer":
            own = replace(recipe, weight_decay=5e-4, max_momentum=0.9).values()
            baselines.append({"name": name, "recipe": own, **spreads[name]})
    decision = Decision(
        "final",
        "final",
        "test accuracy 0.9736 +- 0.0012 over 3 seeds; held-out loss -19 % against range test and"
        " defaults, noise +-6 %",
        incumbent_kept=True,
        evidence={
            **spreads["answer"],
            "epochs": 10,
            "seconds": 4.0,
            "baselines": baselines,
            "model": "answer tests seed 0",
            "rows": [
                {
                    "recipe": n,
                    "round": "sealed test",
                    "seeds": 3,
                    "held_out_loss": e,
                    "test_loss": e,
                }
                for n, (e, _) in ends.items()
            ],
        },
    )
    return StageRecord(decision, recipe.with_(decision), tuple(outcomes), clues(outcomes))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, std and count as the final stage gives them."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return {"mean": None, "std": None, "n": 0}
    return {"mean": float(np.mean(finite)), "std": float(np.std(finite, ddof=1)), "n": len(finite)}


def study(status: Status = "complete", metric: str | None = "accuracy") -> StudyRecord:
    """Return a study with all stages; an incomplete one ends before the final stage."""
    stages = [lr_range_stage()]
    for make in (momentum_stage, weight_decay_stage, batch_size_stage):
        stages.append(make(stages[-1].recipe))  # each needs the one before
    if status == "complete":
        stages.append(final_stage(stages[-1].recipe, metric is not None))
    return StudyRecord(
        study="digits",
        status=status,
        recipe=stages[-1].recipe,
        stages=stages,
        device="cpu, 2 threads (made-up processor)",
        machine="a processor, 2 cores, Linux x86_64",
        versions={"python": "3.11", "orchestrator": "0.1.0", "torch": "2.14"},
        metric=metric,
        larger_is_better=True,
        total_seconds=171.3,
        first_test_seconds=60.0 if status == "complete" else None,
        notes=("A stratified subset of 1,000 examples.",),
        reason="" if status == "complete" else "stopped by hand",
    )


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from orchestrator.report import html
    from orchestrator.report.terminal import Terminal

    to = Path(sys.argv[1])
    to.mkdir(parents=True, exist_ok=True)
    html.write(study(), to)
    Terminal().finished(study(), to)
