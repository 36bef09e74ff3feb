"""Fakes and a conformance suite, for our tests and for tests of your own stages."""

from __future__ import annotations

import math

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives import Objective, StopRun
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.stage import Stage, walk


class FakeSession:
    """A session without Optuna that keeps points, checkpoint and model in memory.

    Args:
        run: The run.
        checkpoint: The checkpoint that `load` returns. None: the run starts from the beginning.
        stop_at: The point, counted from 1, at which `stop` is raised. None: never.
        stop: The exception to raise. None: a `StopRun` that prunes the run.
        prunes: Whether a loss that is not finite prunes the run.
    """

    def __init__(
        self,
        run: Run,
        checkpoint: bytes | None = None,
        *,
        stop_at: int | None = None,
        stop: BaseException | None = None,
        prunes: bool = False,
    ) -> None:
        self.run = run
        self.stop_at = stop_at
        self.stop = stop or StopRun("stop_at", pruned=True)
        self.prunes = prunes
        self.points: list[Point] = []
        self.checkpoint = checkpoint
        self.model: bytes | None = None

    def report(self, point: Point) -> None:
        """Keep a point.

        Args:
            point: The measurement.

        Raises:
            StopRun: The run ends at `stop_at`, by its own stop rule, or by `prunes`.
        """
        self.points.append(point)
        if self.run.stopped_by(point.held_out_loss):
            raise StopRun("stop rule", pruned=False)
        if self.stop_at == len(self.points):
            raise self.stop
        if self.prunes and not math.isfinite(point.held_out_loss):
            raise StopRun("not finite", pruned=True)

    def save(self, state: bytes) -> None:
        """Keep a checkpoint.

        Args:
            state: The checkpoint.
        """
        self.checkpoint = state

    def load(self) -> bytes | None:
        """Return the checkpoint."""
        return self.checkpoint

    def save_model(self, state: bytes) -> None:
        """Keep the model.

        Args:
            state: The model.
        """
        self.model = state


def execute(objective: Objective, run: Run) -> Outcome:
    """Do one run without a study.

    Args:
        objective: What trains the run.
        run: The run.

    Returns:
        Its outcome. A loss that is not finite prunes the run.
    """
    session = FakeSession(run, prunes=True)
    key = run.key(objective.context(run))
    try:
        result = objective(run, session)
    except StopRun as stop:
        return Outcome.stopped(run, key, session.points, stop.reason, pruned=stop.pruned)
    return Outcome(run, key, "finished", Curve.of(session.points), result)


def replay(
    stage: Stage, recipe: Recipe, objective: Objective
) -> tuple[Decision, tuple[Outcome, ...]]:
    """Run a stage to its decision without a study.

    Args:
        stage: The stage.
        recipe: The recipe that it starts from.
        objective: What trains its runs.

    Returns:
        The decision, and the outcomes of all runs in the order proposed.

    Raises:
        RuntimeError: The stage proposes a run twice, sets a field that is not in its `gives`, or
            never decides.
    """
    return walk(stage, recipe, lambda runs: [execute(objective, run) for run in runs])


class StageConformance:
    """Tests that every stage must pass: inherit in a test class and define `make`.

    Define `recipe` and `objective` too where the defaults do not fit.
    """

    def make(self) -> Stage:
        """Return the stage under test."""
        raise NotImplementedError

    def recipe(self) -> Recipe:
        """Return a recipe that the stage can start from."""
        return Recipe(max_lr=0.1, min_lr=0.01)

    def objective(self) -> Objective:
        """Return the objective that trains its runs."""
        from orchestrator.objectives.quadratic import QuadraticObjective

        return QuadraticObjective()

    def test_comes_to_a_decision_that_sets_only_what_it_gives(self) -> None:
        """The loop ends, and the decision sets no field that is not in `gives`."""
        stage = self.make()
        decision, _ = replay(stage, self.recipe(), self.objective())
        assert decision.stage == stage.name
        assert decision.reason
        assert set(decision.values) <= set(stage.gives)

    def test_proposes_the_same_for_the_same_outcomes(self) -> None:
        """Proposing twice from the same outcomes gives equal rounds: a stage has no state."""
        stage, recipe = self.make(), self.recipe()
        first = stage.propose(recipe, [])
        outcomes = [execute(self.objective(), run) for run in first]
        assert stage.propose(recipe, outcomes) == stage.propose(recipe, outcomes)
        assert stage.propose(recipe, []) == first

    def test_copes_with_runs_that_are_all_lost(self) -> None:
        """If every run fails the stage still ends, and decides without a NaN or an inf."""

        def lose(runs: list[Run]) -> list[Outcome]:
            return [Outcome(r, "k", "failed", Curve.of([]), Result(), "boom") for r in runs]

        decision, _ = walk(self.make(), self.recipe(), lose)
        for value in decision.values.values():
            assert not isinstance(value, float) or math.isfinite(value)
