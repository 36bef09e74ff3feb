"""The clue pruner: judges a run by its own curve, then against comparable finished runs."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from orchestrator import clues
from orchestrator.curve import Curve, Point
from orchestrator.pruners import plain
from orchestrator.pruners.optunas import name_of, settings_of
from orchestrator.pruners.peers import Peers
from orchestrator.pruners.views import View, compared, view
from orchestrator.recipe import Run
from orchestrator.stages.stage import option

MIN_FALL = 0.1  # of the best run's log loss: below this differences are noise, nothing is pruned


@dataclass(frozen=True, kw_only=True)
class ClueRules:
    """Thresholds of `CluePruner`: when a run is stopped.

    A run at the untrained loss is stopped only if the best finished run of its length had left that
    loss. A network that starts to learn late (a transformer) may have it for half of a cycle, and
    still train well.

    >>> ClueRules(above_chance=1.5, behind=None).stuck_after
    0.25
    """

    above_chance: float = option(1.3, "stop when rising above this x the untrained loss", gt=1)
    stuck_after: float = option(
        0.25,
        "share of the run from which a loss at the untrained one stops it, if the best finished run"
        " was below it",
        ge=0,
        le=1,
    )
    stuck_points: int = option(3, "points in a row at the untrained loss that stop a run", ge=1)
    behind: float | None = option(
        2.0, "stop where the best finished run had fallen this x as far; null: never", gt=1
    )
    behind_after: float = option(0.25, "share of the run after which it is compared", ge=0, le=1)


class CluePruner(optuna.pruners.BasePruner):
    """Prunes a trial that has diverged, that is stuck, or that is far behind the best finished one.

    - Diverged: the loss is not finite, or above the untrained loss and rising. This needs no other
      trials. So it works in a stage of four candidates, where Optuna's MedianPruner never acts (it
      waits for five finished trials).
    - Stuck: the loss is at the untrained one, and the best finished trial of the same length was
      below it. Without such a trial the network may only start to learn late.
    - Behind (`rules.behind`): the best finished trial of the same length had fallen much further.
      This compares how far the lowest loss so far has fallen, in logarithms. Comparing the losses
      themselves would prune winners, since a high learning rate raises the loss in the middle of a
      run.

    In plain Optuna the study must minimize, and the trial must report its held-out loss. Call
    `observe` before each report to add train loss, lr and progress. In a study of stages the
    executor calls `start` for each run and `compare_with` after each round. A pickled pruner does
    not contain trials in progress.

    Args:
        rules: The thresholds. None: the defaults.
        also: A pruner of Optuna's, used where our rules do not prune.
        start_loss: Held-out loss before training, above 0: ln C for C classes, or the loss of an
            untrained network where that is higher (a regression with raw targets). None: the first
            reported value.
        total_steps: The step of the last report, or the number of reports where steps count from
            0. None: the last step of the study's complete trials if all have the same; otherwise
            the rules "stuck" and "behind" do nothing. Complete trials of another length give a
            warning.

    Raises:
        ValueError: `start_loss` is not above 0 and finite.

    >>> pruner = CluePruner(ClueRules(above_chance=1.5), start_loss=2.3, total_steps=100)
    >>> study = optuna.create_study(pruner=pruner)
    >>> trial = study.ask()
    >>> for step, held_out_loss in [(10, 2.2), (20, 4.1)]:
    ...     trial.report(held_out_loss, step)
    ...     if trial.should_prune():
    ...         print(step, pruner.reason(trial.number))
    20 diverged: held-out loss 4.1 is above 1.5 x the untrained loss (2.3) and rising (steps 10-20)
    """

    def __init__(
        self,
        rules: ClueRules | None = None,
        also: optuna.pruners.BasePruner | None = None,
        *,
        start_loss: float | None = None,
        total_steps: int | None = None,
    ) -> None:
        if start_loss is not None and not 0 < start_loss < math.inf:
            raise ValueError(f"start_loss must be above 0 and finite, got {start_loss}")
        self.rules = rules or ClueRules()
        self.also = also
        self.start_loss = start_loss
        self.total_steps = total_steps
        self._peers = Peers()
        self._points: dict[int, list[Point]] = defaultdict(list)
        self._runs: dict[int, Run] = {}
        self._views: dict[int, View] = {}
        self._reasons: dict[int, str] = {}

    def __repr__(self) -> str:
        also = f", also={settings_of(self.also)}" if self.also else ""
        return f"CluePruner({self.rules}{also})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trials in progress: they belong to another process."""
        fresh = CluePruner(self.rules, self.also)
        kept = ("start_loss", "total_steps", "_peers")
        return {**vars(fresh), **{name: getattr(self, name) for name in kept}}

    # --- input

    def observe(self, trial_number: int, point: Point) -> None:
        """Add a measurement of a trial, with more values than `trial.report` takes.

        Args:
            trial_number: Number of the trial.
            point: The measurement.
        """
        self._points[trial_number].append(point)

    def compare_with(self, peers: Peers) -> None:
        """Set what runs are compared with; called by the executor.

        Args:
            peers: The outcomes of the stage's completed rounds.
        """
        self._peers = peers

    def only_for(self, run: Run) -> CluePruner:
        """Return a copy for a worker process, with only the outcomes that it needs.

        Args:
            run: The run that the process trains.
        """
        made = copy.copy(self)
        made.compare_with(Peers(compared(self.also, self._peers, run)))
        return made

    def start(self, trial_number: int, run: Run, place: int) -> None:
        """Start a run of a stage; called by the executor.

        Args:
            trial_number: Number of the trial.
            run: The run that it trains.
            place: Its place in its round, from 0.
        """
        self._runs[trial_number] = run
        if self.also is not None:
            self._views[trial_number] = view(self.also, self._peers, run, place)

    def seen(self, run: Run, place: int) -> str:
        """Return a name of what a run would be compared with, "" for nothing.

        Args:
            run: The run.
            place: Its place in its round, from 0.
        """
        digest = self._peers.digest(run)
        return digest if self.also is None else f"{digest}#{place}"

    def forget(self, trial_number: int) -> None:
        """Drop the data of a trial that has ended.

        Args:
            trial_number: Number of the trial.
        """
        for kept in (self._points, self._runs, self._views, self._reasons):
            kept.pop(trial_number, None)

    # --- result

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to prune the trial; `reason` then returns why.

        Never at the last step: pruning saves nothing there, and the final loss is useful.

        Args:
            study: The study.
            trial: The trial.

        Raises:
            ValueError: The study maximizes, and `observe` was not called with losses.
        """
        points = self._points.get(trial.number) or plain.reported(study, trial, self.total_steps)
        if not points:
            return False
        running = trial.number in self._runs
        if points[-1].progress >= 1 and (running or self.total_steps is not None):
            return False
        reason = (
            self._diverged(points)
            or self._stuck(study, trial, points)
            or self._behind(study, trial, points)
        )
        if not reason and self.also is not None:
            reason = self._other(self.also, study, trial, points[-1])
        if reason:
            self._reasons[trial.number] = reason
        return bool(reason)

    def reason(self, trial_number: int) -> str:
        """Return why a trial was pruned, "" if it was not.

        Args:
            trial_number: Number of the trial.
        """
        return self._reasons.get(trial_number, "")

    def check(self, trial: optuna.Trial) -> None:
        """End the trial if it is to be pruned; for plain Optuna.

        The reason becomes the trial's user attribute "reason".

        Args:
            trial: The trial.

        Raises:
            optuna.TrialPruned: The trial is pruned.
        """
        if trial.should_prune():
            trial.set_user_attr("reason", self.reason(trial.number))
            raise optuna.TrialPruned(self.reason(trial.number))

    # --- rules

    def _diverged(self, points: Sequence[Point]) -> str:
        clue = clues.diverged(Curve.of(points), self._chance(points), self.rules.above_chance)
        return f"diverged: {clue.reason}" if clue else ""

    def _stuck(self, study: optuna.Study, trial: FrozenTrial, points: Sequence[Point]) -> str:
        chance, rules = self._chance(points), self.rules
        clue = clues.stuck(Curve.of(points), chance, rules.stuck_after, rules.stuck_points)
        if clue is None:
            return ""
        best = self._best(study, trial, points[-1].step)
        if not _fallen(chance, best) >= MIN_FALL:  # this way round: NaN is nothing to compare
            return ""
        return f"stuck: {clue.reason}, and the best finished run was at {best:.3g}"

    def _chance(self, points: Sequence[Point]) -> float:
        given = self.start_loss
        return given if given is not None and math.isfinite(given) else points[0].held_out_loss

    def _best(self, study: optuna.Study, trial: FrozenTrial, step: int) -> float:
        """Return the lowest loss up to `step` of the finished run that ended lowest, else NaN."""
        if run := self._runs.get(trial.number):
            return self._peers.best(run, step)
        return plain.best_complete(study, step, self.total_steps)

    def _behind(self, study: optuna.Study, trial: FrozenTrial, points: Sequence[Point]) -> str:
        factor, point = self.rules.behind, points[-1]
        if factor is None or not self.rules.behind_after <= point.progress < 1:
            return ""
        best = self._best(study, trial, point.step)
        chance, lowest = self._chance(points), min(p.held_out_loss for p in points)
        lead = _fallen(chance, best)
        if not (lead >= MIN_FALL and lead > factor * _fallen(chance, lowest)):
            return ""  # written so that NaN compares as "not behind"
        return (
            f"behind: held-out loss is down to {lowest:.3g} from the untrained loss ({chance:.3g})"
            f" at {100 * point.progress:.0f} % of the run, the best finished run was at {best:.3g}:"
            f" more than {factor:g} x as far in logarithms"
        )

    def _other(
        self,
        also: optuna.pruners.BasePruner,
        study: optuna.Study,
        trial: FrozenTrial,
        point: Point,
    ) -> str:
        if seen := self._views.get(trial.number):
            return seen.verdict(point)
        if also.prune(study, trial):
            return f"pruned by {name_of(also)} at step {trial.last_step}"
        return ""


def _fallen(chance: float, loss: float) -> float:
    """Return how far `loss` is below `chance`, in logarithms; NaN where one is not above 0."""
    return max(math.log(chance / loss), 0.0) if chance > 0 and loss > 0 else math.nan
