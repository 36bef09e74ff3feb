"""What sealed runs of the answer and of its baselines say: evidence of a final stage, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Facts, Recipe
from orchestrator.stages.comparison import spread
from orchestrator.stages.stage import Stage

UNTUNED = Recipe(max_momentum=0.9, min_momentum=0.85, weight_decay=5e-4, batch_size=128)
UNTUNED_LR = 0.1
UNTUNED_ADAM = (1e-3, 0.01)  # lr and weight decay: the defaults of torch.optim.AdamW


def untuned(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the baseline that nothing was searched for, with the optimiser of `recipe`."""
    lr, decay = UNTUNED_ADAM if recipe.adaptive else (UNTUNED_LR, UNTUNED.weight_decay)
    return replace(
        UNTUNED.at_lr(lr),
        weight_decay=decay,
        batch_size=min(UNTUNED.batch_size, facts.train_examples),
        schedule=recipe.schedule,
        optimizer=recipe.optimizer,
        nesterov=recipe.nesterov,
        optimizer_options=recipe.optimizer_options,
    )


def evidence(
    facts: Facts,
    recipes: Mapping[str, Recipe],
    tested: Mapping[str, Sequence[Outcome]],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the evidence of a final stage; `recipes` and their sealed runs by name.

    "answer" is one of the names, the others are baselines. `model`: key of the run whose network is
    the answer's, None where none trained to the end.
    """
    own = tested["answer"]
    good = (o.key for o in own if math.isfinite(o.result.test_loss))
    return {
        "answer": recipes["answer"].values(),
        "test_metric": spread_of([o.result.test_metric for o in own]),
        "test_loss": spread_of([o.result.test_loss for o in own]),
        "epochs": round(own[0].run.examples / facts.train_examples, 2) if own else None,
        "seconds": round(mean(o.result.seconds for o in own), 3) if own else None,
        "baselines": [
            {
                "name": name,
                "recipe": recipes[name].values(),
                "steps": done[0].run.steps if done else None,
                "test_metric": spread_of([o.result.test_metric for o in done]),
                "test_loss": spread_of([o.result.test_loss for o in done]),
            }
            for name, done in tested.items()
            if name != "answer"
        ],
        "model": next(good, None),
        "rows": list(rows),
    }


def decision(
    stage: Stage, recipe: Recipe, answer: Recipe, evidence: dict[str, Any], why: str
) -> Decision:
    """Return a final stage's decision: the answer with its test result, or that it did not train.

    `recipe`: the one that came in.
    """
    if evidence["model"] is None:
        reason = f"no answer: no final run of the recipe trained to the end ({why})"
        return Decision(stage.name, stage.kind, reason, answered=False, evidence=evidence)
    changed = {k: v for k, v in answer.values().items() if v != recipe.values()[k]}
    return Decision(
        stage=stage.name,
        kind=stage.kind,
        values=changed,
        incumbent_kept=not changed,
        reason=sentence(stage.facts, evidence, why),
        evidence=evidence,
    )


def sentence(facts: Facts, found: Mapping[str, Any], why: str) -> str:
    """Return the test result of an `evidence` in words, and why it is the answer."""
    name, score = facts.metric, found["test_metric"]
    if not name or not score["n"]:  # a metric of the user's own may be NaN on every seed
        name, score = "loss", found["test_loss"]
    std, n = score["std"], score["n"]
    told = f"{score['mean']:.4g}" if std is None else spread(score["mean"], std)
    return f"test {name} {told} over {n} seed{'s' * (n > 1)}; {why}"


def row(
    facts: Facts, name: str, which: str, own: Recipe, done: Sequence[Outcome]
) -> dict[str, Any]:
    """Return the line of a recipe's runs in the report's table; `which`: the round."""
    losses = [o.held_out_loss for o in done if math.isfinite(o.held_out_loss)]
    made: dict[str, Any] = {
        "recipe": name,
        "round": which,
        "max_lr": own.max_lr,
        "max_momentum": own.max_momentum,
        "weight_decay": own.weight_decay,
        "batch_size": own.batch_size,
        "steps": done[0].run.steps,
        "seconds": mean(o.result.seconds for o in done),
        "seeds": len(done),
        "held_out_loss": mean(losses) if losses else None,
    }
    if done[0].run.opens_test:
        made["test_loss"] = spread_of([o.result.test_loss for o in done])["mean"]
        if facts.metric:
            metric = spread_of([o.result.test_metric for o in done])["mean"]
            made[f"test_{facts.metric}"] = metric
    return made


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (over seeds) and count of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    return {
        "mean": mean(finite) if finite else None,
        "std": stdev(finite) if len(finite) > 1 else None,
        "n": len(finite),
    }
