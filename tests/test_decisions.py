"""Properties of the stages' decisions, on whatever outcomes hypothesis makes up."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from curves import curve
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.curve import Curve, Outcome, Result, State
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.batch_size import BatchSize
from orchestrator.stages.dropout import Dropout
from orchestrator.stages.final import Final
from orchestrator.stages.lr_check import LRCheck
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.stage import Stage, walk
from orchestrator.stages.weight_decay import WeightDecay

FACTS = Facts(2000, 500, math.log(10), final_epochs=10, dropout=0.2)
NEW = Recipe()
FOUND = NEW.with_(Decision("lr_range", "lr_range", "", {"max_lr": 0.1, "min_lr": 0.01}))
TUNED = FOUND.with_(Decision("weight_decay", "weight_decay", "", {"weight_decay": 1e-3}))
CASES: dict[str, tuple[Stage, Recipe]] = {
    "momentum": (Momentum(name="momentum", facts=FACTS), FOUND),
    "weight_decay": (WeightDecay(name="weight_decay", facts=FACTS), FOUND),
    "dropout": (Dropout(name="dropout", facts=FACTS), FOUND),
    "lr_check": (LRCheck(name="lr_check", facts=FACTS), FOUND),
    "lr_range": (LRRange(name="lr_range", facts=FACTS), NEW),
    "lr_range of Adam": (LRRange(name="lr_range", facts=FACTS), replace(NEW, optimizer="adamw")),
    "batch_size": (BatchSize(name="batch_size", facts=FACTS), FOUND),
    "final": (Final(name="final", facts=FACTS), TUNED),
}
FATES = ("", "", "", "", "", "pruned", "boom", "out of memory: no room")


@dataclass(frozen=True)
class World:
    """What becomes of runs: an outcome depends on its run alone, and a run draws from both."""

    losses: Sequence[float]
    fates: Sequence[str]  # "" finished, "pruned", or the reason of a failure

    def outcome(self, run: Run) -> Outcome:
        """Return how the run ends: measured, or with a curve that falls or jumps about."""
        number = zlib.crc32(repr(run).encode())
        own = 1 + number % 9973 * 1e-7  # of two that end exactly alike either may be called nearest
        drawn = [own * self.losses[(number >> i) % len(self.losses)] for i in range(12)]
        fate = self.fates[number // 7 % len(self.fates)]
        state: State = "finished" if not fate else "pruned" if fate == "pruned" else "failed"
        if run.kind in ("probe", "calibrate"):
            done = Result(measured=_measured(run, number)) if state == "finished" else Result()
            return Outcome(run, str(number), state, Curve.of([]), done, fate)
        if number % 3 and 0 < drawn[0] < math.inf:
            drawn = list(np.geomspace(2.3, drawn[0], 12))
        if state == "failed":
            drawn = drawn[: number % 5]
        count = len(drawn)
        lr = [run.schedule.at((i + 1) / count).lr for i in range(count)]
        shape = replace(curve(drawn, lr=lr), step=np.linspace(1, run.steps, count))
        test = {"test_loss": drawn[1], "test_metric": 0.5} if run.opens_test and count > 1 else {}
        seconds = (1.0, 1.02, 1.2, 6.0)[number // 11 % 4]
        return Outcome(run, str(number), state, shape, Result(seconds, run.examples, **test), fate)


def _measured(run: Run, number: int) -> dict[str, Any]:
    sizes = {str(b): b for b in run.batch_sizes}
    return {
        "fits": {s: (number >> i) % 4 > 0 for i, s in enumerate(sizes)},
        "bytes": {s: 1000 * b for s, b in sizes.items()},
        "seconds_per_step": {s: 1e-3 * (1 + b / (10 + number % 90)) for s, b in sizes.items()},
        "spread": dict.fromkeys(sizes, 0.01 * (number % 10)),
    }


any_loss = st.one_of(st.floats(1e-6, 1e3), st.sampled_from([math.nan, math.inf, 0.0, -1.0]))
worlds = st.builds(
    World,
    st.lists(any_loss, min_size=8, max_size=24),
    st.lists(st.sampled_from(FATES), min_size=1, max_size=12),
)


def play(
    stage: Stage, recipe: Recipe, world: World, random: Any = None
) -> tuple[Decision, tuple[Outcome, ...]]:
    """Take a stage to its decision, the outcomes of each round in any order."""

    def run_round(runs: list[Run]) -> list[Outcome]:
        done = [world.outcome(run) for run in runs]
        return done if random is None else random.sample(done, len(done))

    return walk(stage, recipe, run_round)


@pytest.mark.parametrize(("stage", "recipe"), CASES.values(), ids=CASES)
@settings(max_examples=25)
@given(world=worlds, random=st.randoms(use_true_random=False))
def test_a_decision_is_sound_and_knows_no_order(
    stage: Stage, recipe: Recipe, world: World, random: Any
) -> None:
    """No NaN, a recipe that can be trained with, told alike in any order of a round."""
    decision, outcomes = play(stage, recipe, world)
    again, shuffled = play(stage, recipe, world, random)
    runs = {o.run for o in outcomes}
    assert {o.run for o in shuffled} == runs
    assert (again.values, again.reason) == (decision.values, decision.reason)
    assert (again.answered, again.incumbent_kept) == (decision.answered, decision.incumbent_kept)
    assert set(again.tied_with) == set(decision.tied_with)
    assert not re.search(r"\bnan\b", decision.reason, re.IGNORECASE)
    if decision.interval:
        assert -math.inf < decision.interval[0] <= decision.interval[1] < math.inf
    after = recipe.with_(decision)
    assert after.max_lr is None or 0 < (after.min_lr or 0) < after.max_lr < math.inf
    assert 0 <= after.max_momentum < 1
    assert 0 <= after.weight_decay < 1
    assert after.dropout is None or 0 <= after.dropout < 1
    assert 1 <= after.batch_size <= FACTS.train_examples
    if decision.values:
        assert after.batch_size in {recipe.batch_size, *(r.batch_size for r in runs)}


def test_no_decision_takes_a_batch_size_that_ran_out_of_memory() -> None:
    """Nor a larger one, whichever run it was that found out; the incumbent alone may stay."""
    stage, recipe = CASES["batch_size"]
    limited = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        world = World(list(draw.uniform(0.1, 1, 20)), list(draw.choice(FATES, 12)))
        decision, outcomes = play(stage, recipe, world)
        end = min((o.run.batch_size for o in outcomes if o.out_of_memory), default=math.inf)
        chosen = decision.values["batch_size"]
        assert chosen < end or (chosen == recipe.batch_size and not decision.tied_with)
        assert ("ran out of memory" in decision.reason) == (end < math.inf)
        limited += chosen < end < math.inf
    assert limited > 10
