"""The range test's decisions, on made-up curves."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages import suggest
from orchestrator.stages.lr_range import LR_FACTOR, LRRange
from orchestrator.stages.ramps import ramp, read
from orchestrator.stages.stage import held_out_share, walk
from orchestrator.testing import replay

CHANCE = 2.3
FACTS = Facts(train_examples=2000, held_out_examples=500, chance_loss=CHANCE, final_epochs=10)
Loss = Callable[[float, Run], float]


def made_up(run: Run, loss: Loss) -> Outcome:
    """Return the outcome of a ramp whose held-out loss is a function of lr."""
    points: list[Point] = []
    for step in run.report_steps():
        rates = run.schedule.at((step - 1) / run.steps)
        value = loss(rates.lr, run)
        points.append(Point(step, step / run.steps, rates.lr, rates.momentum, value, value))
        if run.stop_loss is not None and not value <= run.stop_loss:
            return Outcome.stopped(run, run.label, points, "stop rule", pruned=False)
    return Outcome(run, run.label, "finished", Curve.of(points), Result(1.0, run.examples))


def answer(loss: Loss, **options: float) -> tuple[Decision, tuple[Outcome, ...]]:
    """Return the decision on ramps of this loss, and the ramps."""
    stage = LRRange(name="lr_range", facts=FACTS, **options)  # type: ignore[arg-type]
    return walk(stage, Recipe(), lambda runs: [made_up(run, loss) for run in runs])


def valley(edge: float, drop: float = 0.6, broken: float = math.nan) -> Loss:
    """Return a loss that falls by `drop` of chance over two decades up to `edge`, then breaks."""

    def loss(lr: float, run: Run) -> float:
        if lr > edge:
            return broken
        return CHANCE * (1 - drop * float(np.clip(math.log10(lr / edge) / 2 + 1, 0, 1)))

    return loss


def shapes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the ramps' kinds in short."""
    return [{"exponential_ramp": "b", "range_test": "l"}[o.run.schedule.name] for o in outcomes]


@pytest.mark.parametrize("broken", [math.nan, math.inf, 100.0])
def test_reads_the_edge_whatever_lies_beyond_it(broken: float) -> None:
    """NaN, inf and a large loss end a ramp; max_lr is the margin's share of the last good rate."""
    decision, outcomes = answer(valley(0.2, broken=broken))
    assert shapes(outcomes) == ["b", "l", "l", "l"]
    assert all(o.reason for o in outcomes)
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 0.2, rel=0.1)
    assert decision.values["min_lr"] == pytest.approx(decision.values["max_lr"] / 10)


def test_interval_is_what_the_single_ramps_say() -> None:
    """The median counts; lowest and highest reading bound the interval."""
    edges = {0: 0.1, 1: 0.15, 2: 0.2}
    decision, _ = answer(lambda lr, run: valley(edges[run.replicate])(lr, run))
    assert decision.interval == pytest.approx((0.1 * LR_FACTOR, 0.2 * LR_FACTOR), rel=0.1)
    assert decision.values["max_lr"] == pytest.approx(0.15 * LR_FACTOR, rel=0.1)


def test_linear_ramps_end_at_three_times_the_brackets_mark() -> None:
    """The hand-off is bounded: one that ends far too high reads too high."""
    _, outcomes = answer(valley(0.2))
    mark = read(outcomes[0], CHANCE)
    assert mark is not None
    ends = [o.run.schedule.max_lr for o in outcomes[1:]]
    assert ends == pytest.approx([3 * mark.max_lr] * 3, rel=0.01)


def test_says_that_the_ramps_fell_too_little() -> None:
    """A drop of 5 %: all are made longer, a lower end is tried, then a plain no with numbers."""
    decision, outcomes = answer(valley(0.2, drop=0.05))
    assert shapes(outcomes) == ["b"] * 2 + ["l"] * 7
    assert [o.run.steps // outcomes[0].run.steps for o in outcomes] == [1] + [2] * 4 + [4] * 4
    *ends, last = [o.run.schedule.max_lr for o in outcomes[2:]]
    assert ends == [pytest.approx(3 * last, rel=0.01)] * 6
    assert not decision.answered
    assert decision.reason == (
        "no answer: the ramps fell too little, by 5 % of the untrained loss at most where 10 % are"
        " needed: allow more steps (max_steps, share), accept less (min_drop), or set"
        " recipe.max_lr and leave lr_range out of the plan"
    )


def test_a_slow_start_is_answered_by_longer_ramps() -> None:
    """What falls too little in a short ramp and enough in a longer one is answered."""
    decision, outcomes = answer(lambda lr, run: valley(0.2, 5e-4 * run.steps)(lr, run))
    assert outcomes[-1].run.steps > outcomes[0].run.steps
    assert decision.values["max_lr"] == pytest.approx(0.2 * LR_FACTOR, rel=0.1)


def test_says_that_the_loss_is_flat() -> None:
    """Neither falls nor breaks: a wider and longer bracket, then a plain no; no linear ramps."""
    decision, outcomes = answer(lambda lr, run: CHANCE)
    assert shapes(outcomes) == ["b", "b"]
    assert outcomes[1].run.schedule.max_lr == 100 * outcomes[0].run.schedule.max_lr
    assert not decision.answered
    assert decision.reason.startswith("no answer: held-out loss is flat: from lr 1")
    assert "it stayed between 2.3 and 2.3 (untrained: 2.3)" in decision.reason


def test_says_that_it_diverges_at_once() -> None:
    """Broken from the first rate on: a bracket a thousand times lower, then a plain no."""
    decision, outcomes = answer(lambda lr, run: math.inf)
    assert shapes(outcomes) == ["b", "b"]
    assert outcomes[1].run.schedule.min_lr == pytest.approx(1e-8)
    assert decision.reason.startswith("no answer: it diverges at once: at lr 1.2e-08 held-out loss")
    assert decision.reason.endswith(
        "scale the inputs (in a regression the targets too), or lower start_lr"
    )


def test_a_network_that_starts_above_chance_has_not_diverged() -> None:
    """Raw targets of a regression: it falls from five times chance, and the edge is read."""
    facts = replace(FACTS, untrained_loss=5 * CHANCE)
    stage = LRRange(name="lr_range", facts=facts)

    def loss(lr: float, run: Run) -> float:
        return 5 * valley(0.2, drop=0.9, broken=10 * CHANCE)(lr, run)

    decision, _ = walk(stage, Recipe(), lambda runs: [made_up(run, loss) for run in runs])
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 0.2, rel=0.1)
    lost, _ = walk(stage, Recipe(), lambda runs: [made_up(run, lambda *_: 1e9) for run in runs])
    assert "(untrained: 11.5)" in lost.reason


def test_an_edge_below_the_bracket_is_found() -> None:
    """Inputs so large that only tiny rates work: the bracket goes there."""
    decision, _ = answer(valley(1e-6))
    assert decision.values["max_lr"] == pytest.approx(1e-6 * LR_FACTOR, rel=0.2)


def test_says_that_it_never_diverges() -> None:
    """Falls to the last rate of a wider bracket too: a plain no, without linear ramps."""
    decision, outcomes = answer(lambda lr, run: CHANCE * (lr / 1e-6) ** -0.1)
    assert shapes(outcomes) == ["b", "b"]
    assert decision.reason.startswith("no answer: it never diverges, nothing broke up to lr ")
    assert decision.reason.endswith("raise end_lr")


def test_an_edge_above_the_bracket_is_found() -> None:
    """The bracket goes further once."""
    decision, outcomes = answer(valley(40.0))
    assert shapes(outcomes) == ["b", "b", "l", "l", "l"]
    assert decision.values["max_lr"] == pytest.approx(40 * LR_FACTOR, rel=0.2)


@pytest.mark.parametrize(("edge", "rounds"), [(0.3, 2), (1.0, 3), (9.0, 5)])
def test_linear_ramps_that_do_not_break_go_further(edge: float, rounds: int) -> None:
    """An edge that the linear ramps see at six times the bracket's, or more, is still found."""
    edges = {"exponential_ramp": 0.05, "range_test": edge}
    decision, outcomes = answer(lambda lr, run: valley(edges[run.schedule.name])(lr, run))
    assert shapes(outcomes) == ["b"] + ["l"] * 3 * rounds
    assert decision.values["max_lr"] == pytest.approx(edge * LR_FACTOR, rel=0.1)


def test_where_ramps_of_adam_break_nowhere_the_bracket_answers() -> None:
    """Bounded steps follow a slow ramp to any rate; with SGD that stays no answer."""

    def loss(lr: float, run: Run) -> float:
        if run.schedule.name == "exponential_ramp":
            return valley(0.05)(lr, run)
        return CHANCE * (1 - 0.9 * lr / run.schedule.max_lr)

    stage = LRRange(name="lr_range", facts=FACTS)
    adam, sgd = (
        walk(stage, Recipe(optimizer=name), lambda runs: [made_up(run, loss) for run in runs])[0]
        for name in ("adamw", "sgd")
    )
    assert not sgd.answered
    assert re.search("nothing broke up to lr .*: allow more steps .* set recipe.max_lr", sgd.reason)
    assert adam.values["max_lr"] == pytest.approx(LR_FACTOR * 0.05, rel=0.3)
    assert adam.interval is not None
    assert "the linear ones broke nowhere up to lr" in adam.reason


def slow(recipe: Recipe, patience: int = 0) -> tuple[Decision, list[Run]]:
    """Return the decision on a net that learns best at lr .005, and its ramps.

    The more of a ramp lies above that the less the loss falls, at most by a third; by a quarter of
    that in `patience` steps or fewer. Nothing breaks. The bracket sees a plateau that ends at .02.
    """

    def loss(lr: float, run: Run) -> float:
        if run.schedule.name == "exponential_ramp":
            return valley(0.02, drop=0.07)(lr, run)
        drop = min(1.0, 0.005 / run.schedule.max_lr) / (3 if run.steps > patience else 12)
        return CHANCE * (1 - drop * min(lr / 0.005, 0.005 / lr))

    stage = LRRange(name="lr_range", facts=FACTS)
    decision, outcomes = walk(stage, recipe, lambda runs: [made_up(run, loss) for run in runs])
    return decision, [o.run for o in outcomes if o.run.schedule.name == "range_test"]


@pytest.mark.parametrize("optimizer", ["adamw", "torch.optim.SGD"])
def test_ramps_that_go_too_far_for_a_slow_start_end_lower(optimizer: str) -> None:
    """Ramps to .06 fall by 3 %, those to .0067 by 25 %: ends are compared, one seed each."""
    decision, runs = slow(Recipe(optimizer=optimizer))
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 0.005, rel=0.4)
    assert re.search(
        r"; ramps to lr 0.006\d fell further than to 0.0\d+ and 0.0\d+$", decision.reason
    )
    ends = [run.schedule.max_lr for run in runs if run.steps == runs[-1].steps]
    assert ends == pytest.approx([e * ends[-1] for e in (9, 9, 9, 3, 1, 1 / 3, 1, 1)], rel=0.02)


def test_longer_ramps_of_sgd_that_break_nowhere_go_further() -> None:
    """What fell too little up to lr .05 falls enough at twice the length, and breaks at 1."""

    def loss(lr: float, run: Run) -> float:
        if run.schedule.name == "exponential_ramp":
            return valley(0.02, drop=0.12)(lr, run)
        long, high = run.steps > planned, run.schedule.max_lr > 0.5
        return valley(1.0 if long else 0.04, drop=0.3 if high else 0.2 if long else 0.08)(lr, run)

    planned = answer(loss=valley(0.2))[1][0].run.steps
    decision, outcomes = answer(loss)
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 1.0, rel=0.6)
    ends = [o.run.schedule.max_lr for o in outcomes if o.run.steps == 2 * planned]
    assert ends[:4] == pytest.approx([0.05] * 3 + [0.15], rel=0.05)


def test_the_best_end_is_then_given_more_steps() -> None:
    """A net that also needs long ramps: other ends first, then twice the length there."""
    planned = slow(Recipe(optimizer="adamw"))[1][0].steps
    decision, runs = slow(Recipe(optimizer="adamw"), patience=planned)
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 0.005, rel=0.4)
    assert [run.steps // planned for run in runs] == [1] * 8 + [2] * 3


def test_ramps_of_adam_that_went_further_and_fell_less_go_back() -> None:
    """They break nowhere; the end from which they fell furthest counts, not the last."""

    def loss(lr: float, run: Run) -> float:
        if run.schedule.name == "exponential_ramp":
            return valley(0.005, drop=0.3)(lr, run)
        return CHANCE * (
            1 - lr / run.schedule.max_lr * (0.4 if run.schedule.max_lr < 0.02 else 0.2)
        )

    stage = LRRange(name="lr_range", facts=FACTS)
    recipe = Recipe(optimizer="adamw")
    decision, outcomes = walk(stage, recipe, lambda runs: [made_up(run, loss) for run in runs])
    assert shapes(outcomes) == ["b"] + ["l"] * 7  # three, three further, one lower
    assert decision.values["max_lr"] == pytest.approx(LR_FACTOR * 0.0137, rel=0.2)
    assert "ramps to lr 0.01" in decision.reason


def test_the_bracket_of_adam_ends_lower() -> None:
    """At lr .1; that of SGD at 10, and both at what is asked for."""
    stage = LRRange(name="lr_range", facts=FACTS)
    asked = replace(stage, end_lr=0.5)
    ends = [
        s.propose(Recipe(optimizer=name), [])[0].schedule.max_lr
        for s in (stage, asked)
        for name in ("sgd", "adamw", "torch.optim.RMSprop", "torch.optim.SGD")
    ]
    assert ends == [10, 0.1, 0.1, 10] + [0.5] * 4


def test_linear_ramps_that_break_at_once_are_made_lower_once() -> None:
    """A bracket that read a plateau far too high does not end the test."""
    edges = {"exponential_ramp": 1.0, "range_test": 0.05}
    decision, outcomes = answer(lambda lr, run: valley(edges[run.schedule.name])(lr, run))
    assert shapes(outcomes) == ["b"] + ["l"] * 6
    assert decision.values["max_lr"] == pytest.approx(0.05 * LR_FACTOR, rel=0.2)


def test_a_ramp_that_does_not_count_is_told() -> None:
    """Two of three linear ramps agree: the median is theirs, with a word on the third."""

    def loss(lr: float, run: Run) -> float:
        odd = run.schedule.name == "range_test" and run.replicate == 1
        return valley(0.1, drop=0.01 if odd else 0.6)(lr, run)

    decision, _ = answer(loss)
    assert re.search(r"median of 2 of 3 ramps \(.* to .*; 1 fell too little\)$", decision.reason)


def test_ramps_that_disagree_give_no_answer() -> None:
    """One of three falls, one does not, one does not break, at twice the length too."""

    def loss(lr: float, run: Run) -> float:
        if run.schedule.name == "exponential_ramp":
            return valley(0.1)(lr, run)
        return [valley(0.1), valley(0.1, drop=0.01), valley(9.0)][run.replicate](lr, run)

    decision, outcomes = answer(loss)
    assert not decision.answered
    assert re.match(
        "no answer: the ramps disagree: they fell by (60|59) %, 15 %, 1 % ", decision.reason
    )
    assert outcomes[-1].run.steps > outcomes[1].run.steps


def test_the_quadratic_that_cannot_learn_gets_no_answer() -> None:
    """Nearly all of the loss is floor: there is nothing to learn, and that is said."""
    objective = QuadraticObjective(Quadratic(floor=50.0, start_loss=0.2, noise=0.1))
    decision, _ = replay(LRRange(name="lr_range", facts=objective.facts), Recipe(), objective)
    assert not decision.answered
    assert "fell too little" in decision.reason


def test_all_rules_stand_side_by_side_in_the_evidence() -> None:
    """Every rule has its mark, without a margin; the chosen one is named; it is plain JSON."""
    decision, _ = answer(valley(0.2))
    assert set(decision.evidence["rules"]) == set(suggest.RULES)
    assert [r["rule"] for r in decision.evidence["rows"] if r["used"]] == ["within_drop"]
    assert decision.evidence["rules"]["within_drop"] == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("schedule", "momentum"),
    [("paper", 0.85), ("fastai", 0.85), ("linear", 0.95), ("constant", 0.95)],
)
def test_ramps_have_the_momentum_of_the_schedules_peak(schedule: str, momentum: float) -> None:
    """Where momentum is cycled it is lowest at the highest lr, else at its maximum."""
    recipe = Recipe(schedule=schedule, max_momentum=0.95, min_momentum=0.85)
    run = ramp(recipe, FACTS, "range_test", 0.01, 1.0, 100, 0)
    assert {run.schedule.at(p).momentum for p in (0.0, 0.5, 1.0)} == {momentum}


@pytest.mark.parametrize("batch_size", [1, 2, 8, 32, 512])
@pytest.mark.parametrize("steps", [10, 80, 400])
def test_evaluations_cost_at_most_half_of_the_training(batch_size: int, steps: int) -> None:
    """A held-out example costs a third of a training example; small ramps report less often."""
    run = ramp(Recipe(batch_size=batch_size), FACTS, "range_test", 0.01, 1.0, steps, 0)
    evaluated = len(run.report_steps()) * run.held_out_examples
    assert run.held_out_examples >= 1
    assert evaluated / 3 <= 0.5 * run.examples
    assert len(run.report_steps()) >= 10


def test_short_runs_report_less_often_rather_than_on_too_few_examples() -> None:
    """Fifty examples at least, as long as ten reports are left."""
    assert held_out_share(12_800, 40, cost=0.4) == (40, 384)
    assert held_out_share(1_000, 40, cost=0.4) == (24, 50)
    assert held_out_share(100, 40, cost=0.4) == (10, 12)
    assert held_out_share(2, 40, cost=0.4) == (2, 1)


def test_a_ramp_of_the_training_objective_evaluates_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: the held-out examples that really go through the network, a third each."""
    from orchestrator.config.sections import DataConfig, ModelConfig
    from orchestrator.testing import execute
    from orchestrator.training import trainer
    from orchestrator.training.objective import TrainingObjective, TrainingSettings

    counted: list[int] = []
    evaluate = trainer.evaluate

    def counting(model, inputs, part, **more):  # type: ignore[no-untyped-def]
        counted.append(len(part))
        return evaluate(model, inputs, part, **more)

    monkeypatch.setattr(trainer, "evaluate", counting)
    objective = TrainingObjective(
        TrainingSettings(DataConfig(), ModelConfig(width=0.1), threads=1), cache=tmp_path
    )
    run = ramp(Recipe(batch_size=16), objective.facts, "range_test", 1e-4, 1e-2, 80, 0)
    outcome = execute(objective, run)
    assert outcome.result.examples == run.examples
    assert 0 < sum(counted) / 3 <= 0.5 * run.examples


def test_a_model_that_raises_at_every_rate_is_not_tried_at_ever_lower_ones() -> None:
    """A round of linear ramps that fail as the bracket did: the rates are not why."""
    stage = LRRange(name="lr_range", facts=FACTS)

    def failed(run: Run) -> Outcome:
        half = made_up(run, lambda lr, _: 0.97 * CHANCE).curve.points()[:20]
        return Outcome(run, run.label, "failed", Curve.of(half), Result(0.0, 0), "RuntimeError")

    decision, outcomes = walk(stage, Recipe(), lambda runs: [failed(run) for run in runs])
    assert len(outcomes) <= 2 + stage.ramps
    assert "every ramp failed" in decision.reason
