"""The task of a network: its loss and its metric."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.config import user_code
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import (
    AnyLoss,
    AnyMetric,
    LossConfig,
    MetricConfig,
    OwnMetricConfig,
)
from orchestrator.errors import ConfigError

Function: TypeAlias = Callable[..., Tensor]  # of scores and targets
NUMBERS, LABELS = ("mse", "l1", "huber"), "bce_with_logits"
FUNCTIONS: dict[str, Function] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
    LABELS: F.binary_cross_entropy_with_logits,
}
CLASSES = {  # the same losses as modules, for the code in the report
    "cross_entropy": "CrossEntropyLoss",
    "mse": "MSELoss",
    "l1": "L1Loss",
    "huber": "HuberLoss",
    LABELS: "BCEWithLogitsLoss",
}


class TaskError(ConfigError):
    """Network, loss, metric and targets do not fit together; one line with the reason."""


class Task:
    """A loss and a metric of scores, which are the outputs of the network for a batch, (n, ...).

    `cross_entropy` takes scores (n, classes) for targets (n,), and (n, ..., classes) or
    (n, classes, ...) for targets (n, ...). The others take scores of the targets' shape, or with
    one more dimension of size 1. A user's own loss or metric gets both unchanged. Raises
    ConfigError for one that cannot be made.
    """

    def __init__(self, loss: AnyLoss | None = None, metric: AnyMetric | None = None) -> None:
        self.loss, self.metric = loss or LossConfig(), metric or MetricConfig()
        self.own_metric: Function | None = None  # called once for a whole part
        if isinstance(self.metric, OwnMetricConfig):
            self.own_metric = _made(self.metric)
        if isinstance(self.loss, OwnConfig):
            self.kind, self.name = "own", self.loss.target
            self.loss_function: Function = _made(self.loss)
        else:
            self.kind = self.name = self.loss.name
            self.loss_function = FUNCTIONS[self.kind]
            if self.kind == "huber":
                self.loss_function = partial(F.huber_loss, delta=self.loss.delta)
            if self.ignored is not None:
                self.loss_function = partial(F.cross_entropy, ignore_index=self.ignored)

    @property
    def ignored(self) -> int | None:
        """The label of cross-entropy that marks targets without a label, None if there is none."""
        return self.loss.ignore_index if isinstance(self.loss, LossConfig) else None

    @property
    def metric_name(self) -> str | None:
        """The name of the metric, None without one."""
        if isinstance(self.metric, OwnMetricConfig):
            return self.metric.shown
        return None if self.metric.name == "none" or not self._has_accuracy else "accuracy"

    @property
    def larger_is_better(self) -> bool:
        """The direction of the metric."""
        return getattr(self.metric, "larger_is_better", True)

    @property
    def _has_accuracy(self) -> bool:
        return self.kind in ("cross_entropy", LABELS)

    def to(self, device: torch.device) -> None:
        """Move the tensors of a loss to the device."""
        if isinstance(self.loss_function, nn.Module):
            self.loss_function.to(device)

    def mean(self, scores: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss over a batch; `smoothing`: of labels, cross-entropy only."""
        if self.ignored is not None:  # torch's own mean is NaN if all are ignored
            total = F.cross_entropy(
                self.fitted(scores, y),
                y,
                ignore_index=self.ignored,
                reduction="sum",
                label_smoothing=smoothing,
            )
            return total / self.count(y).clamp(min=1)
        if smoothing:
            return F.cross_entropy(self.fitted(scores, y), y, label_smoothing=smoothing)
        return self.loss_function(self.fitted(scores, y), self._lent(y))

    def count(self, y: Tensor) -> Tensor:
        """Return the number of targets that count, over which `total` and `hits` are sums."""
        if self.ignored is not None:
            return (y != self.ignored).sum()
        return torch.tensor(len(y))

    def total(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of their losses, each a mean over its target's values.

        With an ignored label, the sum over all other targets.
        """
        if self.kind == "own":
            return self.loss_function(scores, self._lent(y)) * len(y)
        total = self.loss_function(self.fitted(scores, y), y, reduction="sum")
        return total if self._by_target(y) else total / y[0].numel()

    def hits(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of their accuracy: the share of right classes or labels."""
        scores = self.fitted(scores, y)
        guess = scores > 0 if self.kind == LABELS else scores.argmax(1)
        right = (guess == y).sum()
        return right if self._by_target(y) else right / y[0].numel()

    def _lent(self, y: Tensor) -> Tensor:
        """Return targets for a user's own loss: a copy, since it may change them in place."""
        return y.clone() if self.kind == "own" else y

    def _by_target(self, y: Tensor) -> bool:
        return y.dim() == 1 or self.ignored is not None

    def measured(self, scores: Tensor, y: Tensor) -> float:
        """Return the user's own metric of a whole part."""
        assert self.own_metric is not None
        return float(self.own_metric(scores, y.clone()))

    def fitted(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return scores in the layout of torch's function."""
        if self.kind == "own":
            return scores
        if self.kind == "cross_entropy":
            last = y.dim() > 1 and scores.shape[:-1] == y.shape
            return scores.movedim(-1, 1) if last else scores
        return scores.squeeze(-1) if scores.dim() == y.dim() + 1 else scores

    def as_code(self, scores: Tensor, y: Tensor) -> dict[str, str]:
        """Return `mean` as torch code: `loss`, and what to append to `scores` and `targets`.

        For a user's own loss `loss` is a comment with its name and arguments.
        """
        if isinstance(self.loss, OwnConfig):
            given = ", ".join(f"{k}={v!r}" for k, v in self.loss.arguments.items())
            called = f"{self.name}({given})" if given else self.name
            return {"loss": f"# loss_function: {called}", "scores": "", "targets": ""}
        options = f"delta={self.loss.delta:g}" if self.kind == "huber" else ""
        options += f"ignore_index={self.ignored}" if self.ignored is not None else ""
        moved = "movedim(-1, 1)" if self.kind == "cross_entropy" else "squeeze(-1)"
        return {
            "loss": f"loss_function = torch.nn.{CLASSES[self.kind]}({options})",
            "scores": "" if self.fitted(scores, y) is scores else f".{moved}",
            "targets": "" if self.kind == "cross_entropy" else ".float()",
        }


def _made(config: OwnConfig) -> Function:
    """Return the user's function with its arguments, or an instance of the class (nn.Module)."""
    found = user_code.check(config)
    if not inspect.isclass(found):
        return partial(found, **config.arguments)
    if found.__module__.startswith("torch.nn."):  # its weights of classes are tensors
        given = config.arguments.items()
        tensors = {name: torch.tensor(value) for name, value in given if _is_numbers(value)}
        config = config.model_copy(update=tensors)
    made = user_code.build(config)
    if not callable(made):
        raise TaskError(f"{config.target}: cannot be called with scores and targets")
    return made  # type: ignore[no-any-return]


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)


CLASSIFY = Task()
