"""How long a study is going to take: its stages are played in made-up worlds, and priced.

Stages are pure, so playing one costs nothing but arithmetic. They are adaptive, so a study has no
one length: what is told is the likeliest range, with the share of the worlds that lie in it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.curve import Outcome
from orchestrator.plan.prices import Prices, progress
from orchestrator.plan.worlds import World
from orchestrator.recipe import Recipe, Run
from orchestrator.stages.stage import Stage, walk

log = logging.getLogger(__name__)
Known = Callable[[Run], Outcome | None]
WORLDS = 40
LEFT_OUT = 0.1  # of the worlds at either end of a stage's range
RATIO = 1.6  # high over low of the likeliest range: a wider one helps nobody to plan


@dataclass(frozen=True)
class Range:
    """Low and high of what is expected, in seconds unless said otherwise."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float], left_out: float = LEFT_OUT) -> Range:
        """Return the range of `values` without the share `left_out` at either end."""
        ordered = sorted(values)
        cut = int(left_out * len(ordered))
        return cls(ordered[cut], ordered[-1 - cut])


def likeliest(values: Iterable[float], ratio: float = RATIO) -> tuple[Range, float]:
    """Return the range, at most `ratio` times as high as low, that holds most values, and how many.

    How many: their share. Of several ranges the one with the smallest low. What the ratio leaves is
    shared out at both ends as far as there are values: they are a sample. Values are positive.
    """
    ordered = sorted(values)
    held = [[v for v in ordered if low <= v <= ratio * low] for low in ordered]
    best = max(held, key=len)
    slack = math.sqrt(ratio * best[0] / best[-1])
    found = Range(max(ordered[0], best[0] / slack), min(ordered[-1], best[-1] * slack))
    return found, len(best) / len(ordered)


@dataclass
class Play:
    """A study as it went in one world: the runs that each stage would train, and their seconds.

    `rounds`: all runs that each stage asked for, those that were known too.
    """

    runs: dict[str, list[Run]] = field(default_factory=dict)
    rounds: dict[str, list[list[Run]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def _nothing(run: Run) -> None:
    return None


def play(stages: Sequence[Stage], recipe: Recipe, world: World, known: Known = _nothing) -> Play:
    """Walk the stages in a world. `known`: the outcome of a run that is there already, or None.

    A stage that cannot be played (a user's own may want more than we make up) counts nothing.
    """
    played, told = Play(), dict[str, Outcome]()
    for stage in stages:
        played.runs[stage.name], played.seconds[stage.name] = [], 0.0
        played.rounds[stage.name] = []
        try:
            decision, _ = walk(stage, recipe, _Rounds(stage.name, world, known, told, played))
        except Exception as error:
            log.info("stage %s cannot be played: %s: %s", stage.name, type(error).__name__, error)
            played.runs[stage.name], played.seconds[stage.name] = [], 0.0
            continue
        recipe = recipe.with_(decision)
    return played


@dataclass(frozen=True)
class _Rounds:
    """Runs the rounds of a stage in a world, and keeps the bill.

    `told`: all outcomes so far, by the runs' keys without a context, for worlds have none.
    `levels`: by steps and replicate, how far the log losses that are there lie above the world's.
    """

    stage: str
    world: World
    known: Known
    told: dict[str, Outcome]
    played: Play
    levels: dict[tuple[int, int], float] = field(default_factory=dict)

    def __call__(self, runs: list[Run]) -> list[Outcome]:
        self.played.rounds[self.stage].append(runs)
        keys = [run.key({}) for run in runs]
        for run, key in zip(runs, keys, strict=True):
            if there := self.told.get(key) or self.known(run):
                self.told[key] = there
                self._compare(there)
        return [self._outcome(run, key) for run, key in zip(runs, keys, strict=True)]

    def _compare(self, there: Outcome) -> None:
        """Note the level of a real run, so that what is made up beside it can be compared with it.

        A stage's candidates meet an incumbent that an earlier stage has trained.
        """
        if there.run.kind == "train" and 0 < there.held_out_loss < math.inf:
            own = self.world.outcome(there.run).held_out_loss
            level = math.log(there.held_out_loss / own)
            self.levels.setdefault((there.run.steps, there.run.replicate), level)

    def _outcome(self, run: Run, key: str) -> Outcome:
        if key not in self.told:
            self.told[key] = self._imagined(run)
        return self.told[key]

    def _imagined(self, run: Run) -> Outcome:
        usual = fmean(self.levels.values()) if self.levels else 0.0
        level = self.levels.get((run.steps, run.replicate), usual)
        made = self.world.outcome(run, level, first=not self.told)
        self.played.runs[self.stage].append(run)
        self.played.seconds[self.stage] += self._seconds(run, progress(made))
        return made

    def _seconds(self, run: Run, share: float) -> float:
        """Return what a run takes; one that starts from a kept end is only tested."""
        prices = self.world.prices
        held_out = run.goes_on_from
        if held_out and held_out.key({}) in self.told:
            return prices.scale * prices.example * prices.test_examples
        return prices.of(run, share)


def plays(
    stages: Sequence[Stage],
    recipe: Recipe,
    prices: Prices,
    *,
    known: Known = _nothing,
    worlds: int = WORLDS,
) -> list[Play]:
    """Play the stages in so many worlds; the same ones each time."""
    made = (World(seed, prices.facts, prices, recipe) for seed in range(worlds))
    return [play(stages, recipe, world, known) for world in made]


@dataclass(frozen=True)
class StagePlan:
    """What a stage is expected to train: runs by kind, and seconds."""

    name: str
    runs: Range
    seconds: Range
    kinds: Mapping[str, Range]


def by_stage(played: Sequence[Play]) -> list[StagePlan]:
    """Return the plan of each stage over all plays."""
    plans = []
    for name in played[0].runs:
        counts = [Counter(run.kind for run in p.runs[name]) for p in played]
        kinds = sorted({kind for count in counts for kind in count})
        plans.append(
            StagePlan(
                name=name,
                runs=Range.of(count.total() for count in counts),
                seconds=Range.of(p.seconds[name] for p in played),
                kinds={kind: Range.of(count[kind] for count in counts) for kind in kinds},
            )
        )
    return plans
