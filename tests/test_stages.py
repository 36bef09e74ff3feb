import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from curves import outcome

from orchestrator.curve import Curve, Outcome, Result
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.batch_size import BatchSize
from orchestrator.stages.final import Final
from orchestrator.stages.lr_check import LRCheck
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.stage import Stage, cycle
from orchestrator.stages.weight_decay import WeightDecay
from orchestrator.testing import StageConformance, replay

FACTS = Facts(2000, 500, math.log(10), final_epochs=10)
RECIPE = Recipe(max_lr=0.1, min_lr=0.01)


class TestLRRange(StageConformance):
    """The range test keeps the promises of a stage."""

    def make(self) -> Stage:
        return LRRange(name="lr_range", facts=QuadraticObjective().facts)

    def recipe(self) -> Recipe:
        return Recipe()


class TestMomentum(StageConformance):
    """The momentum stage keeps the promises of a stage."""

    def make(self) -> Stage:
        return Momentum(name="momentum", facts=QuadraticObjective().facts)


class TestWeightDecay(StageConformance):
    """The weight-decay stage keeps the promises of a stage."""

    def make(self) -> Stage:
        return WeightDecay(name="weight_decay", facts=QuadraticObjective().facts)


class TestLRCheck(StageConformance):
    """The LR check keeps the promises of a stage."""

    def make(self) -> Stage:
        return LRCheck(name="lr_check", facts=QuadraticObjective().facts)


class TestFinal(StageConformance):
    """The final stage keeps the promises of a stage."""

    def make(self) -> Stage:
        return Final(name="final", facts=QuadraticObjective().facts)

    def recipe(self) -> Recipe:
        after_range_test = Decision("lr_range", "lr_range", "", {"max_lr": 0.1, "min_lr": 0.01})
        tuned = Decision("weight_decay", "weight_decay", "", {"weight_decay": 1e-3})
        return Recipe().with_(after_range_test).with_(tuned)


def decide(
    stage: Stage, recipe: Recipe, loss: Callable[[Run], float]
) -> tuple[Decision, list[Outcome]]:
    """Run a stage on made-up end losses."""
    outcomes: list[Outcome] = []
    while runs := stage.propose(recipe, outcomes):
        outcomes += [outcome(run, loss(run)) for run in runs]
    return stage.decide(recipe, outcomes), outcomes


def wobble(run: Run) -> float:
    """Noise of about 1 % that differs between candidates and replicates, the same each time."""
    seed = abs(hash((run.weight_decay, run.schedule.max_momentum, run.replicate, run.steps)))
    return 1 + 0.01 * np.random.default_rng(seed % 2**32).standard_normal()


def test_a_clearly_better_weight_decay_replaces_the_incumbent() -> None:
    """20 % less loss beyond 1 % noise is taken, and the sentence says so."""
    stage = WeightDecay(name="weight_decay", facts=FACTS)
    decision, _ = decide(
        stage, RECIPE, lambda run: wobble(run) * (0.4 if run.weight_decay == 1e-3 else 0.5)
    )
    assert decision.values == {"weight_decay": 1e-3}
    assert not decision.incumbent_kept
    assert " % lower than at 0.0005, beyond noise (3 paired seeds, 156 steps)" in decision.reason


def test_a_difference_inside_the_noise_is_a_tie_and_the_incumbent_stays() -> None:
    """All four momenta equal: said to be a tie, .9 stays, in short cycles only."""
    stage = Momentum(name="momentum", facts=FACTS)
    decision, _ = decide(stage, RECIPE, lambda run: 0.5 * wobble(run))
    assert decision.incumbent_kept
    assert decision.values == {"max_momentum": 0.9}
    assert decision.tied_with
    assert set(decision.tied_with) <= {0.95, 0.97, 0.99}
    assert f"a tie with {', '.join(map(str, decision.tied_with))} " in decision.reason


def test_the_papers_rule_takes_the_largest_of_a_tie() -> None:
    """With `tie: paper` the largest stable momentum wins a tie, a lost one does not."""
    stage = Momentum(name="momentum", facts=FACTS, tie="paper")
    decision, _ = decide(
        stage,
        RECIPE,
        lambda run: math.nan if run.schedule.max_momentum == 0.99 else 0.5 * wobble(run),
    )
    assert decision.values == {"max_momentum": 0.97}


def test_a_gain_below_the_margin_does_not_move_the_recipe() -> None:
    """2 % better without any noise is within the bias of short runs."""
    stage = WeightDecay(name="weight_decay", facts=FACTS)
    decision, _ = decide(stage, RECIPE, lambda run: 0.49 if run.weight_decay == 0 else 0.5)
    assert decision.incumbent_kept


def test_the_order_at_the_longer_horizon_decides() -> None:
    """A candidate that leads in short cycles and loses in longer ones is not taken."""
    stage = WeightDecay(name="weight_decay", facts=FACTS)
    short = FACTS.steps(0.25, RECIPE.batch_size)

    def loss(run: Run) -> float:
        ahead = run.weight_decay == 0 and run.steps == short
        return wobble(run) * (0.4 if ahead else 0.6 if run.weight_decay == 0 else 0.5)

    decision, outcomes = decide(stage, RECIPE, loss)
    assert {o.run.steps for o in outcomes} == {short, FACTS.steps(0.5, RECIPE.batch_size)}
    assert decision.incumbent_kept


def test_the_lr_check_moves_a_rate_that_is_clearly_wrong() -> None:
    """Half the rate is 30 % better, less than that is not: max_lr and min_lr move together."""
    stage = LRCheck(name="lr_check", facts=FACTS)
    decision, outcomes = decide(
        stage, RECIPE, lambda run: wobble(run) * (0.35 if run.schedule.max_lr == 0.05 else 0.5)
    )
    assert decision.values == {"max_lr": 0.05, "min_lr": 0.005}
    assert {o.run.schedule.max_lr for o in outcomes} == {0.025, 0.05, 0.1, 0.2}


def test_the_lr_check_goes_on_while_each_step_is_clearly_better() -> None:
    """The lower the better: twice beyond the edge and no further."""
    stage = LRCheck(name="lr_check", facts=FACTS)
    decision, outcomes = decide(
        stage, RECIPE, lambda run: 0.5 * run.schedule.max_lr**0.5 * (1 + 0.001 * run.replicate)
    )
    assert decision.values["max_lr"] == 0.0125
    assert min(o.run.schedule.max_lr for o in outcomes) == 0.0125


@pytest.mark.parametrize(
    ("loss", "counts_as"),
    [
        (0.5, 0.5),
        (0.0, 1e-12 * FACTS.chance_loss),  # else a candidate without any loss would count as lost
        (-0.5, -0.5),
        (2.4, math.inf),
        (math.nan, math.inf),
    ],
)
def test_the_loss_that_a_run_is_judged_by(loss: float, counts_as: float) -> None:
    """No better than chance is lost; 0 is next to nothing, as it has no logarithm.

    A run that fits its training data has learnt, so its loss counts whatever it is.
    """
    stage = Momentum(name="momentum", facts=FACTS)
    made = outcome(stage.propose(RECIPE, [])[0], 0.5)
    ends = np.array([*made.curve.held_out_loss[:-1], loss])
    lost = replace(made.curve, held_out_loss=ends, train_loss=np.full(len(ends), 2.3))
    assert stage.end_loss(replace(made, curve=lost)) == counts_as
    fits = replace(lost, train_loss=np.full(len(ends), 0.1))
    assert stage.end_loss(replace(made, curve=fits)) == (2.4 if loss == 2.4 else counts_as)


def test_when_every_candidate_is_lost_there_is_no_answer() -> None:
    """No finished run: not answered, and nothing is made up."""
    decision, _ = decide(Momentum(name="momentum", facts=FACTS), RECIPE, lambda run: math.nan)
    assert not decision.answered


def test_range_test_finds_a_rate_near_the_best_of_the_quadratic() -> None:
    """max_lr is within a factor of 3 of the best in expectation, and below the cliff."""
    objective = QuadraticObjective()
    losses = {
        float(lr): objective.expected_loss(cycle(Recipe().at_lr(float(lr)), 312, 0, ""))
        for lr in np.geomspace(1e-3, 1, 50)
    }
    best = min(losses, key=lambda lr: losses[lr])
    lost = [lr for lr, loss in losses.items() if loss > objective.facts.chance_loss]
    decision, _ = replay(LRRange(name="lr_range", facts=objective.facts), Recipe(), objective)
    assert decision.interval is not None
    low, high = decision.interval
    assert low <= decision.values["max_lr"] <= high
    assert best / 3 < decision.values["max_lr"] < min(3 * best, *lost)
    assert 0.03 < decision.values["max_lr"] < 0.3
    assert decision.values["min_lr"] == pytest.approx(decision.values["max_lr"] / 10)


def tuned(weight_decay: float) -> Recipe:
    first = Decision("lr_range", "lr_range", "", {"max_lr": 0.1, "min_lr": 0.01})
    later = Decision("weight_decay", "weight_decay", "", {"weight_decay": weight_decay})
    return Recipe().with_(first).with_(later)


def test_the_final_stage_goes_back_to_the_simpler_recipe_unless_it_is_beaten() -> None:
    """A tuned recipe that is worse on fresh seeds is dropped, and the report says so."""
    stage = Final(name="final", facts=QuadraticObjective().facts)
    decision, _ = replay(stage, tuned(3e-2), QuadraticObjective())
    assert decision.values == {"weight_decay": 5e-4}
    assert "no stage beat range test and defaults" in decision.reason
    assert decision.evidence["baselines"][0]["name"] == "range_test_only"
    assert decision.evidence["test_loss"] == decision.evidence["baselines"][0]["test_loss"]


def test_a_tuned_recipe_that_wins_on_fresh_seeds_is_the_answer() -> None:
    """The better recipe beyond noise stays; its test loss is below the baseline's."""
    stage = Final(name="final", facts=QuadraticObjective().facts)
    decision, _ = replay(stage, tuned(5e-3), QuadraticObjective(Quadratic(noise=0.5)))
    assert decision.values == {}
    base = {b["name"]: b["test_loss"]["mean"] for b in decision.evidence["baselines"]}
    assert decision.evidence["test_loss"]["mean"] < base["range_test_only"]


def test_a_gain_within_noise_on_fresh_seeds_leaves_the_tuned_recipe_and_is_called_a_tie() -> None:
    """Better by less than the noise, as its stages found: it stays, and no win is claimed."""
    stage = Final(name="final", facts=FACTS, seeds=3)
    recipe = tuned(1e-3)
    gain = {0: 0.9, 1: 1.0, 2: 0.95}

    def loss(run: Run) -> float:
        own = run.weight_decay == 1e-3
        return 0.5 * (gain[run.replicate % 1000] if own else 1.0) * (1 + 0.01 * run.replicate % 7)

    decision, _ = decide(stage, recipe, loss)
    assert decision.values == {}
    assert "a tie by itself" in decision.reason


def test_a_metric_that_is_never_a_number_takes_no_answer_away() -> None:
    """The loss is told in its place, and the table of batch sizes has a gap."""
    facts = replace(QuadraticObjective().facts, metric="f1")
    decision, _ = replay(Final(name="final", facts=facts), tuned(5e-3), QuadraticObjective())
    assert decision.answered
    assert decision.reason.startswith("test loss")
    sizes, _ = replay(BatchSize(name="batch_size", facts=facts), RECIPE, QuadraticObjective())
    assert {row["f1"] for row in sizes.evidence["rows"]} == {None}
    assert not [key for row in sizes.evidence["rows"] for key in row if "nan" in key]


def test_only_the_last_round_opens_the_sealed_test() -> None:
    """No run before the sealed round sees test data, and its seeds are used nowhere else."""
    stage = Final(name="final", facts=QuadraticObjective().facts)
    _, outcomes = replay(stage, tuned(5e-3), QuadraticObjective())
    opened = [o.run.opens_test for o in outcomes]
    assert opened == sorted(opened)
    assert not opened[0]
    assert opened[-1]
    sealed = {o.run.replicate for o in outcomes if o.run.opens_test}
    assert not sealed & {o.run.replicate for o in outcomes if not o.run.opens_test}


def test_outcome_of_an_empty_curve_is_infinite() -> None:
    """A run that reported nothing is no candidate."""
    run = replace(Final(name="f", facts=FACTS).propose(tuned(1e-3), [])[0])
    assert Outcome(run, "k", "failed", Curve.of([]), Result()).held_out_loss == math.inf


def test_a_stage_may_not_set_what_it_does_not_give() -> None:
    """A wrong decision of a user's stage is named, and never reaches the recipe."""

    class Greedy(Momentum):
        def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
            return Decision(self.name, self.kind, "because", {"weight_decay": -3.0})

    with pytest.raises(RuntimeError, match="greedy set weight_decay, which is not in its `gives`"):
        replay(Greedy(name="greedy", facts=FACTS), RECIPE, QuadraticObjective())
