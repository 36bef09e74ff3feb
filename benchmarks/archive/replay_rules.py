"""The pruning rules of the replay, each with a real Optuna study in memory, and how a study goes.

A judge takes the runs of one study one after the other and says how far each came. It sees what a
worker would hand it, point by point; nothing else of the curve.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import TrialState

from archive.replay_pools import Member, Pool, Spec, load
from orchestrator.curve import Curve, Floats, Point
from orchestrator.pruners import CluePruner, ClueRules
from orchestrator.pruners.clue import MIN_FALL

OWN = ClueRules(behind=None, above_chance=1.3, stuck_after=0.25)
LATER = ClueRules(behind=None, above_chance=3, stuck_after=0.5)
LATEST = ClueRules(behind=None, above_chance=10, stuck_after=0.75)
POINTS = 20  # reports of a run: the resource of Optuna's pruners, as an epoch would be


class Judge(Protocol):
    """One study. `run` returns the share of a full run that was trained, and whether it ended."""

    def run(self, member: Member, seed: int) -> tuple[float, bool]: ...


def _study(pruner: BasePruner, name: str) -> optuna.Study:
    # Hyperband draws a trial's bracket from the study's name: fixed, so that it repeats.
    return optuna.create_study(
        study_name=name, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def points_of(curve: Curve) -> list[Point]:
    """Return the points that a curve was made of."""
    columns = curve.to_json()
    return [Point(*row) for row in zip(*columns.values(), strict=True)]  # type: ignore[arg-type]


def _tell(study: optuna.Study, trial: optuna.Trial, curve: Curve, lost: bool) -> None:
    loss = float(curve.held_out_loss[-1])
    if lost:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, loss if np.isfinite(loss) else np.inf)


class Plain:
    """Optuna's own pruners; a step is a report, 1 to 20."""

    def __init__(self, pruner: BasePruner, name: str) -> None:
        self._study = _study(pruner, name)

    def run(self, member: Member, seed: int) -> tuple[float, bool]:
        curve = member.curves[seed]
        trial = self._study.ask()
        for at, loss in enumerate(curve.held_out_loss.tolist()):
            trial.report(loss, at + 1)
            if trial.should_prune():
                _tell(self._study, trial, curve, True)
                return float(curve.progress[at]), False
        _tell(self._study, trial, curve, False)
        return float(curve.progress[-1]), True


class Clue:
    """The clue pruner, fed as a worker feeds it."""

    def __init__(self, pool: Pool, rules: ClueRules, name: str) -> None:
        self._pruner = CluePruner(rules, start_loss=pool.chance, total_steps=pool.steps)
        self._study = _study(self._pruner, name)

    def run(self, member: Member, seed: int) -> tuple[float, bool]:
        return self.train(member.curves[seed])

    def train(self, curve: Curve) -> tuple[float, bool]:
        """Return the share of this curve's steps that were trained, and whether it ended."""
        trial = self._study.ask()
        for point in points_of(curve):
            self._pruner.observe(trial.number, point)
            trial.report(point.held_out_loss, point.step)
            if trial.should_prune():
                _tell(self._study, trial, curve, True)
                self._pruner.forget(trial.number)
                return point.progress, False
        _tell(self._study, trial, curve, False)
        self._pruner.forget(trial.number)
        return float(curve.progress[-1]), True


@lru_cache(maxsize=4)
def own_verdicts(spec: Spec, rules: ClueRules = OWN) -> dict[int, tuple[float, bool]]:
    """Return what the clue pruner says of each curve of a pool by itself, by the curve's id.

    Its own-curve rules do not depend on the study, so they are asked once.
    """
    pool = load(spec)
    clue = Clue(pool, rules, "own curve")
    curves = [c for m in pool.members for c in (*m.curves, *m.short.values())]
    return {id(curve): clue.train(curve) for curve in curves}


class OwnCurve:
    """The clue pruner without comparison."""

    def __init__(self, pool: Pool) -> None:
        self._verdicts = own_verdicts(pool.spec)

    def run(self, member: Member, seed: int) -> tuple[float, bool]:
        return self._verdicts[id(member.curves[seed])]


# How far a run is behind the best finished one at each of its points: 1 is level with it.
Behind = Callable[[Floats, Floats, float], Floats]


def same_point(loss: Floats, best: Floats, chance: float) -> Floats:
    """Loss against loss at the same point."""
    return loss / best


def lowest(loss: Floats, best: Floats, chance: float) -> Floats:
    """Lowest loss so far against the same of the best run."""
    return np.minimum.accumulate(loss) / np.minimum.accumulate(best)


def fall(loss: Floats, best: Floats, chance: float) -> Floats:
    """How far the best run has fallen from chance, in logarithms, against the same of this run."""

    def fallen(x: Floats) -> Floats:
        return np.maximum(np.log(chance / np.minimum.accumulate(x)), 0)

    lead = fallen(best)
    return np.where(lead >= MIN_FALL, lead, 0) / fallen(loss)


class Compared:
    """The clue pruner and a comparison with the best finished run, written out here.

    A run stops where it is more than `factor` behind once the share `after` of it is done.
    """

    def __init__(
        self, pool: Pool, behind: Behind, factor: float, after: float, own: ClueRules = OWN
    ) -> None:
        self._verdicts, self._chance = own_verdicts(pool.spec, own), pool.chance
        self._behind, self._factor, self._after = behind, factor, after
        self._best: Curve | None = None

    def run(self, member: Member, seed: int) -> tuple[float, bool]:
        curve = member.curves[seed]
        share, ended = self._verdicts[id(curve)]
        if (stop := self._stop(curve)) < share:
            return stop, False
        if ended and self._leads(curve.held_out_loss[-1]):
            self._best = curve
        return share, ended

    def _leads(self, end: float) -> bool:
        best = np.inf if self._best is None else self._best.held_out_loss[-1]
        return bool(end < best)

    def _stop(self, curve: Curve) -> float:
        if self._best is None:
            return np.inf
        n = len(curve)
        with np.errstate(all="ignore"):
            behind = self._behind(curve.held_out_loss, self._best.held_out_loss[:n], self._chance)
        at = (behind > self._factor) & (curve.progress >= self._after) & (curve.progress < 1)
        return float(curve.progress[np.argmax(at)]) if at.any() else np.inf


class Halving:
    """Complete short cycles, the end of each told to SuccessiveHalving; clues within each cycle."""

    def __init__(self, pool: Pool, shares: Sequence[float], factor: int, name: str) -> None:
        self._shares, self._unit = shares, 1 / shares[0]
        self._study = _study(SuccessiveHalvingPruner(1, factor), name)
        self._verdicts = own_verdicts(pool.spec)

    def run(self, member: Member, seed: int) -> tuple[float, bool]:
        trial, cost = self._study.ask(), 0.0
        for share in (*self._shares, 1.0):
            curve = member.curves[0] if share == 1 else member.short[share]
            trained, ended = self._verdicts[id(curve)]
            cost += trained * share
            lost = not ended
            if ended and share < 1:
                trial.report(float(curve.held_out_loss[-1]), round(share * self._unit))
                lost = trial.should_prune()
            if lost:
                self._study.tell(trial, state=TrialState.PRUNED)
                return cost, False
        _tell(self._study, trial, member.curves[0], False)
        return cost, True


Make = Callable[[Pool, str], Judge]


def _optuna(make: Callable[[], BasePruner]) -> Make:
    return lambda _, name: Plain(make(), name)


def _clue(rules: ClueRules) -> Make:
    return lambda pool, name: Clue(pool, rules, name)


def _compared(behind: Behind, factor: float, after: float, own: ClueRules = OWN) -> Make:
    return lambda pool, _: Compared(pool, behind, factor, after, own)


def _halving(factor: int, *shares: float) -> Make:
    return lambda pool, name: Halving(pool, shares, factor, name)


def _patient() -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        return PatientPruner(MedianPruner(), patience=3)


RULES: dict[str, Make] = {
    "none": _optuna(NopPruner),
    "clue pruner, default": _clue(ClueRules()),
    "own curve": lambda pool, _: OwnCurve(pool),
    "own curve; loss > 1.5 x best, from 75 %": _compared(same_point, 1.5, 0.75),
    "own curve; loss > 2 x best, from 60 %": _compared(same_point, 2, 0.6),
    "own curve; lowest > 4 x best's, from 25 %": _compared(lowest, 4, 0.25),
    "own curve; best fell 2 x as far, from 25 %": _compared(fall, 2, 0.25),
    "same, but 3 x chance, stuck from 50 %": _compared(fall, 2, 0.25, LATER),
    "same, but 10 x chance, stuck from 75 %": _compared(fall, 2, 0.25, LATEST),
    "own curve; cycles H/4, half go on": _halving(2, 1 / 4),
    "own curve; cycles H/4, H/2, halved": _halving(2, 1 / 4, 1 / 2),
    "own curve; cycles H/8, half go on": _halving(2, 1 / 8),
    "own curve; cycles H/16, H/4, quartered": _halving(4, 1 / 16, 1 / 4),
    "Median": _optuna(MedianPruner),
    "Median, warm-up 50 %": _optuna(lambda: MedianPruner(n_warmup_steps=POINTS // 2)),
    "Median, warm-up 75 %": _optuna(lambda: MedianPruner(n_warmup_steps=3 * POINTS // 4)),
    "Patient (3 points), Median": _optuna(_patient),
    "SuccessiveHalving": _optuna(SuccessiveHalvingPruner),
    "Hyperband 1..20": _optuna(lambda: HyperbandPruner(1, POINTS, 3)),
}
# What was tried on the pools for tuning.
TUNING: dict[str, Make] = {
    f"{name} > {factor:g} from {after:.0%}": _compared(behind, factor, after)
    for name, behind in (("same point", same_point), ("lowest", lowest), ("fall", fall))
    for after in (0.25, 0.5, 0.75)
    for factor in (1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0)
}


@dataclass
class Tally:
    """What a rule did over many studies; losses as logarithms, regret against no pruning."""

    studies: int = 0
    cost: float = 0.0
    full: float = 0.0
    killed: int = 0
    killed_mean: int = 0
    empty: int = 0
    regret: float = 0.0
    regret_mean: float = 0.0
