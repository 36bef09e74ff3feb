"""The chance loss, that of the best constant prediction, and notes on unsuitable targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from orchestrator.training.task import LABELS, NUMBERS, Task, TaskError

MOST_SCORES = 2**22  # the most scores that a constant prediction is fitted to
BALANCED = 0.98  # of the entropy of balanced classes: below it, frequencies count
FAR = 2.0  # x chance: above this loss of the prediction 0, targets are not centred
PROBABILITIES = (
    "The scores look like probabilities: cross_entropy needs the scores before the softmax, which"
    " it applies itself."
)
USUAL = (1e-2, 1e2)  # losses of a constant prediction without a note


def chance_loss(task: Task, y: Tensor, classes: int, scores: Tensor) -> float:
    """Return the chance loss: that of the best constant prediction.

    For cross-entropy the entropy of the class frequencies, log(`classes`) where they are nearly
    balanced (`BALANCED`). Otherwise measured on the training targets `y`, on at most `MOST_SCORES`
    scores: the variance for mse, the mean distance to the median for l1, by L-BFGS for others.
    `scores`: of any examples, for their shape. Raises TaskError for a chance loss that is not above
    0, since losses are compared by factors.
    """
    if task.kind == "cross_entropy":
        entropy = _entropy(task, y)
        return entropy if entropy < BALANCED * math.log(classes) else math.log(classes)
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
    """Return how to keep a loss above 0, "" if it is not at or below 0."""
    if not value <= 0:
        return ""
    if task.name.rpartition(".")[2].lower().replace("_", "") in ("nllloss", "nll"):
        return ": loss=cross_entropy also takes log-probabilities"
    return ": add a constant to it"


def largest_share(task: Task, y: Tensor) -> float | None:
    """Return the accuracy of always guessing the most frequent class, None where there is none."""
    if task.kind != "cross_entropy":
        return None
    return float(_frequencies(task, y).max())


def _entropy(task: Task, y: Tensor) -> float:
    """Return the entropy of the class frequencies in nats, to six digits: the same everywhere."""
    shares = _frequencies(task, y)
    shares = shares[shares > 0]
    return float(f"{-(shares * shares.log()).sum():.6g}")


def _frequencies(task: Task, y: Tensor) -> Tensor:
    labels = y.flatten()
    labels = labels[labels != task.ignored] if task.ignored is not None else labels
    counts = torch.bincount(labels).double()
    return counts / counts.sum()


def _guess(task: Task, y: Tensor, scores: Tensor) -> Tensor:
    """Return a constant prediction for one example: the best, or a start for L-BFGS."""
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
    """Return the lowest loss of a constant prediction that L-BFGS finds, inf if it fails."""
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
    except (RuntimeError, ValueError, IndexError):  # a loss that cannot take a view, or is NaN
        return math.inf
    return found if math.isfinite(found) else math.inf


def remarks(task: Task, y: Tensor, chance: float, scores: Tensor) -> list[str]:
    """Return notes on the loss, and on unsuitable targets or `scores`.

    `scores`: of the first examples, from an untrained network.
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
            " much: targets are not changed; better subtract their mean."
        )
    if not USUAL[0] <= chance <= USUAL[1]:
        told.append(
            "That is far from 1: targets are not changed; better divide them by their"
            " standard deviation."
        )
    return told


def _probabilities(scores: Tensor) -> bool:
    """Whether scores (n, classes, ...) look like the output of a softmax."""
    sums = scores.sum(1)
    return bool((scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
