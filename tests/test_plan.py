"""The plan of a study: prices of runs, plays in made-up worlds, the dry run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.plan import plan_study
from orchestrator.plan.estimate import Range, likeliest, play, plays
from orchestrator.plan.prices import Prices, learnt, probe
from orchestrator.plan.worlds import KINDS, World
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.report.terminal import Terminal
from orchestrator.report.text import planned
from orchestrator.schedules import Schedule
from orchestrator.stages.final import Final
from orchestrator.stages.stage import Stage, cycle, walk
from orchestrator.testing import execute
from orchestrator.training.calibration import gain_of_one_thread
from tests.trainings import a_run, losses, objective, train

FACTS = Facts(train_examples=2000, held_out_examples=500, chance_loss=math.log(10), final_epochs=10)
RECIPE = Recipe(max_lr=0.1, min_lr=0.01, batch_size=64)
PRICES = Prices(FACTS, {16: 0.0013, 64: 0.0023, 128: 0.0036})


def a_config(**changes: Any) -> Config:
    return Config.from_mapping(
        {
            "effort": "thorough",
            "objective": {"name": "quadratic"},
            "tracking": {"name": "none"},
            **changes,
        }
    )


class Timed:
    """An objective on a clock of its own: steps, evaluations and a start that cost what it says."""

    facts = FACTS

    def __init__(self) -> None:
        self.now = 0.0

    def context(self, run: Run) -> dict[str, Any]:
        return {}

    def clock(self) -> float:
        return self.now

    def __call__(self, run: Run, session: Session) -> Result:
        if run.kind == "probe":
            return Result(measured={"fits": {"64": True}, "bytes": {"64": 1000}})
        self.now += 0.5
        trained = 0.0
        for stop in run.report_steps():
            trained = stop * (0.01 + 0.001 * run.batch_size)
            self.now += (trained / stop) * run.steps / len(run.report_steps())
            last = stop == run.steps
            self.now += 0.02 + 1e-4 * (500 if last else run.held_out_examples)
            session.report(Point(stop, stop / run.steps, 0.1, 0.9, 1.0, 1.0, seconds=trained))
        return Result(seconds=trained, examples=run.examples)


def test_the_probe_tells_steps_evaluations_and_start_apart() -> None:
    """On an exact clock each price is what the objective charges."""
    objective = Timed()
    prices = probe(objective, RECIPE, [16, 64], objective.clock)
    assert prices.step == pytest.approx({64: 0.074, 16: 0.026})
    assert prices.example == pytest.approx(1e-4)
    assert prices.report == pytest.approx(0.02)
    assert prices.run == pytest.approx(0.5)


def test_the_sealed_test_is_priced_by_its_own_size() -> None:
    """The final runs of a dry run evaluate as many examples as the test has."""
    made = objective()  # 100 held out, 50 to test
    assert probe(made, Recipe(batch_size=32), [32]).test_examples == 50


def test_a_run_costs_what_its_parts_cost() -> None:
    """The price of a cycle is the time that the objective takes for it, evaluations included."""
    objective = Timed()
    prices = probe(objective, RECIPE, [16, 64], objective.clock)
    for size in (16, 64):
        run = cycle(Recipe(max_lr=0.1, batch_size=size), 100, 0, "")
        began = objective.now
        execute(objective, run)
        assert prices.of(run) == pytest.approx(objective.now - began)


def test_sizes_that_are_too_slow_to_probe_lie_on_a_line() -> None:
    """Between and beyond the sizes that were measured, seconds go on linearly."""
    prices = Prices(FACTS, {16: 1.0, 32: 1.5})
    assert [prices.step_seconds(b) for b in (16, 24, 32, 64)] == pytest.approx([1, 1.25, 1.5, 2.5])
    assert Prices(FACTS, {16: 1.0}).step_seconds(32) == 2


def test_prices_are_learnt_from_runs_and_from_a_calibration() -> None:
    """Runs tell seconds per step; a calibration tells those of other sizes, at the runs' level."""
    run = cycle(RECIPE, 100, 0, "")
    trained = Outcome(run, "a", "finished", Curve.of([]), Result(seconds=4, examples=6400))
    table = {"seconds_per_step": {"64": 0.02, "128": 0.03}}
    measured = Run("calibrate", run.schedule, 0.0, 128, 1, 0, batch_sizes=(64, 128))
    calibrated = Outcome(measured, "b", "finished", Curve.of([]), Result(measured=table))
    prices = learnt(FACTS, [trained, calibrated])
    assert prices is not None
    assert prices.step == pytest.approx({64: 0.04, 128: 0.06})
    assert learnt(FACTS, [calibrated]) is None


@pytest.mark.parametrize(
    ("values", "low", "high", "share"),
    [([1], 1, 1, 1), ([1, 2, 3, 3.1], 1.97, 3.1, 0.75), ([1, 40, 45, 90], 33.5, 53.7, 0.5)],
)
def test_the_likeliest_range_holds_the_most(
    values: Sequence[float], low: float, high: float, share: float
) -> None:
    """It is never wider than its ratio or than all values, and says how much it holds."""
    found, held = likeliest(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.01)
    assert found.high <= 1.6001 * found.low
    assert held == share


def test_a_world_says_the_same_of_the_same_run() -> None:
    """Outcomes depend on the world's seed and the run alone."""
    world, run = World(3, FACTS, PRICES, RECIPE), cycle(RECIPE, 100, 0, "")
    assert world.outcome(run).held_out_loss == world.outcome(run).held_out_loss
    assert World(4, FACTS, PRICES, RECIPE).outcome(run).held_out_loss != pytest.approx(
        world.outcome(run).held_out_loss
    )


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_candidates_differ_in_a_world_as_they_were_measured_to(kind: int) -> None:
    """On average by the effect of their kind of study; paired seeds by the noise of one field."""
    effect = KINDS[kind]["max_momentum"]
    gaps = []
    for number in range(100):
        world = World(kind + len(KINDS) * number, FACTS, PRICES, RECIPE)
        own, other = (cycle(replace(RECIPE, max_momentum=m), 100, 0, "") for m in (0.9, 0.95))
        gaps.append(math.log(world.outcome(other).held_out_loss))
        gaps[-1] -= math.log(world.outcome(own).held_out_loss)
    expected = math.hypot(effect.spread, math.sqrt(2) * effect.noise)
    assert mean(gaps) == pytest.approx(effect.loss[1], abs=4 * expected / 10)
    assert stdev(gaps) == pytest.approx(expected, rel=0.4)


def test_the_plan_lies_around_what_the_study_takes() -> None:
    """On the quadratic, whose clock is exact: runs, and seconds in the range that is told.

    The final stage of a study that changed nothing is the same in every play.
    """
    config = a_config(plan=["lr_range", "weight_decay", "final"])
    plan = plan_study(config)
    objective = QuadraticObjective()
    stages, recipe = build.stages(config, objective.facts), build.recipe(config, objective.facts)
    seen: dict[Run, Outcome] = {}
    took: dict[str, float] = {}
    runs_of: dict[str, int] = {}

    def run_round(runs: list[Run]) -> list[Outcome]:
        new = {run: execute(objective, run) for run in runs if run not in seen}
        runs_of[stage.name] += len(new)
        took[stage.name] += sum(o.result.seconds for o in new.values())
        seen.update(new)
        return [seen[run] for run in runs]

    for stage in stages:
        took[stage.name], runs_of[stage.name] = 0.0, 0
        decision, _ = walk(stage, recipe, run_round)
        recipe = recipe.with_(decision)
    assert [told.name for told in plan.stages] == ["lr_range", "weight_decay", "final"]
    assert all(told.runs.low <= runs_of[told.name] <= told.runs.high for told in plan.stages)
    decay, final = (told.seconds for told in plan.stages[1:])
    assert decay.low <= took["weight_decay"] <= decay.high
    assert final.low == final.high == pytest.approx(took["final"], rel=0.05)
    assert plan.seconds.low <= sum(took.values()) <= plan.seconds.high <= 1.6001 * plan.seconds.low
    assert plan.extremes.low <= plan.seconds.low
    assert plan.extremes.high >= plan.seconds.high


def test_what_is_known_costs_nothing() -> None:
    """A play with outcomes that are there already is as long as what is missing."""
    config = a_config(plan=["lr_range", "final"])
    objective = QuadraticObjective()
    stages = build.stages(config, objective.facts)
    prices = Prices(objective.facts, {64: 0.0023, 128: 0.0036})
    world = World(0, objective.facts, prices, build.recipe(config, objective.facts))
    whole = play(stages, build.recipe(config, objective.facts), world)
    ramps = [
        world.outcome(run, first=number == 0) for number, run in enumerate(whole.runs["lr_range"])
    ]
    there = {o.run: o for o in ramps}
    rest = play(stages, build.recipe(config, objective.facts), world, there.get)
    assert whole.seconds["lr_range"] > 0
    assert rest.seconds["lr_range"] == 0


def test_what_is_known_is_compared_at_its_own_level() -> None:
    """The incumbent's real losses are a tenth of the world's: the candidates' are then, too."""
    config = a_config(plan=["weight_decay"], recipe={"max_lr": 0.1})
    objective = QuadraticObjective()
    recipe = build.recipe(config, objective.facts)
    stages = build.stages(config, objective.facts)
    prices = Prices(objective.facts, {64: 0.0023})
    for seed in range(len(KINDS)):
        world = World(seed, objective.facts, prices, recipe)
        whole = play(stages, recipe, world).runs["weight_decay"]
        own = [run for run in whole if run.weight_decay == recipe.weight_decay]
        there = {run: world.outcome(run, level=-math.log(10)) for run in own}
        rest = play(stages, recipe, world, there.get).runs["weight_decay"]
        assert rest == [run for run in whole if run not in own]


def test_a_stage_that_cannot_be_played_counts_nothing(here: Path) -> None:
    """A user's own stage may want more of an outcome than is made up: the others are planned."""

    class Own(Stage):
        kind = "own"

        def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
            schedule = Schedule("constant", 0.1, 0.1, 0.9, 0.9)
            runs = [Run("train", schedule, 0.0, 64, 100, 0)]
            return [] if outcomes and outcomes[0].result.measured["mine"] else runs

        def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Any:
            raise AssertionError

    final = Final(name="final", facts=FACTS)
    found = plays([Own(name="own", facts=FACTS), final], RECIPE, PRICES, worlds=2)
    assert [p.seconds["own"] for p in found] == [0, 0]
    assert [p.runs["own"] for p in found] == [[], []]
    alone = plays([final], RECIPE, PRICES, worlds=2)
    assert [p.seconds["final"] for p in found] == [p.seconds["final"] for p in alone]
    assert alone[0].seconds["final"] > 0


def test_a_dry_run_leaves_no_study_behind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints stages, runs, time and memory, ends well, and makes no folder."""
    Terminal().planned(plan_study(a_config(plan=["lr_range", "final"], study_name="s")))
    shown = capsys.readouterr().out
    for word in ("lr_range", "ramps", "in all", "memory", "batches of 64"):
        assert word in shown
    assert not (here / "runs" / "s").exists()


@pytest.fixture
def two_threads() -> None:
    """Let torch use two threads."""
    torch.set_num_threads(2)


@pytest.mark.parametrize(
    ("threads", "gain", "said"),
    [
        (None, 2.54, ["2.5 times as fast"]),
        (None, 752.0, ["more than 10 times"]),
        (None, 1.1, []),
        (2, 2.5, []),
    ],
)
def test_a_dry_run_says_where_one_thread_is_faster(
    threads: int | None,
    gain: float,
    said: list[str],
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the user chose no number, and it is worth a word."""
    monkeypatch.setattr("orchestrator.training.advice.gain_of_one_thread", lambda *_: gain)
    told = objective(threads=threads).describe().advice(32)
    assert len(told) == len(said)
    assert all(word in line for word, line in zip(said, told, strict=True))


def test_trying_one_thread_changes_nothing(two_threads: None) -> None:
    """Afterwards torch has its threads, and a run its losses and its key."""
    made, run = objective(threads=None), a_run(steps=4, points=2)
    before, key = losses(train(made, run)[0]), run.key(made.context(run))
    assert gain_of_one_thread(made._setup, 32) > 0
    assert torch.get_num_threads() == 2
    assert losses(train(made, run)[0]) == before
    assert run.key(made.context(run)) == key


def test_one_range_is_told_once_and_a_size_of_the_baseline_is_named() -> None:
    """All ways in one range: said once. The untuned baseline's batches are no stage's."""
    plan = plan_study(a_config(plan=["lr_range", "final"], study_name="s"))
    seconds = Range(2.2, 3.3)
    plan = replace(plan, seconds=seconds, extremes=seconds, likely=1.0)
    told = dict(planned(plan))
    assert ", 2.2 s to 3.3 s, with start and report (this plan took" in told["in all"]
    assert "with 128 (untuned's), which fits" in told["memory"]
    wider = dict(planned(replace(plan, extremes=Range(2.2, 9.0), likely=0.9)))
    assert "in 90 % of the simulated studies, 2.2 s to 9.0 s in all of them" in wider["in all"]
