"""Fakes and conformance suites: for our tests, and for those of user-made stages."""

from __future__ import annotations

import math

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.objectives import Objective, StopRun
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.stage import Stage, walk


class FakeSession:
    """A session without Optuna: keeps points, checkpoint and model in memory.

    `checkpoint`: what the run finds, None: it starts at its beginning. `stop` is raised at the
    point `stop_at` (counted from 1), None: never. `prunes`: a loss that is not finite ends the run,
    as a pruner would.
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
        self.stop = stop or StopRun("told to", pruned=True)
        self.prunes = prunes
        self.points: list[Point] = []
        self.checkpoint = checkpoint
        self.model: bytes | None = None

    def report(self, point: Point) -> None:
        """Keep a point; stop where told to, or where the run's own rule says so."""
        self.points.append(point)
        if self.run.stopped_by(point.held_out_loss):
            raise StopRun("stop rule", pruned=False)
        if self.stop_at == len(self.points):
            raise self.stop
        if self.prunes and not math.isfinite(point.held_out_loss):
            raise StopRun("not finite", pruned=True)

    def save(self, state: bytes) -> None:
        """Keep a checkpoint."""
        self.checkpoint = state

    def load(self) -> bytes | None:
        """Return the checkpoint."""
        return self.checkpoint

    def save_model(self, state: bytes) -> None:
        """Keep the model."""
        self.model = state


def execute(objective: Objective, run: Run) -> Outcome:
    """Do one run without a study around it and return its outcome."""
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
    """Run a stage to its decision without a study around it (see `stages.stage.walk`)."""
    return walk(stage, recipe, lambda runs: [execute(objective, run) for run in runs])


class StageConformance:
    """Inherit this in a test class and give `make` and `recipe`: the promises of every stage."""

    def make(self) -> Stage:
        """Return the stage under test."""
        raise NotImplementedError

    def recipe(self) -> Recipe:
        """Return a recipe it can start from."""
        return Recipe(max_lr=0.1, min_lr=0.01)

    def objective(self) -> Objective:
        """Return the objective to run it on."""
        from orchestrator.objectives.quadratic import QuadraticObjective

        return QuadraticObjective()

    def test_comes_to_a_decision_that_sets_only_what_it_gives(self) -> None:
        """The loop ends, and the decision touches no field that the stage does not announce."""
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
