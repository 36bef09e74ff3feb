"""PriorBand (Mallik et al. 2023, arXiv 2306.12370), from the package neural-pipeline-search."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from search import BUDGETS, LOST, Answer, Search

from orchestrator.curve import Outcome, Point
from orchestrator.plan.prices import progress
from orchestrator.recipe import Recipe
from orchestrator.stages.expected.first_run import full_run
from orchestrator.stages.tested import untuned

FULL = 20  # reports of a full run, the package's fidelity


def answers(search: Search, seed: int) -> Iterator[Answer]:
    """Yield the best full run as spending grows; the untuned recipe is the prior, and run first.

    A configuration that is promoted goes on from where it was stopped, and pays the difference.
    """
    neps = import_module("neps")
    band = neps.algorithms.priorband(_space(search, neps), sample_prior_first="highest_fidelity")
    asked = neps.AskAndTell(band)
    best: tuple[float, Recipe] | None = None
    paid: dict[Recipe, float] = {}
    number = 0
    while search.spent < max(BUDGETS):
        _seeded(seed, number)
        trial = asked.ask()
        number += 1
        point = dict(trial.config)
        reports = int(point.pop("reports"))
        recipe = search.recipe(**point)
        outcome = _run(search, recipe, reports)
        share = progress(outcome)
        search.pay(full_run(recipe, search.facts), max(0.0, share - paid.get(recipe, 0.0)))
        paid[recipe] = share
        asked.tell(trial, {"objective_to_minimize": _loss(search, outcome)})
        if reports == FULL:
            found = _loss(search, outcome), recipe
            best = min(best or found, found, key=lambda pair: pair[0])
        if best is not None:
            yield search.spent, best[1]


def _run(search: Search, recipe: Recipe, reports: int) -> Outcome:
    """Return the outcome of a full run that stops after so many reports."""
    run = replace(full_run(recipe, search.facts), opens_test=True)
    steps = run.report_steps()
    last = steps[max(0, round(len(steps) * reports / FULL) - 1)]

    def stops(point: Point) -> bool:
        return point.step >= last

    return search.lab.until(run, stops, resumes=True)


def _loss(search: Search, outcome: Outcome) -> float:
    """Return the loss where it was stopped, that of chance for a lost run."""
    if outcome.reason != "stopped":
        return search.loss(outcome)
    return min(float(outcome.curve.held_out_loss[-1]), search.facts.chance_loss, LOST)


def _space(search: Search, neps: Any) -> Any:
    prior = untuned(search.base, search.facts)
    centers = {
        "lr": prior.max_lr,
        "one_minus_momentum": 1 - prior.max_momentum,
        "weight_decay": prior.weight_decay,
    }
    space = {
        name: neps.Float(low, high, log=True, prior=centers[name], prior_confidence="medium")
        for name, (low, high) in search.ranges.items()
    }
    size = min(prior.batch_size, max(search.sizes))
    space["batch_size"] = neps.Categorical(
        tuple(search.sizes), prior=search.sizes.index(size), prior_confidence="medium"
    )
    space["reports"] = neps.IntegerFidelity(1, FULL)
    return type("Space", (neps.PipelineSpace,), space)()


def _seeded(seed: int, number: int) -> None:
    """Seed what the package draws from: the global generators."""
    own = 1000 * seed + number
    random.seed(own)
    np.random.seed(own)  # noqa: NPY002
    torch.manual_seed(own)
