"""The interface of a stage, and how its options are declared."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.schedules import Schedule

T = TypeVar("T")
LEAST = 1e-12
FITTED = 0.9  # x the chance loss: a run whose train loss ends below it has learnt
CYCLE = 20, 0.2  # reports of a cycle, and what they may cost (see `held_out_share`)
MOST_ROUNDS = 50  # of one stage: one that asks for more does not converge


def option(default: T, doc: str, **limits: Any) -> T:
    """Declare an option of a stage: its default, one line of help, and limits.

    Limits are pydantic's (`gt`, `ge`, `lt`, `le`, `min_length`, `max_length`; `item_gt` etc. apply
    to the members of a tuple). They are kept as plain metadata, so that stages need no pydantic.
    """
    made: Any = field(default=default, metadata={"doc": doc, **limits})
    return made  # type: ignore[no-any-return]  # dataclasses replaces it by the value


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One part of the method: proposes runs, reads their curves, decides one part of the recipe.

    A stage must be pure and stateless: the same recipe and outcomes give the same result. So
    decisions can be tested with made-up curves, and a study resumes by replay.

    Args:
        name: Name of the stage in the plan.
        facts: What is known of the task before any run.

    Attributes:
        kind: Name of the kind of stage.
        needs: Recipe fields that must be set before the stage can run.
        gives: Recipe fields that its decision may set.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("max_lr",)
    gives: ClassVar[tuple[str, ...]] = ()

    name: str
    facts: Facts

    @abstractmethod
    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Return the next round of runs.

        Args:
            recipe: The recipe that the stage starts from.
            outcomes: The outcomes of all earlier rounds, in the order proposed, with failed and
                pruned ones.

        Returns:
            The runs of the next round, none of them among `outcomes`; [] once there is enough
            evidence to decide.
        """

    def end_loss(self, outcome: Outcome) -> float:
        """Return the held-out loss at the end of a run, as stages compare it.

        Losses are compared as logarithms, so 0 becomes `LEAST` x the chance loss.

        Args:
            outcome: The run's outcome.

        Returns:
            The loss; inf for a run that has learnt nothing (see `learnt`).
        """
        loss, least = outcome.held_out_loss, LEAST * self.facts.chance_loss
        if not self.learnt(outcome):
            return math.inf
        return max(loss, least) if loss >= 0 else loss

    def learnt(self, outcome: Outcome, below: float = 1.0) -> bool:
        """Return whether a run has learnt anything.

        One that fits its training data overfits, even if it ends above the chance loss: its loss
        says how far, while that of a run that was lost says nothing.

        Args:
            outcome: The run's outcome.
            below: The share of the chance loss that its held-out loss must be below, if it does
                not fit its training data.
        """
        loss, chance = outcome.held_out_loss, self.facts.chance_loss
        if loss < below * chance:
            return True
        fits = outcome.curve.train_loss[-1:] < FITTED * chance
        return outcome.state == "finished" and math.isfinite(loss) and bool(fits.any())

    def guessing(self, outcome: Outcome) -> str:
        """Return how a run is no better than the best constant prediction, "" if it is better.

        Args:
            outcome: The run's outcome.
        """
        chance, share = self.facts.chance_loss, self.facts.chance_metric
        if not outcome.held_out_loss < chance:
            loss = f"held-out loss {outcome.held_out_loss:.4g}"
            return f"{loss} is no better than guessing ({chance:.4g})"
        metric = outcome.metric
        if share is not None and metric <= share:
            return f"{self.facts.metric} {metric:.4g} is no better than guessing ({share:.4g})"
        return ""

    @abstractmethod
    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the decision.

        Args:
            recipe: The recipe that the stage started from, the incumbent.
            outcomes: The outcomes of all rounds, in the order proposed.

        Returns:
            The decision. It sets only fields that are in `gives`.
        """


@dataclass(frozen=True)
class Seen:
    """What a stage decides by: the recipe that came in, and all outcomes so far."""

    recipe: Recipe
    outcomes: Sequence[Outcome]

    @cached_property
    def known(self) -> set[Run]:
        """The runs that there are outcomes of."""
        return {o.run for o in self.outcomes}

    @cached_property
    def by_run(self) -> dict[Run, Outcome]:
        """The outcomes by their runs."""
        return {o.run: o for o in self.outcomes}


def walk(
    stage: Stage, recipe: Recipe, run_round: Callable[[list[Run]], Sequence[Outcome]]
) -> tuple[Decision, tuple[Outcome, ...]]:
    """Take a stage to its decision: propose, run, until it has enough evidence.

    `run_round` returns the outcomes of a round in the order of its runs. Raises RuntimeError for a
    stage that breaks its contract: proposes a run twice, or never comes to an end.
    """
    outcomes: list[Outcome] = []
    for _ in range(MOST_ROUNDS):
        runs = stage.propose(recipe, outcomes)
        if not runs:
            decision = stage.decide(recipe, outcomes)
            if alien := sorted(set(decision.values) - set(stage.gives)):
                raise RuntimeError(
                    f"stage {stage.name} set {', '.join(alien)}, which is not in its `gives`"
                )
            return decision, tuple(outcomes)
        if len(set(runs)) < len(runs) or {o.run for o in outcomes} & set(runs):
            raise RuntimeError(f"stage {stage.name} proposed a run twice")
        outcomes += run_round(runs)
    raise RuntimeError(f"stage {stage.name} asked for more than {MOST_ROUNDS} rounds")


def schedule_of(recipe: Recipe) -> Schedule:
    """Return the schedule of the final run. Raises ValueError while `max_lr` is unset."""
    if recipe.max_lr is None:
        raise ValueError(
            "the recipe has no max_lr yet: plan an lr_range stage or set recipe.max_lr"
        )
    return Schedule(
        name=recipe.schedule,
        min_lr=recipe.min_lr if recipe.min_lr is not None else recipe.max_lr / 10,
        max_lr=recipe.max_lr,
        min_momentum=min(recipe.min_momentum, recipe.max_momentum),
        max_momentum=recipe.max_momentum,
    )


def held_out_share(examples: int, points: int, cost: float) -> tuple[int, int]:
    """Return how often to report (at most `points` times) and on how many held-out examples.

    An evaluation costs about a third of a training step per example (forward against forward and
    backward), so these keep all reports together below `cost` of the training of `examples`. Fewer
    than 50 examples say little: a short run reports less often instead, though ten times at least,
    as long as there is an example for each.
    """
    allowed = max(1, int(3 * cost * examples))
    points = min(points, max(10, allowed // 50), allowed)
    return points, allowed // points


def cycle(recipe: Recipe, steps: int, replicate: int, label: str, **changes: Any) -> Run:
    """Return a complete cycle of the recipe's own schedule in `steps` steps."""
    points, cost = changes.pop("points", CYCLE[0]), changes.pop("cost", CYCLE[1])
    schedule = schedule_of(recipe)
    return run_of(recipe, schedule, steps, replicate, label, points=points, cost=cost, **changes)


def run_of(
    recipe: Recipe,
    schedule: Schedule,
    steps: int,
    replicate: int,
    label: str,
    *,
    points: int,
    cost: float,
    **changes: Any,
) -> Run:
    """Return a run of the recipe on any schedule; `points` and `cost` as in `held_out_share`."""
    points, held_out = held_out_share(steps * recipe.batch_size, points, cost)
    return Run(
        **{"kind": "train", **changes},
        schedule=schedule,
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        steps=steps,
        replicate=replicate,
        points=points,
        held_out_examples=held_out,
        dropout=recipe.dropout,
        label=label,
    )
