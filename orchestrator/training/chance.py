"""What guessing costs, and sentences on targets that will make trouble."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from orchestrator.training.task import LABELS, NUMBERS, Task, TaskError

MOST_SCORES = 2**22  # that a constant prediction is fitted to
FAR = 2.0  # times chance: a loss of the prediction 0 that says that targets are not centred
PROBABILITIES = (
    "The scores look like probabilities: cross_entropy wants them before the softmax, which it"
    " takes itself."
)
USUAL = (1e-2, 1e2)  # losses of a constant prediction that need no word


def chance_loss(task: Task, y: Tensor, classes: int, scores: Tensor) -> float:
    """Return what guessing costs: the loss of the best prediction that is always the same.

    Of cross-entropy log(`classes`), which the frequent classes do not lower; else measured on
    the training targets `y`, of at most `MOST_SCORES` scores: mse their variance, l1 the mean
    distance to their median, others by L-BFGS. `scores`: those of some example, for the shape.
    Raises TaskError for a loss that is not above 0 then: all rules compare by factors.
    """
    if task.kind == "cross_entropy":
        return math.log(classes)
    y = y[: max(1, MOST_SCORES // max(1, scores[0].numel()))]
    start = _guess(task, y, scores)
    value = _of_constant(task, start, y)
    if task.kind in ("own", "huber"):
        value = min(value, _polished(task, start, y))
    if task.kind != "own" and value == 0:
        raise TaskError("the training targets are all the same: there is nothing to learn")
    if not 0 < value < math.inf:
        raise TaskError(
            f"loss {task.name}: is {value:.3g} for the best constant prediction; it must be a"
            f" finite number above 0, since losses are compared by factors{_above_0(task, value)}"
        )
    return float(f"{value:.6g}")  # the same on every machine


def _above_0(task: Task, value: float) -> str:
    """Return how a loss comes to stay above 0, "" where that is not what is wrong."""
    if not value <= 0:
        return ""
    if task.name.rpartition(".")[2].lower().replace("_", "") in ("nllloss", "nll"):
        return ": loss=cross_entropy takes log-probabilities as they are"
    return ": add a constant to it"


def _guess(task: Task, y: Tensor, scores: Tensor) -> Tensor:
    """Return a constant prediction for one example: the best, or where to look for it."""
    if task.kind == "own":
        return torch.zeros(scores.shape[1:])
    if task.kind == "mse":
        return y.mean(0)
    if task.kind == LABELS:
        return torch.logit(y.mean(0), eps=1e-6)
    return y.median(0).values


@torch.no_grad()
def _of_constant(task: Task, guess: Tensor, y: Tensor) -> float:
    return float(task.total(guess.expand(len(y), *guess.shape), y)) / len(y)


def _polished(task: Task, start: Tensor, y: Tensor) -> float:
    """Return the least loss of a constant that L-BFGS finds, inf if it finds none."""
    guess = start.clone().requires_grad_()
    search = torch.optim.LBFGS([guess], max_iter=100, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        search.zero_grad()
        loss = task.mean(guess.expand(len(y), *guess.shape), y)
        torch.autograd.backward(loss)
        return loss

    try:
        search.step(value)  # type: ignore[no-untyped-call]
        found = _of_constant(task, guess.detach(), y)
    except (RuntimeError, ValueError, IndexError):  # a loss that wants more than a view, or is NaN
        return math.inf
    return found if math.isfinite(found) else math.inf


def remarks(task: Task, y: Tensor, chance: float, scores: Tensor) -> list[str]:
    """Return sentences on the loss, and on targets or `scores` that will make trouble.

    `scores`: of the first examples, from a network that nobody has trained.
    """
    if task.kind == "cross_entropy":
        return [PROBABILITIES] if _probabilities(task.fitted(scores, y[: len(scores)])) else []
    told = [f"The loss is {task.name}: {chance:.4g} for the best constant prediction."]
    if task.kind not in NUMBERS:
        return told
    levels = torch.unique(y) if y.dim() == 1 else y
    if torch.equal(levels, torch.arange(len(levels), dtype=y.dtype)):
        told.append(
            f"Labels 0 to {len(levels) - 1} are taken as numbers: loss=cross_entropy is for"
            " classes."
        )
    zero = _of_constant(task, torch.zeros(y.shape[1:]), y)
    if zero > FAR * chance:
        told.append(
            f"The prediction 0, near which a network starts, costs {zero / chance:.2g} times as"
            " much: targets are used as they are; better subtract their mean."
        )
    if not USUAL[0] <= chance <= USUAL[1]:
        told.append(
            "That is far from 1: targets are used as they are; better divide them by their"
            " standard deviation."
        )
    return told


def _probabilities(scores: Tensor) -> bool:
    """Whether scores (n, classes, ...) are what a softmax gives."""
    sums = scores.sum(1)
    return bool((scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
