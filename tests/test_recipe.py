"""The values that flow: what enters a run's key, when it reports, what a recipe remembers."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.recipe import Decision, Facts, Recipe, Run, run_seed
from orchestrator.schedules import Schedule

RUN = Run("train", Schedule("paper", 0.01, 0.1, 0.85, 0.95), 1e-3, 32, 100, 0)
CHANGES: dict[str, Any] = {
    "kind": "ramp",
    "schedule": Schedule("paper", 0.01, 0.2, 0.85, 0.95),
    "weight_decay": 1e-4,
    "batch_size": 64,
    "steps": 50,
    "replicate": 1,
    "points": 10,
    "held_out_examples": 10,
    "stop_loss": 3.0,
    "timed": True,
    "prunable": False,
    "opens_test": True,
    "batch_sizes": (8, 16),
    "attempt": 1,
    "dropout": 0.2,
    "kept": True,
    "label": "another",
}
NO_PART_OF_A_RESULT = {"prunable", "label"}


def test_every_field_of_a_run_that_determines_its_result_is_in_its_key() -> None:
    """Each of them by itself; who may stop a run, and what it is called, does not count."""
    assert set(CHANGES) == {f.name for f in fields(Run)}
    keys = {name: replace(RUN, **{name: value}).key({}) for name, value in CHANGES.items()}
    same = {name for name, key in keys.items() if key == RUN.key({})}
    assert same == NO_PART_OF_A_RESULT
    assert len(set(keys.values())) == len(CHANGES) - 1
    assert RUN.key({"data": 1}) != RUN.key({"data": 2}) != RUN.key({})


def test_a_runs_key_is_the_one_it_always_had() -> None:
    """What is stored under it is found again; the order of the context's keys does not matter."""
    assert RUN.key({}) == "c8fd5893a6ee9f701079"
    assert RUN.key({"a": 1, "b": 2}) == RUN.key({"b": 2, "a": 1})


def test_a_run_is_called_by_its_label_or_its_kind() -> None:
    """And it sees as many examples as its steps hold."""
    assert (RUN.name, replace(RUN, label="a run").name) == ("train", "a run")
    assert RUN.examples == 3200


@given(st.integers(1, 2000), st.integers(1, 100))
def test_reports_are_evenly_spaced_and_the_last_one_is_at_the_end(steps: int, points: int) -> None:
    """As many as asked for, or one a step; the distances differ by one step at most."""
    found = replace(RUN, steps=steps, points=points).report_steps()
    assert len(found) == min(points, steps)
    assert found[-1] == steps
    gaps = {b - a for a, b in zip([0, *found], found, strict=False)}
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("stop_loss", "loss", "stopped"),
    [
        (3.0, 2.9, False),
        (3.0, 3.0, False),
        (3.0, 3.1, True),
        (3.0, math.nan, True),
        (None, math.nan, False),
        (None, 1e9, False),
    ],
)
def test_a_ramp_ends_by_its_own_rule(stop_loss: float | None, loss: float, stopped: bool) -> None:
    """Above its stop loss, and where the loss is no number; without one, never."""
    assert replace(RUN, stop_loss=stop_loss).stopped_by(loss) is stopped


def test_facts_give_the_length_of_short_runs() -> None:
    """A share of the final run's examples, rounded to steps, ten at least; chance or worse."""
    facts = Facts(1000, 200, 2.3, final_epochs=4)
    assert [facts.steps(share, 64) for share in (1, 0.25, 0.01)] == [62, 16, 10]
    assert (facts.start_loss, replace(facts, untrained_loss=5.0).start_loss) == (2.3, 5.0)


def test_a_recipe_remembers_what_each_stage_left() -> None:
    """By the stage's kind, the first of it; the history plays no part in comparisons."""
    one = Recipe().with_(Decision("lr_range", "lr_range", "", {"max_lr": 0.1}))
    two = one.with_(Decision("again", "lr_range", "", {"max_lr": 0.2}))
    three = two.with_(Decision("momentum", "momentum", ""))
    assert [kind for kind, _ in three.history] == ["lr_range", "lr_range", "momentum"]
    assert three.after("lr_range") == one != two
    assert three.after("batch_size") is None
    assert three == two == Recipe(max_lr=0.2)


def test_a_recipe_at_another_lr_starts_at_a_tenth() -> None:
    """Smith 2018, section 4."""
    assert Recipe().at_lr(0.5) == Recipe(max_lr=0.5, min_lr=0.05)


@pytest.mark.parametrize(
    ("optimizer", "adaptive"),
    [("sgd", False), ("torch.optim.SGD", False), ("adamw", True), ("my.SGDW", True)],
)
def test_all_optimizers_but_sgd_bound_their_steps(optimizer: str, adaptive: bool) -> None:
    """By name, whoever's module it is in."""
    assert Recipe(optimizer=optimizer).adaptive is adaptive


def test_seeds_are_those_of_the_study_the_replicate_and_the_purpose() -> None:
    """And of nothing else: the same each time, in 31 bits, unlike those of any other."""
    seeds = {
        run_seed(study, replicate, purpose)
        for study in range(10)
        for replicate in range(10)
        for purpose in ("weights", "order", "noise")
    }
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert run_seed(0, 0, "weights") == 1423575601
