"""Checks that network, loss, metric and targets fit together, before the first run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.training.data.datasets import described
from orchestrator.training.own_loss import Function, broadcasts, is_sum, state_of, trained_by
from orchestrator.training.task import Task, TaskError

SQUEEZE = "let the model or the function squeeze(-1)"
WORDS = 200  # characters of an error message


class ModelError(ConfigError):
    """The network cannot be built for these data or cannot be trained; one line with the reason."""


def check_shape(task: Task, scores: object, y: Tensor, classes: int) -> None:
    """Raise TaskError, one line, unless the network returns scores of the right shape."""
    if not isinstance(scores, Tensor):
        raise TaskError(
            f"model: must return a tensor of scores, got {described(scores)}: let its forward"
            " return one of them, or all in one tensor, which your own loss splits"
        )
    shape, wanted, count = tuple(scores.shape), tuple(y.shape), len(y)
    if task.kind == "own":
        return
    if task.kind == "cross_entropy" and y.dim() == 1:
        if len(shape) != 2 or shape[0] != count or shape[1] < classes:
            raise TaskError(
                f"model: must return one score per class, shape (examples, {classes}),"
                f" got {shape} for {count} examples (num_classes is passed only if the signature"
                " names it)"
                + "; one score for labels that are 0 or 1: loss=bce_with_logits"
                * (shape[1:] == (1,) and classes == 2)
            )
    elif task.kind == "cross_entropy":
        last = shape[:-1] == wanted and shape[-1] >= classes
        second = (*shape[:1], *shape[2:]) == wanted and len(shape) > 1 and shape[1] >= classes
        if not last and not second:
            more = ", ".join(map(str, wanted[1:]))
            raise TaskError(
                f"model: must return a score per class for each target, shape"
                f" (examples, {more}, {classes}) or (examples, {classes}, {more}),"
                f" got {shape} for {count} examples"
            )
    elif shape not in (wanted, (*wanted, 1)):
        of = ", ".join(map(str, ("examples", *wanted[1:])))
        raise TaskError(
            f"model: must return a score per target for loss {task.kind}, shape ({of}),"
            f" got {shape} for {count} examples"
            + ": squeeze(1)"
            * (shape == (wanted[0], 1, *wanted[1:]))
        )


def classes_of(task: Task, scores: Tensor, y: Tensor, labelled: int) -> tuple[int, list[str]]:
    """Return the number of classes, of which `labelled` have labels, and notes for the report.

    With cross-entropy a network may have more classes than there are labels. With another loss it
    is `labelled`.
    """
    if task.kind != "cross_entropy":
        return labelled, []
    count, told = task.fitted(scores, y).shape[1], []
    if count != labelled:
        told.append(f"The network returns {count} scores; labels go up to {labelled - 1}.")
    if y.dim() > 1 and (*scores.shape[:1], *scores.shape[2:]) == y.shape == scores.shape[:-1]:
        told.append(f"Scores {tuple(scores.shape)} are taken with the classes last.")
    return count, told


def try_out(task: Task, scores: Tensor, y: Tensor, targets: Tensor) -> None:
    """Raise TaskError, one line, if the user's own loss or metric cannot be used.

    `scores`, `y`: of a few examples; `targets`: of more examples.
    """
    what = f"scores {tuple(scores.shape)} and targets {tuple(y.shape)}"
    if task.kind == "own":
        name, function, before = (
            f"loss {task.name}",
            task.loss_function,
            state_of(task.loss_function),
        )
        if broadcasts(function, scores, targets):
            raise TaskError(f"{name}: it broadcasts {what} against each other: {SQUEEZE}")
        value = _tried(name, function, scores, y, what)
        if problem := _problem_of(function, value, scores, y) or _changed(
            before, state_of(task.loss_function)
        ):
            raise TaskError(f"{name}: {problem}")
    if (metric := task.own_metric) is not None:
        name = f"metric {task.metric_name}"
        if broadcasts(metric, scores, targets):
            raise TaskError(f"{name}: it broadcasts {what} against each other: {SQUEEZE}")
        _tried(name, lambda s, t: float(metric(s, t)), scores.detach(), y, what)


def _problem_of(function: Function, value: object, scores: Tensor, y: Tensor) -> str:
    """Return what is wrong with a loss and its `value` for two examples, "" if nothing."""
    if names := list(trained_by(function)):
        return (
            f"has weights of its own ({', '.join(names)}), but a study trains only those of the"
            " model: make them part of the model, whose forward then returns what the loss takes"
        )
    if not isinstance(value, Tensor) or value.dim():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        return f"must return a scalar tensor, the mean, got {got}"
    if not value.requires_grad:
        return "its value does not depend on the scores"
    if is_sum(function, scores, y):
        return (
            "is a sum (twice as large for twice the examples): return the mean over examples, as"
            " reduction=mean does"
        )
    return ""


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """Return what is wrong with a loss whose state changed in a call, "" if it did not."""
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if not changed:
        return ""
    return (
        f"its buffers ({', '.join(changed)}) change with each call, so that no run could be"
        " repeated: keep no state in it, or make it part of the model"
    )


def _tried(name: str, function: Callable[..., object], x: Tensor, y: Tensor, what: str) -> object:
    try:
        return function(x, y)
    except (Exception, SystemExit) as error:  # any error of the user's function: one line
        problem = " ".join(str(error).split())[:WORDS] or type(error).__name__
        raise TaskError(f"{name}: it cannot take {what}: {problem}") from error
