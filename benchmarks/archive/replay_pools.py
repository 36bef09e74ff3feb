"""Curves for the replay of pruning rules, recorded with the real training code.

A pool is a space of recipes of one workload and schedule: `wide` (from far too low a rate to over
the cliff), `band` (rates that a range test could give), or `stage` (the candidates of the stages
momentum, weight decay and LR check, in cycles of a quarter of the final run), or `seeds` (the
band again, with more seeds).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from workloads import TRUTH, WORKLOADS, Task

from orchestrator.curve import Curve
from orchestrator.recipe import Recipe
from orchestrator.stages.stage import cycle

FIRST = TRUTH + 700  # replicates that no other part uses
SHORT = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # complete cycles for halving over cycle length
STAGE_SHARE = 0.25


@dataclass(frozen=True)
class Spec:
    """Which curves: `size` recipes x `seeds` replicates; `short`: also short cycles of the first.

    `path`: where CIFAR-10 lies.
    """

    workload: str
    space: str
    schedule: str = "paper"
    size: int = 120
    seeds: int = 2
    tuned_on: bool = False
    short: bool = True
    path: str | None = None

    @property
    def name(self) -> str:
        """Return what tables call it."""
        schedule = "" if self.schedule == "paper" else f" {self.schedule}"
        return f"{self.workload}{schedule}, {self.space}"


# Rules are tuned on the first four and judged on the others.
SPECS = (
    Spec("digits", "wide", tuned_on=True),
    Spec("digits", "band", size=80, tuned_on=True),
    Spec("digits_x5", "wide", tuned_on=True),
    Spec("digits_x5", "band", size=80, tuned_on=True),
    Spec("digits", "wide", "linear"),
    Spec("digits", "band", "linear", size=80),
    Spec("digits_x5", "wide", "constant"),
    Spec("digits_bn", "wide", size=80),
    Spec("digits_bn", "band", size=60),
    Spec("cifar", "wide", size=60, seeds=1),
    Spec("cifar", "band", size=40, seeds=1),
)
STAGES = (
    Spec("digits", "stage", seeds=6, tuned_on=True),
    Spec("digits_x5", "stage", seeds=6, tuned_on=True),
    Spec("digits", "stage", "linear", seeds=6),
    Spec("digits_bn", "stage", seeds=3),
    Spec("cifar", "stage", seeds=3),
)
# Recipes of the band with eight seeds each, for a test over seeds.
SEEDS = tuple(
    Spec("digits", "seeds", schedule, size=40, seeds=8, short=False)
    for schedule in ("paper", "linear")
)
QUICK = (
    Spec("digits", "wide", size=30, seeds=1, tuned_on=True),
    Spec("digits", "band", "linear", size=30, seeds=1),
    Spec("digits", "stage", seeds=1),
)


@dataclass(frozen=True)
class Member:
    """A recipe of a pool: its curves by replicate, and its short cycles by share (first one)."""

    recipe: Recipe
    curves: tuple[Curve, ...]
    short: dict[float, Curve]
    group: str = ""


@dataclass(frozen=True)
class Pool:
    """All curves of a spec. `steps`: length of a full run; `chance`: ln of the classes."""

    spec: Spec
    chance: float
    steps: int
    members: tuple[Member, ...]


@lru_cache(maxsize=2)
def load(spec: Spec) -> Pool:
    """Return the pool; what is not known is trained, which takes minutes the first time."""
    task = WORKLOADS[spec.workload].of(0, spec.path)
    if spec.space == "stage":
        return _stages(spec, task)
    steps = task.final_steps(task.recipe.batch_size)
    members = []
    for recipe in _recipes(spec, task):
        curves = [_curve(task, recipe, steps, seed) for seed in range(spec.seeds)]
        shares = SHORT if spec.short else ()
        short = {s: _curve(task, recipe, max(10, round(s * steps)), 0) for s in shares}
        members.append(Member(recipe, tuple(curves), short))
    return Pool(spec, task.facts.chance_loss, steps, tuple(members))


def _curve(task: Task, recipe: Recipe, steps: int, seed: int) -> Curve:
    return task.outcome(cycle(recipe, steps, FIRST + seed, "replay")).curve


def _recipes(spec: Spec, task: Task) -> Iterator[Recipe]:
    """Draw recipes: rates log-uniform, momentum log-uniform in 1 - m, a fifth without decay."""
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    lrs = WORKLOADS[spec.workload].lrs
    wide = spec.space == "wide"
    low, high = (lrs[0] / 50, lrs[-1] * 6) if wide else (lrs[0], lrs[-1])
    slowest, fastest = (0.2, 0.01) if wide else (0.1, 0.03)
    least, most = (1e-6, 1e-2) if wide else (1e-5, 1e-3)

    def between(a: float, b: float) -> float:
        return float(np.exp(rng.uniform(np.log(a), np.log(b))))

    base = replace(task.recipe, schedule=spec.schedule)
    for _ in range(spec.size):
        lr, m, decay = between(low, high), 1 - between(fastest, slowest), between(least, most)
        if rng.random() < 0.2:
            decay = 0.0
        yield _at(base, lr, m, decay)


def _at(base: Recipe, lr: float, momentum: float, decay: float) -> Recipe:
    return replace(
        base.at_lr(lr),
        max_momentum=momentum,
        min_momentum=min(base.min_momentum, momentum),
        weight_decay=decay,
    )


def _stages(spec: Spec, task: Task) -> Pool:
    """Return candidates in groups that one stage would compare."""
    base = replace(task.recipe, schedule=spec.schedule)
    lrs = WORKLOADS[spec.workload].lrs
    steps = task.facts.steps(STAGE_SHARE, base.batch_size)
    members = []
    for group, values in _groups(lrs):
        for lr, momentum, decay in values:
            recipe = _at(base, lr, momentum, decay)
            curves = [_curve(task, recipe, steps, seed) for seed in range(spec.seeds)]
            members.append(Member(recipe, tuple(curves), {}, group))
    return Pool(spec, task.facts.chance_loss, steps, tuple(members))


def _groups(lrs: tuple[float, ...]) -> Iterator[tuple[str, list[tuple[float, float, float]]]]:
    m, wd = 0.9, 5e-4  # the incumbents, which come first
    for lr in lrs:
        yield f"momentum at {lr:g}", [(lr, x, wd) for x in (0.9, 0.99, 0.97, 0.95)]
        yield f"weight decay at {lr:g}", [(lr, m, x) for x in (wd, 1e-3, 1e-4, 1e-5, 0.0)]
    for one, two, three in zip(lrs, lrs[1:], lrs[2:], strict=False):
        yield f"lr around {two:g}", [(x, m, wd) for x in (two, one, three)]
