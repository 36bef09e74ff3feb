"""The LR range test for the user's own model, loss and loaders: no study, no config.

The decisions are those of the stage `lr_range`; only the training loop differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Facts, Recipe
from orchestrator.stages.expected.lr_search import LRSearch
from orchestrator.stages.lr_range import LONGER, LR_FACTOR, LRRange
from orchestrator.stages.ramps import COST, POINTS, round_to
from orchestrator.stages.stage import Stage, held_out_share, walk
from orchestrator.training.diagnose import SOME, Patient, finding
from orchestrator.training.evaluate import RESOLUTION
from orchestrator.training.models import has_batch_norm
from orchestrator.training.nested import Batch, joined, size_of
from orchestrator.training.optimizer import momentum_of, name_of
from orchestrator.training.randomness import restoring_randomness, seed_all
from orchestrator.training.standalone import loaders
from orchestrator.training.standalone.range_loop import Loss, RampLoop
from orchestrator.training.standalone.range_result import LRRangeResult
from orchestrator.training.standalone.restore import restoring

LEAST_STEPS, MOST_STEPS = 80, 400  # of a ramp whose length is not given
SOME_STEPS = 100  # of a ramp where the length of an epoch is not known either
LEAST_FINAL = 50
SCHEDULES = "linear", "constant", "paper", "author", "fastai", "torch"
UNSEEN = 0.2  # x the rate of ramps: what fine-tuning wanted at the least (docs/design.md)
SHORT = 16  # of the final run: LONGER times as much is the longest cycle
NOTHING = 10 * RESOLUTION  # a loss of 0, as a share of the loss before training


def lr_range_test(
    model: nn.Module,
    loss: Loss,
    train: Iterable[Any],
    held_out: Iterable[Any] | tuple[Tensor, Tensor],
    *,
    optimizer: Optimizer | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    start_lr: float = 1e-5,
    end_lr: float | None = None,
    steps: int | None = None,
    final_steps: int | None = None,
    schedule: str = "linear",
    ramps: int = 3,
    lr_factor: float = LR_FACTOR,
    seed: int = 0,
) -> LRRangeResult:
    """Find the largest learning rate to train `model` with, then restore everything it changed.

    One exponential ramp brackets the useful rates, then `ramps` short linear ramps measure. All
    start from the model's current weights; data order and dropout differ between them. Each is read
    on held-out loss. This trains 4 x `steps` steps: fewer where ramps diverge early, more where
    they give too little evidence and are repeated, longer or over other rates.

    A ramp is too short to show what a training at a rate overwrites, or overfits. For fine-tuning,
    and for Adam and its kin in general, give `final_steps`: then one ramp says where to look, and
    complete short cycles find the rate, which is adjusted to that length. They train no more than
    1.2 x `final_steps` steps, and usually less than the ramps. Without it the interval of such an
    optimiser goes down to a fifth of what the ramps say.

    Afterwards, also after an exception or Ctrl-C, these are restored: model and loss (weights,
    buffers, gradients, modes, hooks, other attributes), parameters and state of the optimiser,
    samplers, and all random states.

    Source: Smith 2018 (arXiv 1803.09820), section 4, and Smith 2015 (arXiv 1506.01186). Similar to
    fastai's `lr_find` and torch-lr-finder, which read one ramp.

    Args:
        model: The model on its device, called as `model(x)`; batches are moved there.
        loss: `loss(outputs, targets)` returns a scalar tensor: the mean over the batch, or the sum,
            of which the mean is taken. It must not be negative, since losses are compared by
            factors. A module with weights that the optimiser trains is allowed.
        train: Batches (x, y) with examples along the first dimension: a DataLoader, a list or
            another iterable that can be read repeatedly. The model gets copies.
        held_out: The same, or a pair of tensors. A fixed subset is used, whose evaluation costs at
            most half of the training. It is stratified by y where y are whole numbers of shape (n,)
            and all inputs have one shape; otherwise drawn at random from a DataLoader's samplers,
            or taken from the start. The batches of a custom batch_sampler are not changed.
        optimizer: Any torch optimiser that trains `model`; only its lr is changed. Param groups
            keep the ratios of their rates, and max_lr is that of the first. None: SGD with
            Nesterov `momentum` and `weight_decay`.
        momentum: Momentum of the default SGD: the one that your schedule has where lr is highest.
        weight_decay: Weight decay of the default SGD (coupled L2).
        start_lr: Where the bracket starts, per step.
        end_lr: Where the bracket ends; it is extended once if needed. None: 10 for SGD, 0.1 for all
            others, whose steps do not grow with the gradient.
        steps: Length of one ramp. None: an epoch, at least 80 and at most 400, or 100 where `train`
            has no length. Ramps with too little evidence are made up to four times as long.
        final_steps: Steps of the training that the rate is for. None: ramps alone decide.
        schedule: Its schedule, a name of `Schedule`: linear (decay after a warm-up of 5 %),
            constant, paper, author, fastai or torch (1cycle). Only lr is set.
        ramps: Number of linear ramps.
        lr_factor: max_lr as a share of the last good rate of the ramps.
        seed: Seed of data order and dropout.

    Returns:
        An `LRRangeResult`. If the ramps gave no learning rate, its `answered` is False and `reason`
        says why.

    Raises:
        TypeError: `optimizer` is not an instance.
        ValueError: The model has no trainable parameters, or lazy ones without a shape; the
            optimiser trains another model; a loader is empty, can be read only once, or does not
            give pairs; the loss is not a scalar, is negative, or is 0 or not finite before
            training; it broadcasts outputs (n, 1) against targets (n,); a number is out of range.

    >>> from torch.utils.data import DataLoader
    >>> x = torch.randn(600, 8)
    >>> y = (x[:, 0] > x[:, 1]).long()
    >>> train = DataLoader(list(zip(x[:500], y[:500])), batch_size=20, shuffle=True)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> found = lr_range_test(model, nn.CrossEntropyLoss(), train, (x[500:], y[500:]))
    >>> found.answered, found.interval[0] <= found.max_lr <= found.interval[1]
    (True, True)
    >>> axes = found.plot()
    """
    _check(start_lr, end_lr, steps, ramps, lr_factor, final_steps)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if not isinstance(optimizer, Optimizer | None):
        raise TypeError(f"optimizer must be an instance made for this model, got {optimizer!r}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS has a line search and its own steps: give another optimizer")
    trained = _trained(model, optimizer)
    loaders.check_repeatable(train, "train")
    own = optimizer or torch.optim.SGD(
        trained, start_lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
    generators = [*loaders.generators_of(train), *loaders.generators_of(held_out)]
    samplers = [*loaders.samplers_of(train), *loaders.samplers_of(held_out)]
    modules = [model, *([loss] if isinstance(loss, nn.Module) else [])]
    with (
        restoring_randomness(trained[0].device, generators),
        restoring(modules, own, samplers) as found,
    ):
        seed_all(seed, generators=generators)
        batch_size = size_of(next(loaders.pairs(train, "train")))
        length = steps or _steps(train)
        seen = max(length, (final_steps or 0) // SHORT) * batch_size  # by a ramp or a cycle
        subset = _subset(held_out, seen, seed)
        loop = RampLoop(model, loss, train, subset, own, found=found, seed=seed)
        stage = stage_alone(
            replace(
                _facts(loop, (final_steps or length) * batch_size),
                batch_norm=has_batch_norm(model),
            ),
            length,
            final_steps is not None,
            start_lr=start_lr,
            end_lr=end_lr,
            ramps=ramps,
            lr_factor=lr_factor,
        )
        recipe = _recipe(own, batch_size, schedule)
        decision, outcomes = walk(stage, recipe, lambda runs: [loop(run) for run in runs])
        if not decision.answered:
            batch = _some(train)
            way_out = str(getattr(stage, "way_out", ""))
            patient = Patient(model, loss, batch, loop.held_out, found[0].restart)
            decision = _solved(decision, outcomes, stage.facts.start_loss) or decision.explained(
                finding(patient, way_out), way_out
            )
    return LRRangeResult.of(decision, outcomes, stage.facts.start_loss)


class RangeTestAlone(LRRange):
    """The stage, outside a study."""

    way_out: ClassVar[str] = "allow more steps"

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return what the ramps say; of Adam and its kin, that the best rate may be far lower."""
        found = super().decide(recipe, outcomes)
        if not (found.answered and recipe.adaptive and found.interval):
            return found
        low, high = found.interval
        lowest = round_to(UNSEEN * low)
        reason = (
            f"{found.reason}; a ramp does not show what longer training overwrites or overfits:"
            f" for fine-tuning the best rate may be as low as {lowest:.2g}, which final_steps finds"
            " out by short cycles"
        )
        return replace(found, reason=reason, interval=(lowest, high))


class SearchAlone(LRSearch):
    """One ramp and short cycles, outside a study."""

    way_out: ClassVar[str] = "allow more final_steps"


def stage_alone(facts: Facts, length: int, cycles: bool, **options: Any) -> Stage:
    """Return the stage of a range test outside a study.

    `length`: steps of a ramp. `cycles`: whether short cycles decide, by the final run of `facts`.
    `options`: of the ramps.
    """
    lengths = {"min_steps": length, "max_steps": length}
    alone = RangeTestAlone(name="lr_range_test", facts=facts, **lengths, **options)
    return SearchAlone(name=alone.name, facts=facts, ramps=alone) if cycles else alone


def _check(
    start_lr: float,
    end_lr: float | None,
    steps: int | None,
    ramps: int,
    lr_factor: float,
    final_steps: int | None,
) -> None:
    if not (0 < start_lr < math.inf and (end_lr is None or start_lr < end_lr < math.inf)):
        raise ValueError(f"need 0 < start_lr < end_lr < inf, got {start_lr=}, {end_lr=}")
    if steps is not None and steps < 10:
        raise ValueError(f"a ramp needs 10 steps or more, got {steps=}")
    check_final(final_steps)
    if ramps < 1 or not 0 < lr_factor <= 1:
        raise ValueError(f"need ramps >= 1 and 0 < lr_factor <= 1, got {ramps=}, {lr_factor=}")


def check_final(final_steps: int | None) -> None:
    """Raise ValueError for a final run that is too short for cycles."""
    if final_steps is not None and final_steps < LEAST_FINAL:
        raise ValueError(f"short cycles need {LEAST_FINAL} final steps or more, got {final_steps=}")


def _trained(model: nn.Module, optimizer: Optimizer | None) -> list[nn.Parameter]:
    """Return the parameters that are trained. Raises ValueError if there are none."""
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise ValueError("the model has lazy parameters: call it on one batch first")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameters that can be trained (requires_grad)")
    if optimizer is not None:
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(p) in known for p in trained):
            raise ValueError("the optimizer trains none of this model's parameters")
    return trained


def _steps(train: Iterable[Any]) -> int:
    """Return the length of a ramp: an epoch, within bounds."""
    length = loaders.length_of(train)
    return min(max(length, LEAST_STEPS), MOST_STEPS) if length else SOME_STEPS


def _subset(held_out: Iterable[Any] | tuple[Tensor, Tensor], seen: int, seed: int) -> list[Batch]:
    """Return the part of `held_out` that the longest ramp may use; a usual one trains on `seen`."""
    _, most = held_out_share(LONGER * seen, POINTS, COST)
    return loaders.frozen_subset(held_out, most, seed)


def _some(train: Iterable[Any]) -> Batch:
    """Return some training examples as one batch; the first batch where they cannot be joined."""
    batches, examples = [], 0
    for batch in loaders.pairs(train, "train"):
        batches.append(batch)
        examples += size_of(batch)
        if examples >= SOME:
            break
    return joined(batches) or batches[0]


def _solved(decision: Decision, outcomes: Sequence[Outcome], start_loss: float) -> Decision | None:
    """Return the decision for ramps whose loss reaches 0, None if most do not.

    Such ramps do not diverge. max_lr is where the loss first reached 0.
    """
    ramps = [o.curve for o in outcomes if len(o.curve)]
    curves = [zip(ramp.lr.tolist(), ramp.held_out_loss.tolist(), strict=True) for ramp in ramps]
    nothing = NOTHING * start_loss
    firsts = [next((lr for lr, loss in c if loss <= nothing), None) for c in curves]
    found = [round_to(lr) for lr in firsts if lr is not None]
    if len(found) * 2 <= len(ramps):
        return None
    max_lr, highest = round_to(median(found)), max(float(ramp.lr[-1]) for ramp in ramps)
    reason = (
        f"max_lr {max_lr:.3g}: from there on the held-out loss is 0, and no rate up to"
        f" {highest:.2g} made it rise: these data are so easy that none is too high"
    )
    values = {"max_lr": max_lr, "min_lr": round_to(max_lr / 10)}
    interval = min(found), max(found)
    return replace(decision, reason=reason, values=values, interval=interval, answered=True)


def _facts(loop: RampLoop, seen: int) -> Facts:
    return Facts(
        train_examples=seen,
        held_out_examples=loop.held_out_examples,
        chance_loss=loop.loss_at_start(),
        final_epochs=1,
    )


def _recipe(optimizer: Optimizer, batch_size: int, schedule: str) -> Recipe:
    """Return the recipe for the stage: optimiser, momentum, weight decay and batch size."""
    group = optimizer.param_groups[0]
    momentum = momentum_of(group) or 0.0
    return Recipe(
        max_momentum=momentum,
        weight_decay=float(group.get("weight_decay", 0.0)),
        batch_size=batch_size,
        schedule=schedule,  # of the cycles, if there are any
        optimizer=name_of(optimizer),
    )
