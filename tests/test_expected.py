"""Stages that decide by expected loss: on made-up losses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import curve, outcome

from orchestrator.curve import Curve, Outcome, Result
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run, usual_weight_decay
from orchestrator.stages.expected import by_expected_loss
from orchestrator.stages.expected.answer import Answer
from orchestrator.stages.expected.choice import Choice
from orchestrator.stages.expected.decay import by_length, decayed
from orchestrator.stages.expected.effects import (
    EFFECTS,
    Estimate,
    Parabola,
    noise,
    steps_between,
)
from orchestrator.stages.expected.fields import (
    BatchSizeChoice,
    LRChoice,
    MomentumChoice,
    WeightDecayChoice,
)
from orchestrator.stages.expected.first_run import FirstRun, full_run, quarter_run
from orchestrator.stages.expected.longer import for_longer, lowest
from orchestrator.stages.expected.lr_search import LRSearch
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.stage import Stage, walk
from orchestrator.testing import StageConformance

FACTS = Facts(2000, 5000, math.log(10), final_epochs=10)
FIRST = Recipe(max_lr=0.1, min_lr=0.01, weight_decay=1e-3)
RECIPE = FIRST.with_(Decision("first_run", "first_run", ""))
QUARTER = quarter_run(FIRST, FACTS)
CLUES = ("horizontal", "overfitting", "underfitting")


class TestFirstRun(StageConformance):
    """The first full run keeps the promises of a stage."""

    def make(self) -> Stage:
        return FirstRun(name="first_run", facts=QuadraticObjective().facts)


class TestAnswer(StageConformance):
    """So does the cheap final stage."""

    def make(self) -> Stage:
        return Answer(name="final", facts=QuadraticObjective().facts)


class TestChoice(StageConformance):
    """So does a choice by expected loss."""

    def make(self) -> Stage:
        facts = QuadraticObjective().facts
        return WeightDecayChoice(name="weight_decay", facts=facts, candidates=(1e-2, 1e-4, 0.0))


class TestLRSearch(StageConformance):
    """So does the range test at a bounded price."""

    def recipe(self) -> Recipe:
        return Recipe()

    def make(self) -> Stage:
        facts = QuadraticObjective().facts
        ramps = LRRange(name="lr_range", facts=facts)
        return LRSearch(name="lr_range", facts=facts, ramps=ramps)


def first_curve(clue: str, loss: float = 0.5) -> Curve:
    """Return the curve of a full run that shows `clue` and ends at `loss`."""
    lr = [0.01, 0.05, 0.1, 0.05, *[0.02] * 6]
    fall = list(np.geomspace(2.3, 0.4 * loss, 4))
    ends = {
        "horizontal": [loss] * 6,
        "overfitting": [0.4 * loss, 0.6 * loss, 0.8 * loss, loss, loss, loss],
        "underfitting": list(np.geomspace(2.2 * loss, loss, 6)),
    }
    train = list(np.geomspace(2.3, 0.05, 10)) if clue == "overfitting" else None
    return curve([*(fall if clue == "overfitting" else [2.3, 2, 1.8, 1.6]), *ends[clue]], train, lr)


def decided(
    stage: Stage,
    loss: Callable[[Run], float],
    clue: str = "underfitting",
    recipe: Recipe = RECIPE,
    first: Recipe = FIRST,
) -> tuple[Decision, list[Outcome]]:
    """Walk a stage in a world where a run ends at `loss(run)`, and the first full run shows `clue`.

    `first`: its recipe. Returns the decision and the outcomes without that of the first full run.
    """
    first_run = full_run(first, FACTS)

    def done(run: Run) -> Outcome:
        if run.kind == "calibrate":
            seconds = {str(b): b / 64 for b in run.batch_sizes}
            measured = {"seconds_per_step": seconds, "spread": dict.fromkeys(seconds, 0.0)}
            return Outcome(run, "calibrate", "finished", Curve.of([]), Result(measured=measured))
        gains = run.keeps_end and clue != "overfitting"  # by its length, against a quarter of it
        end = 0.97 * loss(run) if gains else loss(run)
        made = outcome(run, end)
        if replace(run, opens_test=False) == first_run:
            made = replace(made, curve=first_curve(clue, end))
        tested = end if run.opens_test else math.nan
        measured = {"held_out_blocks": blocks(0.02, loss(run))}
        result = Result(1.0, run.examples, test_loss=tested, measured=measured)
        return replace(made, result=result)

    decision, outcomes = walk(stage, recipe, lambda runs: list(map(done, runs)))
    return decision, [o for o in outcomes if o.run != first_run]


def blocks(error: float, loss: float) -> list[float]:
    """Return losses of 64 blocks of examples: mean `loss`, relative standard error `error`."""
    spread = 8 * error * loss
    values = loss + spread * np.random.default_rng(0).choice([-1.0, 1.0], 64)
    found: list[float] = ((values - values.mean()) / values.std(ddof=1) * spread + loss).tolist()
    return found


def flat(_: Run) -> float:
    """All runs end alike."""
    return 0.5


def choice(cls: type[Choice], *candidates: float) -> Choice:
    """Return a choice of these candidates."""
    return cls(name="choice", facts=FACTS, candidates=candidates)


def test_an_estimate_is_updated_as_normal_distributions_are() -> None:
    """Prior and noise of the same width: half-way, with the width over the square root of 2."""
    found = Estimate(0.1, 0.2).updated(-0.3, 0.2)
    assert found.mean == pytest.approx(-0.1)
    assert found.sd == pytest.approx(0.2 / math.sqrt(2))
    assert Estimate(0.1, 0.2).updated(-0.3, 1e6).mean == pytest.approx(0.1)
    low, high = Estimate(0.0, 1.0).interval(0.8)
    assert (low, high) == (pytest.approx(-1.2816, abs=1e-4), pytest.approx(1.2816, abs=1e-4))


def test_a_parabola_is_updated_as_a_linear_model_is() -> None:
    """Against the closed form with matrices; one side says something of the other."""
    prior, noise_sd = Parabola((0.02, 0.1), (0.04, 0.05)), 0.07
    seen = {-1.0: -0.3, 1.0: 0.2, -2.0: -0.1}
    found = prior
    for steps, change in seen.items():
        found = found.updated(steps, change, noise_sd)
    x = np.array([[s, s * s] for s in seen])
    mean, cov = np.array([0.02, 0.04]), np.diag([0.1**2, 0.05**2])
    gain = cov @ x.T @ np.linalg.inv(x @ cov @ x.T + noise_sd**2 * np.eye(3))
    expected = mean + gain @ (np.array(list(seen.values())) - x @ mean)
    left = cov - gain @ x @ cov
    at, origin = np.array([-3.0, 9.0]), np.array([-2.0, 4.0])
    assert found.at(-3).mean == pytest.approx(at @ expected)
    assert found.at(-3).sd == pytest.approx(math.sqrt(at @ left @ at))
    step = at - origin
    assert found.at(-3, -2).sd == pytest.approx(math.sqrt(step @ left @ step))
    assert prior.updated(1, 0.5, 0.01).at(-1).mean < prior.at(-1).mean


def test_the_expected_improvement_is_that_of_many_draws() -> None:
    """What a change for the worse would cost does not count, as it is not adopted."""
    draws = np.random.default_rng(0).normal(0.05, 0.1, 400_000)
    expected = np.maximum(0, -draws).mean()
    assert Estimate(0.05, 0.1).improvement == pytest.approx(expected, rel=0.01)
    assert Estimate(-0.2, 0.0).improvement == 0.2
    assert Estimate(0.2, 0.0).improvement == 0


@pytest.mark.parametrize(
    ("field", "start", "end", "steps"),
    [
        ("max_lr", 0.1, 0.4, 2),
        ("batch_size", 64, 32, -1),
        ("weight_decay", 1e-3, 4e-3, 1),
        ("weight_decay", 1e-3, 0.0, -3),
        ("max_momentum", 0.9, 0.95, 1),
        ("dropout", 0.0, 0.5, 2),
    ],
)
def test_a_change_is_measured_in_steps(field: str, start: float, end: float, steps: float) -> None:
    """Factors of 2 or 4, towards larger values above 0."""
    assert steps_between(field, start, end) == pytest.approx(steps, abs=0.04)


def measured(run: Run, values: Sequence[float]) -> Outcome:
    """Return the outcome of a run whose blocks of held-out examples have these losses."""
    made = outcome(run, float(np.mean(values)))
    return replace(made, result=Result(measured={"held_out_blocks": list(values)}))


def test_the_noise_of_two_losses_is_that_of_their_difference_by_blocks() -> None:
    """Networks that fail on the same examples differ surely; before the second ran, half of it."""
    facts, run = replace(FACTS, held_out_examples=50_000), full_run(FIRST, FACTS)
    seeds = math.sqrt(2) * 0.03
    one = measured(run, blocks(0.2, 0.5))
    alike = measured(run, blocks(0.2, 0.4))
    other = measured(run, blocks(0.2, 0.4)[::-1])
    assert noise(facts, one) == pytest.approx(math.hypot(seeds, 0.1))
    assert noise(facts, one, alike) == pytest.approx(seeds, rel=0.01)
    difference = np.array(blocks(0.2, 1.0)) - np.array(blocks(0.2, 1.0)[::-1])
    expected = float(difference.std(ddof=1)) / 8
    assert noise(facts, one, other) == pytest.approx(math.hypot(seeds, expected))


def test_a_loss_of_few_failures_is_noisy_whatever_was_measured() -> None:
    """A hundredth of the chance loss, on 240 examples: less than three of them make it up."""
    run = full_run(FIRST, FACTS)
    chance = FACTS.chance_loss
    few = replace(FACTS, held_out_examples=240)
    low, high = (measured(run, blocks(0.01, x * chance)) for x in (0.01, 0.5))
    assert noise(few, low, low) > 0.25
    assert noise(few, high, high) < 0.06
    plain = outcome(run, 0.5)  # where an objective measures nothing
    assert noise(replace(FACTS, held_out_examples=50), plain) > 3 * noise(FACTS, plain)


def test_a_full_run_that_is_no_better_than_a_quarter_of_it_overfits() -> None:
    """Whatever its own curve looks like, if noise does not explain it.

    A quarter that was pruned says nothing.
    """
    stage = FirstRun(name="first_run", facts=FACTS)
    done = replace(outcome(full_run(FIRST, FACTS), 0.5), curve=first_curve("horizontal"))
    assert stage.propose(FIRST, [done]) == [QUARTER]
    for ends, state, label in (
        (0.8, "finished", "horizontal"), (0.53, "finished", "horizontal"),
        (0.48, "finished", "overfitting"), (0.45, "pruned", "horizontal"),
    ):  # fmt: skip
        outcomes = [done, replace(outcome(QUARTER, ends), state=state)]
        assert stage.propose(FIRST, outcomes) == []
        decision = stage.decide(FIRST, outcomes)
        assert f"{label}: " in decision.reason
        assert decision.evidence["rows"][0]["clue"] == label


def test_a_full_run_whose_curve_overfits_needs_no_other() -> None:
    """Nor does one that was lost."""
    stage = FirstRun(name="first_run", facts=FACTS, tries=1)
    run = full_run(FIRST, FACTS)
    overfits = replace(outcome(run, 0.5), curve=first_curve("overfitting"))
    assert stage.propose(FIRST, [overfits]) == []
    assert stage.propose(FIRST, [outcome(run, 3.0)]) == []


@pytest.mark.parametrize("clue", CLUES)
def test_the_first_run_names_its_clue(clue: str) -> None:
    """And what follows from it."""
    stage = FirstRun(name="first_run", facts=FACTS)
    run = full_run(FIRST, FACTS)
    done = [replace(outcome(run, 0.5), curve=first_curve(clue))]
    assert stage.propose(FIRST, []) == [run]
    if clue != "overfitting":
        done.append(outcome(QUARTER, 0.6))
    assert stage.propose(FIRST, done) == []
    decision = stage.decide(FIRST, done)
    assert f"{clue}: " in decision.reason
    assert not decision.values
    assert ("weight decay" in decision.reason) is (clue == "overfitting")


def test_a_lost_first_run_is_made_again_at_a_lower_rate() -> None:
    """Until it ends below the best constant prediction; where none does, there is no answer."""
    stage = FirstRun(name="first_run", facts=FACTS)

    def trained_below(most: float) -> Decision:
        ends = {True: 0.5, False: 2.4}
        decision, _ = walk(
            stage, FIRST, lambda runs: [outcome(r, ends[r.schedule.max_lr < most]) for r in runs]
        )
        return decision

    assert trained_below(0.05).values == {"max_lr": 0.025, "min_lr": 0.0025}
    at_chance = [outcome(full_run(FIRST, FACTS), 2.295)]  # of 2.303
    assert stage.propose(FIRST, at_chance)
    assert stage.decide(FIRST, at_chance).answered  # better than nothing, in a small budget
    assert not trained_below(1e-9).answered
    assert "constant prediction (2.3)" in trained_below(1e-9).reason


def test_where_the_first_run_is_level_only_batch_size_and_learning_rate_are_tried() -> None:
    """No cycle of any other setting is bought, and the reason says why."""
    for stage in (choice(MomentumChoice, 0.95, 0.99), choice(WeightDecayChoice, 1e-2, 1e-4)):
        decision, outcomes = decided(stage, flat, "horizontal")
        assert [o.run for o in outcomes] == [QUARTER]
        assert "horizontal" in decision.reason
        assert decision.incumbent_kept
    _, outcomes = decided(choice(LRChoice, 0.5, 2.0), flat, "horizontal")
    assert {o.run.schedule.max_lr for o in outcomes} == {0.1, 0.05, 0.2}


def test_where_the_first_run_overfits_weight_decay_grows_at_full_length_while_it_helps() -> None:
    """Beyond the grid, whose values below the recipe's are not tried; nothing else is."""

    def loss(run: Run) -> float:
        return {1e-3: 0.5, 4e-3: 0.4, 0.02: 0.3}.get(run.weight_decay, 0.45)

    stage = choice(WeightDecayChoice, 1e-3, 1e-4, 1e-5, 0.0)
    decision, outcomes = decided(stage, loss, "overfitting")
    assert [o.run.weight_decay for o in outcomes] == [4e-3, 0.02]
    assert {o.run.steps for o in outcomes} == {FACTS.steps(1, 64)}
    assert decision.values == {"weight_decay": 0.02}
    assert "from full runs" in decision.reason
    for other in (choice(MomentumChoice, 0.95), choice(LRChoice, 0.5, 2.0)):
        decision, outcomes = decided(other, loss, "overfitting")
        assert outcomes == []
        assert "overfitting, so only more regularisation is tried" in decision.reason


def test_where_the_first_run_of_adam_overfits_its_learning_rate_falls_while_that_helps() -> None:
    """In factors of 4, a full run each; weight decay is not tried."""
    first = replace(FIRST, optimizer="adamw", max_lr=0.008, min_lr=8e-4)
    recipe = first.with_(Decision("first_run", "first_run", ""))

    def loss(run: Run) -> float:
        return 0.5 * (run.schedule.max_lr / 0.008) ** 0.2

    stage = choice(LRChoice, 0.5, 2.0)
    decision, outcomes = decided(stage, loss, "overfitting", recipe=recipe, first=first)
    assert [o.run.schedule.max_lr for o in outcomes] == [0.002, 5e-4]
    assert {o.run.steps for o in outcomes} == {FACTS.steps(1, 64)}
    assert decision.values == {"max_lr": 5e-4, "min_lr": 5e-5}
    decay = choice(WeightDecayChoice, 1e-3)
    decision, outcomes = decided(decay, loss, "overfitting", recipe=recipe, first=first)
    assert outcomes == []
    assert "so only a lower learning rate is tried" in decision.reason


def test_more_weight_decay_that_does_not_help_is_tried_once() -> None:
    """The first step that is worse is the last."""
    stage = choice(WeightDecayChoice, 1e-3)
    decision, outcomes = decided(
        stage, lambda run: 0.5 if run.weight_decay == 1e-3 else 0.7, "overfitting"
    )
    assert len(outcomes) == 1
    assert decision.incumbent_kept


def test_short_cycles_go_on_in_a_direction_that_pays() -> None:
    """One value on either side beside the recipe, then further on the better side alone."""

    def loss(run: Run) -> float:
        return 0.5 * (run.schedule.max_lr / 0.1) ** 0.5

    decision, outcomes = decided(choice(LRChoice, 0.5, 2.0), loss)
    assert [o.run.schedule.max_lr for o in outcomes] == [0.1, 0.05, 0.2, 0.025, 0.0125]
    assert {o.run.steps for o in outcomes} == {FACTS.steps(0.25, 64)}
    assert {o.run.replicate for o in outcomes} == {0}
    assert decision.values["max_lr"] < 0.1
    assert decision.values["min_lr"] == decision.values["max_lr"] / 10


def test_a_gain_that_does_not_pay_for_its_full_run_is_a_tie() -> None:
    """Equal candidates change nothing: the prior says that most changes do harm."""
    for stage in (
        choice(MomentumChoice, 0.95, 0.97, 0.99),
        choice(WeightDecayChoice, 1e-2, 1e-4, 0.0),
        choice(LRChoice, 0.5, 2.0),
        choice(BatchSizeChoice, 32, 128),
    ):
        decision, outcomes = decided(stage, flat)
        assert decision.incumbent_kept, stage
        assert not outcomes or decision.tied_with


def test_a_lost_candidate_is_never_chosen() -> None:
    """Though every other value is worse too."""

    def loss(run: Run) -> float:
        return {0.1: 0.5, 0.05: 2.4, 0.2: 2.4}[run.schedule.max_lr]

    decision, _ = decided(choice(LRChoice, 0.5, 2.0), loss)
    assert decision.incumbent_kept
    assert [row["expected final loss"] for row in decision.evidence["rows"]] == [
        "as it is", "lost", "lost",
    ]  # fmt: skip


def test_where_the_short_cycle_of_the_recipe_is_lost_a_sound_candidate_is_taken() -> None:
    """The recipe may still train at full length: the final stage compares."""
    decision, _ = decided(
        choice(LRChoice, 0.5, 2.0), lambda run: 0.5 if run.schedule.max_lr < 0.1 else 2.4
    )
    assert decision.values["max_lr"] < 0.1


def test_nothing_is_bought_where_a_final_run_is_worth_more_than_any_gain() -> None:
    """One exchange rate stops every stage."""
    stage = replace(choice(LRChoice, 0.5, 2.0), rate=5.0)
    decision, outcomes = decided(stage, flat)
    assert [o.run for o in outcomes] == [QUARTER]
    assert "500 % per final run" in decision.reason


def test_batch_sizes_are_tried_for_equal_time() -> None:
    """Each size takes steps by its own seconds; max_lr goes by the square-root rule."""
    _, outcomes = decided(choice(BatchSizeChoice, 32, 128), flat)
    trials = {o.run.batch_size: o.run for o in outcomes if o.run.kind == "train"}
    seconds = {size: run.steps * size / 64 for size, run in trials.items()}  # as calibrated
    assert set(trials) == {32, 64, 128}
    assert max(seconds.values()) == pytest.approx(min(seconds.values()), rel=0.02)
    assert not any(run.timed for run in trials.values())  # their steps are their time
    assert trials[32].schedule.max_lr == pytest.approx(0.1 / math.sqrt(2), rel=0.01)


def test_a_faster_size_loses_what_its_trial_saw_more_of() -> None:
    """The final run has the same epochs with any size."""
    stage = choice(BatchSizeChoice, 128)
    assert isinstance(stage, BatchSizeChoice)
    twice = {"seconds_per_step": {"64": 1.0, "128": 1.0}}
    calibrated = Outcome(
        replace(full_run(FIRST, FACTS), kind="calibrate"), "", "finished", Curve.of([]),
        Result(measured=twice),
    )  # fmt: skip
    short = outcome(stage.trial(RECIPE, 64, 0.25, []), 0.6)
    long = outcome(full_run(FIRST, FACTS), 0.5)
    per_doubling = math.log(0.6 / 0.5) / 2
    added = stage.adjusted(RECIPE, 128, [calibrated, short, long])
    assert added == pytest.approx(per_doubling - 0.01 / 2, abs=1e-3)


def test_momentum_held_constant_goes_with_the_learning_rate() -> None:
    """At equal lr / (1 - momentum); a cycled one leaves it alone."""
    stage = choice(MomentumChoice, 0.95)
    assert stage.variant(RECIPE, 0.95).max_lr == 0.1
    assert stage.variant(replace(RECIPE, schedule="constant"), 0.95).max_lr == pytest.approx(0.05)


TUNED = replace(RECIPE, weight_decay=4e-3)


@pytest.mark.parametrize(("tuned", "changed"), [(0.3, True), (0.6, False), (2.4, False)])
def test_the_answer_is_the_better_full_run(tuned: float, changed: bool) -> None:
    """It is tested once, on the same seed; the sealed test takes no part in the choice."""

    def loss(run: Run) -> float:
        good = tuned if run.weight_decay == 4e-3 else 0.5
        return 9.0 if run.opens_test else good

    stage = Answer(name="final", facts=FACTS, baselines=False)
    decision, outcomes = decided(stage, loss, recipe=TUNED)
    assert ("weight_decay" not in decision.values) is changed
    tested = [o.run for o in outcomes if o.run.opens_test]
    answer = TUNED if changed else FIRST
    assert tested == [full_run(answer, FACTS, opens_test=True)]
    assert decision.evidence["test_loss"] == {"mean": 9.0, "std": None, "n": 1}


def test_a_tie_goes_to_the_first_recipe() -> None:
    """What the stages changed has to have a lower loss."""
    stage = Answer(name="final", facts=FACTS, baselines=False)
    decision, _ = decided(stage, flat, "overfitting", recipe=TUNED)
    assert decision.values == {"weight_decay": 1e-3}


def test_what_was_measured_to_be_worse_is_not_taken() -> None:
    """Of five held-out examples that say little, too, where the prior promises a gain."""
    few = replace(FACTS, held_out_examples=5)

    def loss(run: Run) -> float:
        return 0.51 if run.weight_decay > 1e-3 else 0.5

    stage = Answer(name="final", facts=few, baselines=False)
    decision, _ = decided(stage, loss, "overfitting", recipe=TUNED)
    assert decision.values["weight_decay"] == 1e-3
    choose = replace(choice(WeightDecayChoice, 1e-2, 1e-4), facts=few, rate=1e-6)
    decision, outcomes = decided(choose, loss, "overfitting")
    assert len(outcomes) >= 1
    assert decision.incumbent_kept


def test_a_run_above_chance_that_fits_its_training_data_is_an_answer() -> None:
    """The best of the rates, with a warning: it overfits, and more regularisation is tried."""
    stage = FirstRun(name="first_run", facts=FACTS, lower=0.25)
    ends = {0.1: 3.0, 0.025: 2.7, 0.00625: 2.8}

    def done(run: Run) -> Outcome:
        end = ends[run.schedule.max_lr]
        return replace(outcome(run, end), curve=first_curve("overfitting", end))

    decision, outcomes = walk(stage, FIRST, lambda runs: list(map(done, runs)))
    assert [o.run.schedule.max_lr for o in outcomes] == list(ends)
    assert decision.answered
    assert decision.values == {"max_lr": 0.025, "min_lr": 0.0025}
    assert "no better than guessing" in decision.reason
    assert "overfitting: " in decision.reason
    lost = replace(done(full_run(FIRST, FACTS)), curve=first_curve("horizontal", 3.0))
    assert math.isinf(stage.end_loss(lost))


def test_a_candidate_that_has_learnt_nothing_is_lost() -> None:
    """Even if it ends a little below chance, and the first run overfits far above it."""

    def loss(run: Run) -> float:
        return 0.995 * FACTS.chance_loss if run.weight_decay > 1e-3 else 3.0

    decision, outcomes = decided(choice(WeightDecayChoice, 1e-4), loss, "overfitting")
    assert outcomes
    assert decision.incumbent_kept


def test_a_study_that_changed_nothing_trains_only_its_baseline() -> None:
    """The answer's full run is there, and so is its network."""
    _, outcomes = decided(Answer(name="final", facts=FACTS), flat, recipe=RECIPE)
    labels = [o.run.label for o in outcomes if o.run.kind == "train"]
    assert labels == ["answer tests seed 0", "untuned tests seed 0"]
    answer, untuned = (o.run for o in outcomes if o.run.kind == "train")
    assert untuned.examples == pytest.approx(answer.examples, rel=0.01)  # as long, by their seconds


def test_more_seeds_of_the_answer_can_be_bought() -> None:
    """Their spread is given."""
    decision, _ = decided(
        Answer(name="final", facts=FACTS, seeds=3, baselines=False),
        lambda run: 0.5 + 0.1 * run.replicate,
    )
    assert decision.evidence["test_loss"]["n"] == 3
    assert decision.evidence["test_loss"]["std"] == pytest.approx(0.1)


def test_only_what_is_trained_may_be_tested() -> None:
    """Where the budget is over, the changed recipe that was not trained has no claim."""
    stage = Answer(name="final", facts=FACTS, only=(FIRST,))
    decision, outcomes = decided(stage, flat, recipe=TUNED)
    assert [o.run for o in outcomes] == [full_run(FIRST, FACTS, opens_test=True)]
    assert decision.values == {"weight_decay": 1e-3}


def falls(run: Run, best: float) -> float:
    """Return the end loss of a cycle: lowest at `best`."""
    return 0.5 + 0.1 * abs(math.log(run.schedule.max_lr / best))


def search(
    loss: Callable[[Run], float],
    ramp: Sequence[float] = (2.3,) * 10,
    facts: Facts = FACTS,
    recipe: Recipe | None = None,
    sets_decay: bool = False,
) -> tuple[Decision, list[Outcome]]:
    """Walk a range test where cycles end at `loss(run)`, after a ramp with these losses."""

    def done(run: Run) -> Outcome:
        if run.kind == "train":
            return outcome(run, loss(run))
        rates = list(np.geomspace(1e-5, 10, 10))[: len(ramp)]
        reason = "stop rule" if len(ramp) < 10 else ""
        return replace(outcome(run, 2.3), curve=curve(list(ramp), lr=rates), reason=reason)

    ramps = LRRange(name="lr_range", facts=facts, share=0.08, min_steps=30)
    stage = LRSearch(name="lr_range", facts=facts, ramps=ramps, sets_decay=sets_decay)
    decision, outcomes = walk(stage, recipe or Recipe(), lambda runs: list(map(done, runs)))
    return decision, [o for o in outcomes if o.run.kind == "train"]


@pytest.mark.parametrize("best", [0.01, 0.1, 0.9, 3.0])
def test_short_cycles_find_the_rate(best: float) -> None:
    """Until the best has a worse neighbour on either side, at most six."""
    decision, cycles = search(lambda run: falls(run, best))
    assert decision.answered
    assert abs(math.log(decision.values["max_lr"] / best)) <= math.log(3) * 0.6
    assert 3 <= len(cycles) <= 6
    assert not any(o.run.prunable for o in cycles)
    assert decision.interval is not None
    assert decision.interval[0] < decision.values["max_lr"] < decision.interval[1]


@pytest.mark.parametrize("best", [5e-4, 2e-3, 0.01, 0.03])
def test_the_rate_of_adam_is_lower_for_the_longer_final_run(best: float) -> None:
    """By the cube root of the lengths, from where a parabola through the losses is lowest."""

    def loss(run: Run) -> float:
        return float(0.5 * math.exp(0.1 * math.log(run.schedule.max_lr / best) ** 2))

    decision, cycles = search(loss, recipe=Recipe(optimizer="adamw"))
    steps, final_steps = cycles[-1].run.steps, FACTS.steps(1, 64)
    assert steps < final_steps / 4
    expected = best * (steps / final_steps) ** (1 / 3)
    assert decision.values["max_lr"] == pytest.approx(expected, rel=0.01)
    assert decision.values["min_lr"] == pytest.approx(expected / 10, rel=0.01)
    assert decision.interval is not None
    assert decision.interval[0] < decision.values["max_lr"] < decision.interval[1]
    assert f"{final_steps} steps need a lower rate than {steps}" in decision.reason
    normed = replace(FACTS, batch_norm=True)  # only the direction of its weights counts
    decision, _ = search(loss, recipe=Recipe(optimizer="adamw"), facts=normed)
    assert decision.values["max_lr"] == pytest.approx(best, rel=0.01)
    assert "need a lower rate" not in decision.reason


def test_the_weight_decay_of_adamw_goes_by_rate_and_length() -> None:
    """In all lr x weight_decay is 1 over 20 epochs or more, less in proportion for fewer."""
    recipe = Recipe(optimizer="adamw", schedule="constant").at_lr(0.002)
    facts = replace(FACTS, final_epochs=40, from_scratch=True)
    found = by_length(recipe, facts)
    assert found * 0.002 * facts.steps(1, 64) == pytest.approx(1, rel=0.05)
    assert by_length(recipe, replace(facts, final_epochs=10)) == pytest.approx(2 * found, rel=0.1)
    assert by_length(recipe, replace(facts, final_epochs=1)) == pytest.approx(2 * found, rel=0.1)
    assert decayed(replace(recipe, weight_decay=found), facts) == pytest.approx(1, rel=0.05)
    tiny = by_length(recipe.at_lr(1e-6), facts)
    assert tiny < 100  # what a config may hold
    assert by_length(recipe.at_lr(0.5), replace(facts, train_examples=64)) <= 0.1


@pytest.mark.parametrize(
    ("optimizer", "from_scratch", "sets_decay", "is_set"),
    [
        ("adamw", True, True, True),
        ("adamw", True, False, False),  # the user has set it
        ("adamw", False, True, False),  # what a network has learnt before is not forgotten
        ("sgd", True, True, False),
    ],
)
def test_the_range_test_sets_the_weight_decay_of_adamw(
    optimizer: str, from_scratch: bool, sets_decay: bool, is_set: bool
) -> None:
    """Where nobody else has, and the weights start at random."""
    facts = replace(FACTS, from_scratch=from_scratch)
    recipe = Recipe(optimizer=optimizer)
    decision, _ = search(
        lambda run: falls(run, 0.01), recipe=recipe, facts=facts, sets_decay=sets_decay
    )
    assert ("weight_decay" in decision.values) is is_set
    assert ("weight_decay" in decision.reason) is is_set
    if is_set:
        changed = recipe.at_lr(decision.values["max_lr"])
        assert decision.values["weight_decay"] == by_length(changed, facts)


def test_what_overfits_with_a_weight_decay_that_acts_gets_more_of_it() -> None:
    """With AdamW too; where its decay is too small to act, a lower learning rate instead."""
    first = replace(FIRST, optimizer="adamw", max_lr=0.008, min_lr=8e-4, weight_decay=0.5)
    recipe = first.with_(Decision("first_run", "first_run", ""))

    def loss(run: Run) -> float:
        return 0.5 - 0.1 * (run.weight_decay > 0.5)

    decision, _ = decided(
        choice(WeightDecayChoice, 0.1), loss, "overfitting", recipe=recipe, first=first
    )
    assert decision.values == {"weight_decay": 2.0}
    kept, _ = decided(choice(LRChoice, 0.5, 2.0), loss, "overfitting", recipe=recipe, first=first)
    assert kept.incumbent_kept
    assert "only more regularisation is tried" in kept.reason


def test_a_rate_is_read_between_those_that_were_tried() -> None:
    """At the lowest point of a parabola in logarithms; half-way from a lost neighbour."""
    rates = [0.01 * 3**n for n in range(-1, 3)]
    assert lowest(
        {r: 0.3 * math.exp(0.2 * math.log(r / 0.02) ** 2) for r in rates}
    ) == pytest.approx(0.02)
    assert lowest({0.01: 0.4, 0.03: 0.3, 0.09: math.inf}) == pytest.approx(0.03 / 3**0.5)
    assert lowest({0.01: math.inf, 0.03: 0.3, 0.09: 0.4}) == pytest.approx(0.03 * 3**0.5)
    assert lowest({0.01: math.inf, 0.03: 0.3, 0.09: math.inf}) == pytest.approx(0.03)
    assert lowest({0.01: 0.3, 0.03: 0.4}) == 0.01
    assert lowest({0.01: 0.3, 0.03: 0.3, 0.09: 0.3}) == 0.01
    assert for_longer(100, 800) == pytest.approx(0.5)
    assert for_longer(100, 50) == 1


def test_the_ramp_says_where_the_cycles_begin() -> None:
    """Around .4 x its mark; below the rate where it broke, if it fell too little before."""
    fell, _ = search(lambda run: falls(run, 4e-4), ramp=(2.3, 2.3, 2, 1.8, 2.1, 2.6, 3.1))
    assert len(fell.evidence["rows"]) == 3  # its mark is .001
    assert fell.evidence["rules"]["within_drop"] == pytest.approx(1e-3)
    _, cycles = search(lambda run: falls(run, 1e-3), ramp=(2.3, 2.3, 2.3, 2.3, 2.3, 3.1))
    assert max(o.run.schedule.max_lr for o in cycles) == pytest.approx(2.15e-3 * 3**0.5, rel=0.01)


def test_cycles_become_longer_while_nothing_is_learnt() -> None:
    """Up to a quarter of the final run; the rate is that of the longest ones."""
    full = FACTS.steps(1, 64)
    decision, cycles = search(lambda run: 2.3 if run.steps < 0.2 * full else falls(run, 0.1))
    assert [len([o for o in cycles if o.run.steps == n]) for n in (30, 60, 78)] == [2, 2, 3]
    assert decision.answered
    assert "3 cycles of 78 steps" in decision.reason


@pytest.mark.parametrize("end", [math.inf, 2.302])  # diverged, or at chance
def test_a_rate_below_a_lost_one_is_lowered(end: float) -> None:
    """A longer run has more steps in which to diverge: half-way to the next lower rate."""
    decision, _ = search(lambda run: end if run.schedule.max_lr > 0.5 else falls(run, 0.35))
    assert decision.values["max_lr"] == pytest.approx(0.2, rel=0.01)
    assert "the next higher rate learnt nothing" in decision.reason


def test_where_no_cycle_learns_there_is_no_answer() -> None:
    """What the ramp shows says why."""
    decision, cycles = search(lambda _: 2.4)
    assert not decision.answered
    assert "held-out loss is flat" in decision.reason
    assert len(cycles) <= 10
    broke, _ = search(lambda _: 2.4, ramp=(2.3, 2.1, 2, 2.9, 3.5))
    assert "was better than chance (2.303)" in broke.reason


def test_a_ramp_that_is_long_against_the_final_run_is_not_made() -> None:
    """Cycles alone search from the usual rate, each at most a fifth of the final run."""
    small = replace(FACTS, train_examples=700)  # a final run of 109 steps
    decision, cycles = search(lambda run: falls(run, 0.3), facts=small)
    assert {o.run.steps for o in cycles} == {22}
    assert decision.answered
    assert set(decision.evidence["rules"].values()) == {None}


def test_a_stage_is_replaced_with_its_candidates() -> None:
    """A stage of the user's own stays as it is."""
    made = by_expected_loss(
        Momentum(name="m", facts=FACTS, candidates=(0.97, 0.8)), RECIPE, rate=0.02
    )
    assert isinstance(made, MomentumChoice)
    assert (made.name, made.candidates, made.rate) == ("m", (0.97, 0.8), 0.02)
    own = FirstRun(name="mine", facts=FACTS)
    assert by_expected_loss(own, RECIPE, 0.01) is own


@pytest.mark.parametrize(
    ("optimizer", "examples", "normalised", "decay"),
    [
        ("sgd", 50_000, False, 5e-4),
        ("sgd", 500, False, 5e-3),
        ("sgd", 500, True, 5e-4),
        ("adamw", 500, False, 0.1),
        ("adamw", 500, True, 0.01),
    ],
)
def test_smaller_data_begin_with_more_weight_decay(
    optimizer: str, examples: int, normalised: bool, decay: float
) -> None:
    """By the square root of their size, where no layer normalises."""
    facts = replace(FACTS, train_examples=examples, normalised=normalised)
    assert usual_weight_decay(optimizer, facts) == decay


def test_every_field_has_an_effect() -> None:
    """Also the one of dropout; larger steps are less certain."""
    kinds: Sequence[Any] = (MomentumChoice, WeightDecayChoice, LRChoice, BatchSizeChoice)
    for kind in kinds:
        effect = EFFECTS[kind.field]
        assert effect.final.at(2).sd > effect.final.at(1).sd > 0


def test_where_the_full_run_is_lost_the_final_stage_tries_lower_rates() -> None:
    """In a plan without a first run: a quarter, then a sixteenth."""

    def loss(run: Run) -> float:
        return 0.5 if run.schedule.max_lr < 0.01 else 2.4

    stage = Answer(name="final", facts=FACTS, baselines=False)
    decision, outcomes = decided(stage, loss, recipe=FIRST)
    assert [o.run.schedule.max_lr for o in outcomes if not o.run.opens_test] == [0.025, 0.00625]
    assert decision.values == {"max_lr": 0.00625, "min_lr": 0.000625}
    assert not decided(stage, lambda _: 2.4, recipe=FIRST)[0].answered
