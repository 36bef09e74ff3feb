"""Stages that decide by the expected loss of the final run, for the price of a few final runs.

`by_expected_loss` puts one of them in the place of a stage that compares by significance, with the
same candidates.
"""

from __future__ import annotations

from orchestrator.recipe import Recipe
from orchestrator.stages.batch_size import BatchSize
from orchestrator.stages.candidates import CandidateStage
from orchestrator.stages.dropout import Dropout
from orchestrator.stages.expected.answer import Answer
from orchestrator.stages.expected.choice import Choice
from orchestrator.stages.expected.fields import (
    BatchSizeChoice,
    DropoutChoice,
    LRChoice,
    MomentumChoice,
    WeightDecayChoice,
)
from orchestrator.stages.expected.lr_search import LRSearch
from orchestrator.stages.final import Final
from orchestrator.stages.lr_check import LRCheck
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.stage import Stage
from orchestrator.stages.weight_decay import WeightDecay

CHOICES: dict[type[Stage], type[Choice]] = {
    Momentum: MomentumChoice,
    WeightDecay: WeightDecayChoice,
    Dropout: DropoutChoice,
    LRCheck: LRChoice,
}


def by_expected_loss(stage: Stage, recipe: Recipe, rate: float, sets_decay: bool = False) -> Stage:
    """Return the stage that decides the same by expected loss, the stage itself if there is none.

    `recipe`: the one that the study begins with, which grids may go by. `rate`: the expected gain,
    as a share of the loss, that is worth the price of one final run. `sets_decay`: whether the
    range test may set weight_decay, since the user has not.
    """
    name, facts = stage.name, stage.facts
    if isinstance(stage, LRRange):
        return LRSearch(name=name, facts=facts, ramps=stage, sets_decay=sets_decay)
    if isinstance(stage, Final):
        return Answer(name=name, facts=facts, seeds=stage.seeds, baselines=stage.baselines)
    if isinstance(stage, BatchSize):
        sizes = tuple(map(float, stage.sizes(recipe)))
        return BatchSizeChoice(name=name, facts=facts, candidates=sizes, rate=rate)
    choice = CHOICES.get(type(stage))
    if choice is None or not isinstance(stage, CandidateStage):
        return stage
    grid = stage.candidates if isinstance(stage, LRCheck) else stage.grid(recipe)
    return choice(name=name, facts=facts, candidates=tuple(grid), rate=rate)
