"""Diagnoses why a network does not learn, by checks of inputs, targets, gradients and outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training.batches import batches
from orchestrator.training.data.parts import Part
from orchestrator.training.evaluate import evaluating
from orchestrator.training.nested import Batch, fresh, size_of, tensors_of
from orchestrator.training.trainer import Setup

STEPS = 50
RATES = (1e-3, 1e-2)  # of Adam, whose steps do not depend on the scale of the loss
SAME = 1e-6  # relative to the largest of the numbers that are compared
FAR = 10.0  # standard deviations of the targets
FALL = 0.1  # share of a batch's loss: with a smaller fall it was not learnt
CARRIES = 0.02  # share of the held-out loss that must fall when a batch is learnt
SOME = 64  # examples of a batch; held out four times as many
SHUFFLES = 3  # of the batch's targets, to compare with


@dataclass(frozen=True)
class Patient:
    """What is examined: a network, its loss of outputs and targets, a batch, held-out batches.

    The network is trained; `restart` restores its first weights.
    """

    network: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batch: Batch
    held_out: Sequence[Batch]
    restart: Callable[[], object]

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device


def patient_of(setup: Setup) -> Patient:
    """Return a network of a study with some of its examples."""
    network = setup.network(0).train()
    start = copy.deepcopy(network.state_dict())
    size = min(SOME, len(setup.data.train))
    part = Part(*(values[: 4 * SOME] for values in setup.inputs.held_out))
    return Patient(
        network,
        setup.task.mean,
        next(batches(setup.inputs, size, seed=0)),
        [(setup.inputs.normalised(x), y) for x, y in setup.inputs.pieces(part, 1)],
        partial(network.load_state_dict, start),
    )


@dataclass(frozen=True)
class Learnt:
    """What training on a batch did: shares by which losses fell, and whether outputs differ.

    `gradient`: whether the weights got one.
    """

    fell: float
    carried: float
    differs: bool
    gradient: bool = True


def finding(patient: Patient, way_out: str = "") -> str:
    """Return why a network does not learn, "" if that is not clear.

    `way_out`: general advice, included where it may still help.

    Checks in this order: inputs differ; targets are near the network's outputs; weights get a
    gradient; outputs depend on inputs; one batch can be overfitted in 50 steps of Adam; this lowers
    the held-out loss. "" also if a check raises: then the network has another problem.
    """
    try:
        return _seen(patient, way_out)
    except Exception:
        return ""


def _seen(patient: Patient, way_out: str) -> str:
    x, y = patient.batch
    if all(map(_is_constant, tensors_of(x))):
        return "all inputs of a batch are the same: check how they are made"
    if far := _far(patient):
        return far
    tries = [_learnt(patient, y, rate) for rate in RATES]
    if not all(learnt.gradient for learnt in tries):
        return "the weights get no gradient: look for detach, argmax or rounding"
    if not any(learnt.differs for learnt in tries):
        return (
            "the model gives the same outputs for all inputs: check its activations (units that"
            " are always 0), and look for a softmax or a mean over the wrong dimension"
        )
    fell = max(learnt.fell for learnt in tries)
    what = f"in {STEPS} steps on {size_of(patient.batch)} examples the loss fell by {fell:.0%}"
    if fell < FALL:
        return f"{what} at most: the model cannot even overfit these"
    carried = max(learnt.carried for learnt in tries)
    if carried < max(CARRIES, _by_chance(patient)):
        doubt = "are inputs and targets in the same order?"
        less = f"{what}, the held-out loss no more than with shuffled targets"
        return f"{less}: {doubt}" + (f" If so, {way_out}" if way_out else "")
    return ""


def _far(patient: Patient) -> str:
    """Return how far targets of a regression are from the network's outputs, "" if near."""
    x, y = patient.batch
    patient.restart()
    with torch.no_grad(), evaluating(patient.network) as outputs_of:
        outputs = outputs_of(partial(fresh, x, patient.device))
    if not isinstance(y, Tensor) or not y.is_floating_point() or not isinstance(outputs, Tensor):
        return ""
    mean, spread, given = float(y.mean()), float(y.std()), float(outputs.mean())
    if abs(mean - given) <= FAR * spread:
        return ""
    return (
        f"the targets are around {mean:.3g} (standard deviation {spread:.2g}), the model's outputs"
        f" around {given:.2g}: subtract the targets' mean and divide by their standard deviation"
    )


def _learnt(patient: Patient, targets: Any, rate: float) -> Learnt:
    """Train on the batch, with these targets, from the first weights."""
    patient.restart()
    network, (x, _) = patient.network, patient.batch
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=rate)
    start, losses, lowest = _held_out_loss(patient), list[float](), math.inf
    for step in range(STEPS):
        optimizer.zero_grad()
        value = patient.loss(network(fresh(x, patient.device)), fresh(targets, patient.device))
        torch.autograd.backward(value)
        if not any(p.grad is not None and bool(p.grad.any()) for p in weights):
            return Learnt(0.0, 0.0, differs=False, gradient=False)
        optimizer.step()
        losses.append(float(value.detach()))
        if step % 5 == 4:
            lowest = min(lowest, _held_out_loss(patient))
    with torch.no_grad(), evaluating(network, batch_statistics=True) as outputs_of:
        outputs = tensors_of(outputs_of(partial(fresh, x, patient.device)))
    differs = not all(map(_is_constant, outputs))
    return Learnt(1 - min(losses) / losses[0], 1 - lowest / start, differs)


def _by_chance(patient: Patient) -> float:
    """Return the share by which the held-out loss falls if a batch's targets are shuffled."""
    y, generator = patient.batch[1], torch.Generator().manual_seed(0)
    if not isinstance(y, Tensor):
        return -math.inf
    orders = [torch.randperm(len(y), generator=generator) for _ in range(SHUFFLES)]
    shuffled = [y[order.to(y.device)] for order in orders]
    return max(_learnt(patient, targets, rate).carried for targets in shuffled for rate in RATES)


@torch.no_grad()
def _held_out_loss(patient: Patient) -> float:
    total, count = 0.0, 0
    with evaluating(patient.network, batch_statistics=True) as outputs_of:
        for x, y in patient.held_out:
            outputs = outputs_of(partial(fresh, x, patient.device))
            value = patient.loss(outputs, fresh(y, patient.device))
            total, count = total + float(value) * size_of((x, y)), count + size_of((x, y))
    return total / count


def _is_constant(values: Tensor) -> bool:
    """Whether all examples, along the first dimension, are the same."""
    if not values.dim() or len(values) < 2:
        return False
    values = values.double()
    return bool(((values - values[:1]).abs() <= SAME * values.abs().max()).all())
