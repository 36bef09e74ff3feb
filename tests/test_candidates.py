"""Candidates against the incumbent: momentum, weight decay, dropout, on made-up losses."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import outcome

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.comparison import Comparison, ties
from orchestrator.stages.comparison import noise as within
from orchestrator.stages.dropout import Dropout
from orchestrator.stages.lr_check import LRCheck
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.noise import Difference
from orchestrator.stages.stage import Seen, Stage, walk
from orchestrator.stages.weight_decay import WeightDecay, next_value
from orchestrator.testing import StageConformance, replay

FACTS = Facts(2000, 500, math.log(10), final_epochs=10)
RECIPE = Recipe(max_lr=0.1, min_lr=0.01)
CONSTANT = replace(RECIPE, schedule="constant")


class TestDropout(StageConformance):
    """The dropout stage keeps the promises of a stage."""

    def make(self) -> Stage:
        return Dropout(name="dropout", facts=replace(QuadraticObjective().facts, dropout=0.2))


class TestMomentumHeldConstant(StageConformance):
    """So does the momentum stage where every candidate needs its own max_lr."""

    def make(self) -> Stage:
        return Momentum(name="momentum", facts=QuadraticObjective().facts)

    def recipe(self) -> Recipe:
        return CONSTANT


class TestWeightDecayByRangeTests(StageConformance):
    """So does weight decay by the source's figure."""

    def make(self) -> Stage:
        facts = QuadraticObjective().facts
        return WeightDecay(name="weight_decay", facts=facts, mode="range_test")


class TestManyCandidates(StageConformance):
    """So does a long grid over four horizons."""

    def make(self) -> Stage:
        facts = QuadraticObjective().facts
        return WeightDecay(
            name="weight_decay",
            facts=facts,
            candidates=GRID,
            horizons=(1 / 16, 1 / 8, 1 / 4, 1 / 2),
        )


GRID = tuple(float(f"{10**e:.1g}") for e in np.linspace(-5, -2, 10))


def noise(run: Run, share: float = 0.01) -> float:
    """A factor that differs between candidates and seeds, the same each time."""
    seed = repr((run.weight_decay, run.schedule, run.dropout, run.replicate, run.steps))
    return math.exp(share * np.random.default_rng(list(seed.encode())).standard_normal())


def decide(
    stage: Stage, loss: Callable[[Run], float], recipe: Recipe = RECIPE
) -> tuple[Decision, list[Outcome]]:
    """Run a stage on made-up end losses."""
    decision, outcomes = walk(stage, recipe, lambda runs: [outcome(r, loss(r)) for r in runs])
    return decision, list(outcomes)


def weight_decay(**options: Any) -> WeightDecay:
    return WeightDecay(name="weight_decay", facts=FACTS, **options)


def bowl(best: float, depth: float = 0.2) -> Callable[[Run], float]:
    """Loss over weight decay with its minimum at `best`, `depth` per decade squared."""

    def loss(run: Run) -> float:
        decades = math.log10(max(run.weight_decay, 1e-8) / best)
        return 0.2 * noise(run) * math.exp(min(depth * decades**2, 2))

    return loss


@pytest.mark.parametrize(
    ("best", "chosen", "tried"),
    [
        (3e-2, 3e-2, {1e-2, 1e-1, 3e-2}),  # beyond the edge, then back half of it
        (1e-1, 1e-1, {1e-2, 1e-1}),  # ten times as far, twice
        (3e-5, 3e-5, {3e-5}),  # between 1e-4 and 1e-5
    ],
)
def test_weight_decay_is_refined_where_it_matters(
    best: float, chosen: float, tried: set[float]
) -> None:
    """Bisected on the exponent between the two best, and taken past the end of the grid."""
    decision, outcomes = decide(weight_decay(), bowl(best))
    assert decision.values == {"weight_decay": chosen}
    grid = {5e-4, 1e-3, 1e-4, 1e-5, 0.0}
    assert {o.run.weight_decay for o in outcomes} - grid == tried
    assert "the grid was refined by" in decision.reason


def test_a_flat_grid_is_not_refined_and_that_is_said() -> None:
    """Equal losses leave nothing to gain by another value."""
    decision, outcomes = decide(weight_decay(), lambda run: 0.5 * noise(run))
    assert decision.incumbent_kept
    assert {o.run.weight_decay for o in outcomes} == {5e-4, 1e-3, 1e-4, 1e-5, 0.0}
    assert decision.reason.endswith("no value stands out enough to refine the grid")


@pytest.mark.parametrize(
    ("losses", "incumbent", "expected"),
    [
        ({1e-2: 0.3, 1e-3: 0.0, 1e-4: 0.01, 0.0: 0.3}, 1e-3, 3e-4),  # two best, the rest behind
        ({1e-3: 0.0, 1e-4: 0.2, 0.0: 0.3}, 1e-3, 1e-2),  # the largest is best: further
        ({1e-3: 0.3, 1e-4: 0.2, 1e-5: 0.0}, 1e-3, 1e-6),  # the smallest, without 0
        ({1e-4: 0.3, 1e-5: 0.2, 1e-6: 0.0}, 1e-4, 0.0),  # then 0 itself
        ({1e-3: 0.0, 1e-4: 0.01, 0.0: 0.02}, 1e-3, None),  # a tie
        ({5e-4: 0.0, 1e-3: 0.1, 1e-4: 0.3}, 5e-4, 2e-4),  # the two best are near enough: other side
        ({1e-2: math.inf, 1e-3: 0.0, 1e-4: 0.01}, 1e-3, 3e-4),  # what was lost is behind
        ({1e-3: 0.0}, 1e-3, None),
    ],
)
def test_the_next_weight_decay_lies_where_there_is_something_to_gain(
    losses: dict[float, float], incumbent: float, expected: float | None
) -> None:
    """Log losses above the best, noise 2 %: between the best two or beyond the edge."""
    base = losses[incumbent]
    diffs = {v: Difference(x - base, 0.02, 3) for v, x in losses.items() if v != incumbent}
    assert next_value(diffs, incumbent, 0.03) == expected


@pytest.mark.parametrize(
    ("preset", "grid"),
    [("shallow", {1e-2, 1e-3, 1e-4}), ("large", {1e-4, 1e-5, 1e-6, 0.0})],
)
def test_presets_name_the_papers_other_grids(preset: str, grid: set[float]) -> None:
    """Small nets want more, large ones less; candidates of one's own go before a preset."""
    assert set(weight_decay(preset=preset).grid(RECIPE)) == grid
    assert weight_decay(preset=preset, candidates=(1e-1,)).grid(RECIPE) == [1e-1]


def test_weight_decay_by_range_tests_is_the_papers_figure() -> None:
    """Lr rises from a tenth of max_lr while momentum falls .98 to .8."""
    stage = WeightDecay(
        name="weight_decay", facts=QuadraticObjective().facts, mode="range_test", ramp_top=1.0
    )
    decision, outcomes = replay(stage, RECIPE, QuadraticObjective())
    runs = [o.run for o in outcomes]
    assert {r.kind for r in runs} == {"ramp"}
    assert {(r.schedule.min_lr, r.schedule.max_lr) for r in runs} == {(0.01, 0.1)}
    assert {(r.schedule.max_momentum, r.schedule.min_momentum) for r in runs} == {(0.98, 0.8)}
    assert {run.weight_decay for run in runs} >= {5e-4, 1e-3, 0.0}
    assert "judged by range tests" in decision.reason
    assert all("stable to lr" in row for row in decision.evidence["rows"])


def momentum_world(best_lr: dict[float, float], level: dict[float, float]) -> Callable[[Run], Any]:
    """Ramps break at twice the best lr of their momentum; cycles pay for a wrong lr."""

    def do(run: Run) -> Outcome:
        m = run.schedule.max_momentum
        if run.kind == "ramp":
            points = []
            for step in run.report_steps():
                lr, _ = run.schedule.at(step / run.steps)
                x = lr / best_lr[m]
                loss = 2.2 - 1.7 * min(x, 1) if x < 2 else 3.5
                points.append(Point(step, step / run.steps, lr, m, loss, loss))
            return Outcome(run, "", "finished", Curve.of(points), Result())
        wrong = abs(math.log(run.schedule.max_lr / best_lr[m]))
        return outcome(run, level[m] * math.exp(wrong) * noise(run))

    return do


def test_under_constant_momentum_each_candidate_is_judged_at_its_own_lr() -> None:
    """The best lr of .95 is a tenth of the incumbent's: found, and given along with momentum."""
    best = {0.9: 0.1, 0.95: 0.01, 0.97: 0.02, 0.99: 0.003}
    do = momentum_world(best, {0.9: 0.5, 0.95: 0.3, 0.97: 0.5, 0.99: 0.6})
    stage = Momentum(name="momentum", facts=FACTS)
    decision, outcomes = walk(stage, CONSTANT, lambda runs: [do(run) for run in runs])
    assert list(decision.values) == ["max_momentum", "max_lr", "min_lr"]
    assert decision.values["max_momentum"] == 0.95
    assert decision.values["max_lr"] == pytest.approx(0.01, rel=0.5)
    assert decision.values["min_lr"] == pytest.approx(decision.values["max_lr"] / 10)
    assert decision.reason.startswith("max_momentum 0.95 (max_lr ")
    assert "each momentum at its own max_lr (0.99 at" in decision.reason
    cycles = [o.run for o in outcomes if o.run.kind == "train"]
    assert {r.schedule.max_lr for r in cycles if r.schedule.max_momentum == 0.9} == {0.1}


def test_under_cycled_momentum_no_lr_is_tested_again() -> None:
    """All candidates run at the same momentum where lr is highest."""
    _, outcomes = decide(Momentum(name="momentum", facts=FACTS), lambda run: 0.5 * noise(run))
    assert {o.run.kind for o in outcomes} == {"train"}
    assert {o.run.schedule.max_lr for o in outcomes} == {0.1}


def test_a_momentum_without_an_lr_is_left_out() -> None:
    """Its ramps say nothing: it is not compared, and the sentence says so."""
    do = momentum_world({0.9: 0.1, 0.99: 0.003}, {0.9: 0.5, 0.99: 0.1})
    stage = Momentum(name="momentum", facts=FACTS, candidates=(0.9, 0.99))

    def flat(run: Run) -> Outcome:
        return outcome(run, math.nan) if run.kind == "ramp" else do(run)

    decision, outcomes = walk(stage, CONSTANT, lambda runs: [flat(run) for run in runs])
    assert decision.incumbent_kept
    assert "0.99 found none" in decision.reason
    assert {o.run.schedule.max_momentum for o in outcomes if o.run.kind == "train"} == {0.9}


def test_dropout_is_searched_like_weight_decay() -> None:
    """The model's own is the incumbent and stays as it is; another is set by the recipe."""
    stage = Dropout(name="dropout", facts=replace(FACTS, dropout=0.2))
    better, outcomes = decide(stage, lambda r: noise(r) * (0.3 if r.dropout == 0.5 else 0.5))
    assert better.values == {"dropout": 0.5}
    assert {o.run.dropout for o in outcomes} == {None, 0.0, 0.1, 0.3, 0.5}
    kept, _ = decide(stage, lambda run: 0.5 * noise(run))
    assert kept.values == {"dropout": None}
    assert kept.reason.startswith("dropout 0.2")


def test_a_model_without_dropout_has_no_dropout_stage() -> None:
    """Said before anything trains."""
    with pytest.raises(ValueError, match="the model has no dropout module"):
        Dropout(name="dropout", facts=FACTS)


def test_an_incumbent_that_diverges_on_a_seed_gives_way_to_one_that_never_does() -> None:
    """At the edge: half the rate trains on three seeds of both lengths and is taken."""
    stage = LRCheck(name="lr_check", facts=FACTS)

    def loss(run: Run) -> float:
        if run.schedule.max_lr > 0.1 or (run.schedule.max_lr == 0.1 and run.replicate == 1):
            return math.nan
        return 0.5 * noise(run)

    decision, outcomes = decide(stage, loss)
    assert decision.values["max_lr"] == 0.05
    assert "the incumbent 0.1 was lost on 1 of its runs" in decision.reason
    assert "moved max_lr from 0.1 to 0.05" in decision.reason
    longest = [o.run for o in outcomes if o.run.steps == FACTS.steps(0.5, 64)]
    assert {(r.schedule.max_lr, r.replicate) for r in longest} == {(0.05, r) for r in range(3)}


def test_where_every_value_diverges_on_a_seed_the_incumbent_stays() -> None:
    """No sound value to replace it with: kept, and said."""
    stage = LRCheck(name="lr_check", facts=FACTS)
    decision, _ = decide(stage, lambda run: math.nan if run.replicate else 0.5)
    assert decision.answered
    assert decision.incumbent_kept
    assert "no other value trained on every seed either" in decision.reason


@pytest.mark.parametrize("noisy", [5e-4, 1e-4])
def test_an_erratic_candidate_or_incumbent_can_still_be_decided(noisy: float) -> None:
    """Sixty times as noisy as the rest, but far apart."""

    def loss(run: Run) -> float:
        own = noise(run, 0.6 if run.weight_decay == noisy else 0.01)
        return own * (0.02 if run.weight_decay == 1e-4 else 0.5)

    decision, _ = decide(weight_decay(refine=0), loss)
    assert decision.values == {"weight_decay": 1e-4}


def test_noise_that_all_share_is_measured_and_not_called_erratic() -> None:
    """A spread of 30 % between seeds: a tie says how large the noise is."""
    decision, _ = decide(weight_decay(), lambda run: 0.5 * noise(run, 0.3))
    assert decision.incumbent_kept
    assert "not measured" not in decision.reason


def test_many_candidates_are_halved_from_horizon_to_horizon() -> None:
    """Nine candidates over four lengths: 9, 5, 3, 2, the incumbent in every one."""
    stage = weight_decay(candidates=GRID, horizons=(1 / 16, 1 / 8, 1 / 4, 1 / 2), refine=0)
    decision, outcomes = decide(stage, bowl(2e-3))
    by_steps: dict[int, set[float]] = {}
    for o in outcomes:
        by_steps.setdefault(o.run.steps, set()).add(o.run.weight_decay)
    assert [len(by_steps[s]) - 1 for s in sorted(by_steps)] == [9, 5, 3, 2]
    assert all(RECIPE.weight_decay in values for values in by_steps.values())
    assert decision.values == {"weight_decay": 2e-3}


def test_the_lr_check_says_whether_the_balance_moved() -> None:
    """In its sentence: moved from .. to .., or not."""
    stage = LRCheck(name="lr_check", facts=FACTS)
    moved, _ = decide(stage, lambda r: noise(r) * (0.3 if r.schedule.max_lr == 0.05 else 0.5))
    assert "the balance of regularisation moved max_lr from 0.1 to 0.05" in moved.reason
    kept, _ = decide(stage, lambda run: 0.5 * noise(run))
    assert "the balance of regularisation did not move max_lr" in kept.reason


@pytest.mark.parametrize("erratic", [None, 5e-4, 1e-4])
def test_stages_of_equal_candidates_find_a_winner_in_at_most_one_of_twenty(
    erratic: float | None,
) -> None:
    """Null hypothesis: equal means, one value 40 times as noisy; 30 whole stages, fixed seed.

    The table in docs/design.md is that of 1000 stages (benchmarks/archive/false_winners.py).
    """
    wrong = 0
    for number in range(30):
        rng = np.random.default_rng([number, 7])

        def loss(run: Run, rng: np.random.Generator = rng) -> float:
            spread = 0.8 if run.weight_decay == erratic else 0.02 if erratic else 0.2
            return math.exp(spread * rng.standard_normal() - 2)

        decision, _ = decide(weight_decay(), loss)
        wrong += not decision.incumbent_kept
    assert wrong <= 3


def test_a_stage_of_ones_own_needs_a_field_and_a_variant() -> None:
    """The shared machinery compares any recipe field, lower batch sizes for example."""

    class BatchByCycles(CandidateStage):
        kind = "batch_by_cycles"
        gives = ("batch_size",)
        field = "batch_size"

        def variant(self, seen: Seen, value: float) -> Recipe:
            return replace(seen.recipe, batch_size=int(value))

        def _steps(self, recipe: Recipe, horizon: float) -> int:
            return 100

    stage = BatchByCycles(name="b", facts=FACTS, candidates=(32.0, 64.0))
    decision, _ = decide(stage, lambda r: noise(r) * (0.3 if r.batch_size == 32 else 0.5))
    assert decision.values == {"batch_size": 32}


def test_seeds_that_are_added_to_settle_a_comparison_are_not_pruned() -> None:
    """A hard seed is noise, not a lost run: it goes to its end for incumbent and candidates."""
    _, outcomes = decide(
        weight_decay(), lambda r: noise(r, 0.1) * (0.4 if r.weight_decay == 1e-3 else 0.5)
    )
    added = [o.run for o in outcomes if o.run.replicate >= 2]
    assert added
    assert not any(run.prunable for run in added)
    assert all(o.run.prunable for o in outcomes if o.run.replicate < 2)


def test_a_value_that_is_far_worse_is_no_tie_however_erratic() -> None:
    """Twice the loss, one seed three times worse than the other: not called a tie."""

    def loss(run: Run) -> float:
        if run.schedule.max_momentum != 0.99:
            return 0.3 * noise(run) * (2 if run.schedule.max_momentum > 0.9 else 1)
        return 0.4 if run.replicate else 1.2

    decision, _ = decide(Momentum(name="momentum", facts=FACTS, tie="paper"), loss)
    assert decision.values == {"max_momentum": 0.9}
    assert decision.tied_with == ()
    assert "much worse, or too erratic to say how much" in decision.reason


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            Difference(math.log(0.943), math.log(1.039), 4),
            "(best 0.95: loss -5.7 %, a win needs -6.6 %)",
        ),
        (
            Difference(math.log(1.163), math.log(1.832), 2),
            "(nearest 0.95: loss +16.3 %, a win needs -47.1 %)",
        ),
        (Difference(math.log(0.8), 0.01, 2), "(best 0.95: loss -20.0 %, a win needs 3 seeds)"),
        (Difference(math.log(0.8), math.inf, 2), "(best 0.95: loss -20.0 %, noise not measured)"),
    ],
)
def test_a_tie_says_what_a_win_needed(difference: Difference, said: str) -> None:
    """One number, of noise and margin; "best" only where it is better than the incumbent."""
    stage = Momentum(name="momentum", facts=FACTS)
    reason = stage._tie_reason("max_momentum 0.9", 0.9, (0.95,), {0.95: difference})
    assert reason == f"max_momentum 0.9: a tie with 0.95 {said}; the incumbent stays"


def test_no_value_is_nearer_than_one_of_the_tie_and_not_in_it() -> None:
    """Where its own noise was not measured, it is as close as what the noise ties."""
    wide = Difference(math.log(1.163), math.log(1.832), 2)
    nearer, further = (Difference(math.log(x), math.inf, 2) for x in (1.1, 1.3))
    near, tied = ties({0.95: wide, 0.97: nearer, 0.99: further}, margin=0.03)
    assert near == set()
    assert tied == (0.95, 0.97)


def test_the_table_shows_the_ratios_that_the_sentence_compares() -> None:
    """Losses of a row are geometric means, so theirs is the paired difference; noise has a ±."""
    tables = {100: {0.9: {0: 1.0, 1: 4.0}, 0.95: {0: 0.5, 1: 4.0}}}
    own, other = Comparison(0.9, tables).rows("max_momentum")
    assert other["held_out_loss"] / own["held_out_loss"] == pytest.approx(math.sqrt(0.5))
    assert other["against incumbent"] == "-29.3 %"
    assert [within(x) for x in (0.05, 1.2, math.inf)] == [
        "± 5.1 %",
        "a factor of 3.3",
        "not measured",
    ]
