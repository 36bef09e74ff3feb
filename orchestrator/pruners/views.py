"""The view of a stage for Optuna's own pruners: a small study in memory for each run.

The stage's real Optuna study cannot be used. Its trials have different lengths, so equal steps are
not comparable; and it depends on interruptions and audits. So a pruner gets only the peers of the
run, replayed in the order proposed. It is a new copy each time, since Optuna's pruners keep state
of the first trials.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Protocol

import optuna
from optuna.trial import TrialState, create_trial

from orchestrator.curve import Curve, Outcome, Point
from orchestrator.pruners.optunas import halves, name_of
from orchestrator.pruners.peers import Peers
from orchestrator.recipe import Run

MOST_RUNGS = 8  # 1, 2, 4 ... 64 per cent, and the rung that prunes


class View(Protocol):
    """One run, in the study that one of Optuna's pruners gets."""

    def verdict(self, point: Point) -> str:
        """Report the run's next point; return why the pruner would stop it, "" if it would not."""


def view(pruner: optuna.pruners.BasePruner, peers: Peers, run: Run, place: int) -> View:
    """Return the view for this kind of pruner; `place`: the run's place in its round, from 0."""
    seen = compared(pruner, peers, run)
    if isinstance(pruner, optuna.pruners.WilcoxonPruner):
        return Seeds(pruner, seen, run)
    return Curves(pruner, seen, place)


def compared(pruner: optuna.pruners.BasePruner | None, peers: Peers, run: Run) -> Sequence[Outcome]:
    """Return the peers that `pruner` compares `run` with."""
    if isinstance(pruner, optuna.pruners.WilcoxonPruner):
        return peers.of_all_seeds(run)
    return peers.of(run)


class Curves:
    """A trial is a run, a step is a per cent of its cycle (0 to 100)."""

    def __init__(
        self, pruner: optuna.pruners.BasePruner, peers: Sequence[Outcome], place: int
    ) -> None:
        self._name = name_of(pruner)
        study = _study(pruner)
        for peer in peers:
            trial = study.ask()
            for percent, loss in _percents(peer.curve).items():
                trial.report(loss, percent)
                _mark(trial)
            if peer.state == "finished" and len(peer.curve):
                study.tell(trial, peer.held_out_loss)
            else:
                state = TrialState.PRUNED if peer.state == "pruned" else TrialState.FAIL
                study.tell(trial, state=state)
        for _ in range(place):  # the others of its round: empty trials, which Hyperband counts
            study.add_trial(create_trial(state=TrialState.FAIL))
        self._trial = study.ask()

    def verdict(self, point: Point) -> str:
        """Report the point; return why the pruner would stop the run, "" if it would not."""
        percent = _percent(point.progress)
        if not _asked(self._trial, percent, point.held_out_loss):
            return ""
        return f"pruned by {self._name} at {percent} % of the cycle"


class Seeds:
    """A trial is a candidate, a step is a seed, a value the held-out loss at the end of its run.

    A Wilcoxon test pairs independent instances. Points of one curve are not independent, so a test
    over them would always be significant. A run is judged once, at its first point, by the earlier
    seeds of its candidate.
    """

    def __init__(
        self, pruner: optuna.pruners.BasePruner, peers: Sequence[Outcome], run: Run
    ) -> None:
        losses: dict[Run, dict[int, float]] = defaultdict(dict)
        for peer in peers:
            if peer.state == "finished":
                losses[_candidate(peer.run)][peer.run.replicate] = peer.held_out_loss
        own = losses.pop(_candidate(run), {})
        study = _study(pruner)
        for seeds in losses.values():
            study.add_trial(create_trial(value=mean(seeds.values()), intermediate_values=seeds))
        trial, lost = study.ask(), False
        for seed, loss in own.items():
            lost = _asked(trial, seed, loss)
        self._reason = f"pruned by {name_of(pruner)} after {len(own)} other seeds" if lost else ""

    def verdict(self, point: Point) -> str:
        """Return the verdict from the earlier seeds."""
        return self._reason


def _study(pruner: optuna.pruners.BasePruner) -> optuna.Study:
    # Hyperband draws a trial's bracket from the study's name and the trial's number.
    return optuna.create_study(study_name="stage", pruner=copy.deepcopy(pruner))


def _asked(trial: optuna.Trial, step: int, loss: float) -> bool:
    with warnings.catch_warnings():  # of steps reported twice, seeds without a partner...
        warnings.simplefilter("ignore")
        trial.report(loss, step)
        return trial.should_prune()


def _mark(trial: optuna.Trial) -> None:
    """Make successive halving mark all rungs of a run up to its last point.

    Halving marks one rung each time it does not prune. Reports are further apart than the first
    rungs, so a peer would be marked later, with a lower loss, and look better than it was. Pruners
    that store no marks are not called, since that is slow and has no effect.
    """
    if halves(trial.study.pruner):
        for _ in range(MOST_RUNGS):
            if not trial.should_prune():
                return


def _percents(curve: Curve) -> dict[int, float]:
    """Return the losses by per cent; the first of several points in the same one, as in Optuna."""
    losses: dict[int, float] = {}
    for progress, loss in zip(curve.progress, curve.held_out_loss, strict=True):
        losses.setdefault(_percent(progress), float(loss))
    return losses


def _percent(progress: float) -> int:
    return int(100 * progress + 1e-9)


def _candidate(run: Run) -> Run:
    return replace(run, replicate=0)
