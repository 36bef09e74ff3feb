"""The batch-size stage: equal time, memory, ties, and what is said of the clock."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.curve import Curve, Outcome, Result
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.batch_size import BatchSize
from orchestrator.stages.stage import Stage, walk
from orchestrator.testing import StageConformance, execute, replay

FACTS = Facts(2000, 500, math.log(10), final_epochs=10)
RECIPE = Recipe(max_lr=0.1, min_lr=0.01)
Change = Callable[[Outcome], Outcome]


class TestBatchSize(StageConformance):
    """The batch-size stage keeps the promises of a stage."""

    def make(self) -> Stage:
        return BatchSize(name="batch_size", facts=QuadraticObjective().facts)


def play(
    stage: Stage, *changes: Change, objective: QuadraticObjective | None = None
) -> tuple[Decision, tuple[Outcome, ...]]:
    """Take the stage to its decision, each outcome as the changes make it."""
    objective = objective or QuadraticObjective()

    def outcome_of(run: Run) -> Outcome:
        found = execute(objective, run)
        for change in changes:
            found = change(found)
        return found

    return walk(stage, RECIPE, lambda runs: [outcome_of(run) for run in runs])


def calibrated(**tables: Callable[[int], float]) -> Change:
    """Return the change that gives a calibration these numbers by batch size."""

    def change(o: Outcome) -> Outcome:
        if o.run.kind != "calibrate":
            return o
        new = {what: {str(b): of(b) for b in o.run.batch_sizes} for what, of in tables.items()}
        return replace(o, result=Result(measured={**o.result.measured, **new}))

    return change


def slower(factor: float, chosen: Callable[[Run], bool]) -> Change:
    """Return the change that makes the chosen trials take so many times as long."""

    def change(o: Outcome) -> Outcome:
        if o.run.kind != "train" or not chosen(o.run):
            return o
        return replace(o, result=replace(o.result, seconds=factor * o.result.seconds))

    return change


def ending(loss: Callable[[Run], float], metric: Callable[[Run], float] = lambda _: 0.5) -> Change:
    """Return the change that lets trials end with this loss and this metric."""

    def change(o: Outcome) -> Outcome:
        if o.run.kind != "train":
            return o
        end, points = loss(o.run), len(o.curve)
        fell = replace(o.curve, held_out_loss=np.linspace(end + 1, end, points))
        return replace(o, curve=replace(fell, metric=np.full(points, metric(o.run))))

    return change


def repeated(outcomes: tuple[Outcome, ...]) -> set[tuple[int, int]]:
    """Return batch size and replicate of the trials that were made again."""
    return {(o.run.batch_size, o.run.replicate) for o in outcomes if o.run.attempt}


# --- time


@pytest.mark.parametrize(
    ("seconds_per_step", "spread", "factor", "late"),
    [
        (0.1, 0.0, 1.02, False),
        (0.1, 0.0, 1.04, True),
        (0.1, 0.02, 1.05, True),  # of a trial of 5 s or more the calibration's spread is no excuse
        (0.001, 0.0, 1.02, False),
        (0.001, 0.0, 1.04, True),
        (0.001, 0.02, 1.05, False),  # within three times the spread
        (0.001, 0.02, 1.08, True),
    ],
)
def test_a_trial_that_misses_its_time_by_more_than_three_percent_is_repeated(
    seconds_per_step: float, spread: float, factor: float, late: bool
) -> None:
    """A trial of under 5 s also may by what the calibration's rounds were apart."""
    objective = QuadraticObjective(Quadratic(seconds_per_step=seconds_per_step))
    _, outcomes = play(
        BatchSize(name="batch_size", facts=objective.facts, candidates=(32,)),
        calibrated(spread=lambda _: spread),
        slower(factor, lambda run: (run.batch_size, run.replicate, run.attempt) == (32, 0, 0)),
        objective=objective,
    )
    assert repeated(outcomes) == ({(32, 0)} if late else set())


def test_of_two_sizes_the_one_that_is_not_as_calibrated_is_the_late_one() -> None:
    """Beside two trials of 32 that take 10 % longer those of 64 are on time, and it is said."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(32,), max_seeds=2)
    decision, outcomes = play(stage, slower(1.1, lambda run: run.batch_size == 32))
    assert repeated(outcomes) == {(32, 0), (32, 1)}
    assert "2 of 4 trials missed the planned time" in decision.reason
    assert [row["on time"] for row in decision.evidence["rows"]] == ["0 of 2", "2 of 2"]


def test_a_repeat_that_fails_takes_no_trial_away() -> None:
    """The first attempt's loss is as good, only its time is not."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(32,), max_seeds=2)

    def lose(o: Outcome) -> Outcome:
        return replace(o, state="failed", reason="boom") if o.run.attempt else o

    late = slower(2.0, lambda run: (run.batch_size, run.replicate) == (32, 0))
    decision, outcomes = play(stage, late, lose)
    assert repeated(outcomes) == {(32, 0)}
    assert all(row["held_out_loss"] and row["seeds"] == 2 for row in decision.evidence["rows"])
    assert "1 of 4 trials missed the planned time" in decision.reason


def test_a_machine_that_has_become_slower_for_all_trials_makes_none_late() -> None:
    """Their ratios are as calibrated."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(32,))
    decision, outcomes = play(stage, slower(1.5, lambda run: True))
    assert not repeated(outcomes)
    assert "missed the planned time" not in decision.reason


def test_of_the_default_sizes_those_that_gain_the_least_speed_are_left_out() -> None:
    """Eight sizes, six are tried: not 128 and 512, which are no faster than the size before."""
    facts = replace(FACTS, train_examples=50_000)
    speed = {16: 1, 32: 2, 64: 4, 128: 4, 256: 8, 512: 8, 1024: 16, 2048: 32}
    _, outcomes = play(
        BatchSize(name="batch_size", facts=facts, share=0.01, ramp_share=0.01),
        calibrated(seconds_per_step=lambda b: 1e-3 * b / speed[b]),
    )
    tried = {o.run.batch_size for o in outcomes if o.run.kind == "train"}
    assert tried == {16, 32, 64, 256, 1024, 2048}


# --- the answer


@pytest.mark.parametrize(("tie", "chosen"), [("paper", 128), ("incumbent", 64)])
def test_a_tie_goes_to_whom_the_option_says(tie: str, chosen: int) -> None:
    """Three equal sizes: the largest, or the one that the recipe came in with."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(16, 128), tie=tie)  # type: ignore[arg-type]
    near = {16: (0.5, 0.49, 0.5), 64: (0.49, 0.5, 0.49), 128: (0.495, 0.5, 0.5)}
    decision, _ = play(stage, ending(lambda run: near[run.batch_size][run.replicate]))
    assert decision.values["batch_size"] == chosen
    assert set(decision.tied_with) == {16, 64, 128} - {chosen}
    assert ("the largest is taken" in decision.reason) == (tie == "paper")


@pytest.mark.parametrize(("larger_is_better", "by_metric"), [(True, 64), (False, 32)])
def test_loss_and_metric_that_prefer_different_sizes_are_told(
    larger_is_better: bool, by_metric: int
) -> None:
    """As the paper found; where both prefer the same size nothing is said."""
    facts = replace(FACTS, metric="accuracy", larger_is_better=larger_is_better)
    stage = BatchSize(name="batch_size", facts=facts, candidates=(32,))
    decision, _ = play(
        stage,
        ending(
            lambda run: 0.3 if run.batch_size == 32 else 0.5,
            lambda run: 0.8 if run.batch_size == 32 else 0.9,
        ),
    )
    assert decision.values["batch_size"] == 32
    said = f"(by loss 32 leads, by accuracy {by_metric})"
    assert (said in decision.reason) == (by_metric == 64)
    assert ("leads, by" in decision.reason) == (by_metric == 64)


def test_of_losses_below_zero_the_lowest_is_taken() -> None:
    """A loss of the user's own may be: it has no logarithm, so there are no ties."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(32,))
    decision, _ = play(stage, ending(lambda run: -1.0 if run.batch_size == 32 else -0.9))
    assert decision.values["batch_size"] == 32
    assert not decision.tied_with


# --- memory, and what failed


def test_batch_sizes_are_compared_at_equal_time() -> None:
    """Every timed trial takes the same seconds on the fake clock, to within half a step each."""
    objective = QuadraticObjective()
    stage = BatchSize(name="batch_size", facts=objective.facts)
    _, outcomes = replay(stage, RECIPE, objective)
    timed = [o for o in outcomes if o.run.timed and o.run.kind == "train"]
    ranges = [(o.result.seconds, objective.step_seconds(o.run.batch_size) / 2) for o in timed]
    assert len({o.run.batch_size for o in timed}) >= 3
    assert max(took - half for took, half in ranges) <= min(took + half for took, half in ranges)


def test_batch_sizes_that_do_not_fit_are_left_out() -> None:
    """What the memory probe refuses is never trained."""
    objective = QuadraticObjective(Quadratic(largest_batch=40))
    stage = BatchSize(name="batch_size", facts=objective.facts, candidates=(16, 32, 128))
    decision, outcomes = replay(stage, replace(RECIPE, batch_size=32), objective)
    trained = {o.run.batch_size for o in outcomes if o.run.kind in ("train", "ramp")}
    assert trained == {16, 32}
    assert decision.values["batch_size"] in (16, 32)


@pytest.mark.parametrize("estimated", [True, False])
def test_the_table_says_where_memory_is_an_estimate(estimated: bool) -> None:
    """On a processor it is one, on a GPU the probe has really trained."""

    def probed(o: Outcome) -> Outcome:
        if o.run.kind != "probe":
            return o
        needs = {str(b): b * 2**20 for b in o.run.batch_sizes}
        table = {**o.result.measured, "bytes": needs, "estimated": estimated}
        return replace(o, result=Result(measured=table))

    decision, _ = play(BatchSize(name="batch_size", facts=FACTS, candidates=(32,)), probed)
    column = "peak memory in MiB (estimated)" if estimated else "peak memory in MiB"
    assert [row[column] for row in decision.evidence["rows"]] == [32, 64]


def test_a_probe_that_fails_leaves_out_no_batch_size() -> None:
    """What fits is not known then; the runs themselves tell."""
    objective = QuadraticObjective()
    stage = BatchSize(name="batch_size", facts=objective.facts, candidates=(16, 32))
    outcomes: list[Outcome] = []
    while runs := stage.propose(RECIPE, outcomes):
        found = [execute(objective, run) for run in runs]
        outcomes += [
            replace(o, state="failed", result=Result()) if o.run.kind == "probe" else o
            for o in found
        ]
    assert {o.run.batch_size for o in outcomes if o.run.kind == "train"} == {16, 32, 64}


def test_the_repeat_of_a_trial_that_took_too_long_counts_instead() -> None:
    """Once, and on time: with the first attempt's loss 32 would be far behind, it is far ahead."""
    stage = BatchSize(name="batch_size", facts=FACTS, candidates=(32,))
    late = slower(2.0, lambda run: run.batch_size == 32 and not run.attempt)
    ends = ending(lambda run: 0.5 if run.batch_size == 64 else 0.3 if run.attempt else 0.9)
    decision, outcomes = play(stage, late, ends)
    assert {size for size, _ in repeated(outcomes)} == {32}
    assert max(o.run.attempt for o in outcomes) == 1
    assert decision.values["batch_size"] == 32
    assert decision.evidence["rows"][0]["held_out_loss"] == pytest.approx(0.3)
    assert "missed the planned time" not in decision.reason


def test_a_lost_calibration_leaves_the_batch_size_of_many_default_ones() -> None:
    """More sizes than are tried, and no speed known to choose them by: the incumbent stays."""
    facts = replace(FACTS, train_examples=50_000)
    decision, outcomes = walk(
        BatchSize(name="batch_size", facts=facts),
        RECIPE,
        lambda runs: [Outcome(r, "k", "failed", Curve.of([]), Result(), "boom") for r in runs],
    )
    assert len(outcomes[0].run.batch_sizes) == 8
    assert decision.values == {"batch_size": RECIPE.batch_size}
    assert decision.reason.endswith("stays: no timed trial finished")
