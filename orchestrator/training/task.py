"""What a network is to achieve: its loss, the metric beside it, and what guessing costs."""

from __future__ import annotations

import inspect
import math
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
CLASSES = {  # the same as modules, for readers
    "cross_entropy": "CrossEntropyLoss",
    "mse": "MSELoss",
    "l1": "L1Loss",
    "huber": "HuberLoss",
    LABELS: "BCEWithLogitsLoss",
}
MOST_SCORES = 2**22  # that a constant prediction is fitted to
FAR = 2.0  # times chance: a loss of the prediction 0 that says that targets are not centred
PROBABILITIES = (
    "The scores look like probabilities: cross_entropy wants them before the softmax, which it"
    " takes itself."
)
USUAL = (1e-2, 1e2)  # losses of a constant prediction that need no word


class TaskError(ConfigError):
    """The network, the loss, the metric and the targets do not fit together; one line says why."""


class Task:
    """A loss and a metric of scores, which are what the network gives for a batch, (n, ...).

    Ours: `cross_entropy` takes scores (n, classes) for targets (n,), and (n, ..., classes) or
    (n, classes, ...) for targets (n, ...). The others take scores of the targets' shape, or of one
    more dimension, of size 1. A loss or metric of the user's own gets both as they are. Raises
    ConfigError for one that cannot be made.
    """

    def __init__(self, loss: AnyLoss | None = None, metric: AnyMetric | None = None) -> None:
        self.loss, self.metric = loss or LossConfig(), metric or MetricConfig()
        self._own_metric: Function | None = None
        if isinstance(self.metric, OwnMetricConfig):
            self._own_metric = _made(self.metric)
        if isinstance(self.loss, OwnConfig):
            self.kind, self.name = "own", self.loss.target
            self._function: Function = _made(self.loss)
        else:
            self.kind = self.name = self.loss.name
            self._function = FUNCTIONS[self.kind]
            if self.kind == "huber":
                self._function = partial(F.huber_loss, delta=self.loss.delta)
            if self.ignored is not None:
                self._function = partial(F.cross_entropy, ignore_index=self.ignored)

    @property
    def ignored(self) -> int | None:
        """The label of cross-entropy that marks what has none, None without such a mark."""
        return self.loss.ignore_index if isinstance(self.loss, LossConfig) else None

    @property
    def metric_name(self) -> str | None:
        """The name of the metric, None if there is none."""
        if isinstance(self.metric, OwnMetricConfig):
            return self.metric.shown
        return None if self.metric.name == "none" or not self._has_accuracy else "accuracy"

    @property
    def larger_is_better(self) -> bool:
        """The direction of the metric."""
        return getattr(self.metric, "larger_is_better", True)

    @property
    def own_metric(self) -> bool:
        """Whether the metric is the user's own, of a whole part at once."""
        return self._own_metric is not None

    @property
    def _has_accuracy(self) -> bool:
        return self.kind in ("cross_entropy", LABELS)

    def to(self, device: torch.device) -> None:
        """Bring a loss with tensors of its own to the device."""
        if isinstance(self._function, nn.Module):
            self._function.to(device)

    def mean(self, scores: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss over a batch; `smoothing` of labels: cross-entropy only."""
        if self.ignored is not None:  # torch's own mean is NaN where all are ignored
            total = F.cross_entropy(
                self._fitted(scores, y),
                y,
                ignore_index=self.ignored,
                reduction="sum",
                label_smoothing=smoothing,
            )
            return total / self.count(y).clamp(min=1)
        if smoothing:
            return F.cross_entropy(self._fitted(scores, y), y, label_smoothing=smoothing)
        return self._function(self._fitted(scores, y), y)

    def count(self, y: Tensor) -> Tensor:
        """Return how many of the targets count: of what `total` and `hits` are sums."""
        if self.ignored is not None:
            return (y != self.ignored).sum()
        return torch.tensor(len(y))

    def total(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of their losses, each a mean over what its target holds.

        With an ignored label the sum over all targets that have another one.
        """
        if self.kind == "own":
            return self._function(scores, y) * len(y)
        total = self._function(self._fitted(scores, y), y, reduction="sum")
        return total if self._by_target(y) else total / y[0].numel()

    def hits(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of their accuracy: of classes or labels that are right."""
        scores = self._fitted(scores, y)
        guess = scores > 0 if self.kind == LABELS else scores.argmax(1)
        right = (guess == y).sum()
        return right if self._by_target(y) else right / y[0].numel()

    def _by_target(self, y: Tensor) -> bool:
        return y.dim() == 1 or self.ignored is not None

    def measured(self, scores: Tensor, y: Tensor) -> float:
        """Return the user's own metric of a whole part."""
        assert self._own_metric is not None
        return float(self._own_metric(scores, y))

    def _fitted(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return scores in the layout that torch's function wants."""
        if self.kind == "own":
            return scores
        if self.kind == "cross_entropy":
            last = y.dim() > 1 and scores.shape[:-1] == y.shape
            return scores.movedim(-1, 1) if last else scores
        return scores.squeeze(-1) if scores.dim() == y.dim() + 1 else scores

    def as_code(self, scores: Tensor, y: Tensor) -> dict[str, str]:
        """Return what `mean` does as code of torch's: `loss`, and what follows scores and targets.

        `loss` of the user's own is a comment: only its name and arguments are known.
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
            "scores": "" if self._fitted(scores, y) is scores else f".{moved}",
            "targets": "" if self.kind == "cross_entropy" else ".float()",
        }

    # --- before the first trial

    def check_shape(self, scores: object, y: Tensor, classes: int) -> None:
        """Raise TaskError, one line, unless the network gives scores of the right shape."""
        if not isinstance(scores, Tensor):
            raise TaskError(f"model: must give a tensor of scores, got {type(scores).__name__}")
        shape, wanted, count = tuple(scores.shape), tuple(y.shape), len(y)
        if self.kind == "own":
            return
        if self.kind == "cross_entropy" and y.dim() == 1:
            if len(shape) != 2 or shape[0] != count or shape[1] < classes:
                raise TaskError(
                    f"model: must give one score per class, shape (examples, {classes}),"
                    f" got {shape} for {count} examples (num_classes is handed over only where the"
                    " signature names it)"
                )
        elif self.kind == "cross_entropy":
            last = shape[:-1] == wanted and shape[-1] >= classes
            second = (*shape[:1], *shape[2:]) == wanted and len(shape) > 1 and shape[1] >= classes
            if not last and not second:
                more = ", ".join(map(str, wanted[1:]))
                raise TaskError(
                    f"model: must give a score per class for each target, shape"
                    f" (examples, {more}, {classes}) or (examples, {classes}, {more}),"
                    f" got {shape} for {count} examples"
                )
        elif shape not in (wanted, (*wanted, 1)):
            of = ", ".join(map(str, ("examples", *wanted[1:])))
            raise TaskError(
                f"model: must give a score per target for loss {self.kind}, shape ({of}),"
                f" got {shape} for {count} examples"
            )

    def classes_of(self, scores: Tensor, y: Tensor, labelled: int) -> tuple[int, list[str]]:
        """Return the number of classes, of which `labelled` have labels, and a word if they differ.

        A network may know more classes than the labels say. The numbers are those of
        cross-entropy; of another loss `labelled`.
        """
        if self.kind != "cross_entropy":
            return labelled, []
        count = self._fitted(scores, y).shape[1]
        told = [f"The network gives {count} scores; labels go up to {labelled - 1}."]
        return count, told if count != labelled else []

    def try_out(self, scores: Tensor, y: Tensor) -> None:
        """Raise TaskError, one line, if loss or metric of the user's own cannot be used."""
        what = f"scores {tuple(scores.shape)} and targets {tuple(y.shape)}"
        if self.kind == "own":
            value = _tried(f"loss {self.name}", self._function, scores, y, what)
            if not isinstance(value, Tensor) or value.dim():
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TaskError(
                    f"loss {self.name}: must return a scalar tensor, the mean, got {got}"
                )
            if not value.requires_grad:
                raise TaskError(f"loss {self.name}: its value does not depend on the scores")
        if self._own_metric is not None:
            name, function = f"metric {self.metric_name}", self._own_metric
            scores = scores.detach()
            _tried(name, lambda s, t: float(function(s, t)), scores, y, what)

    def chance(self, y: Tensor, classes: int, scores: Tensor) -> float:
        """Return what guessing costs: the loss of the best prediction that is always the same.

        Of cross-entropy log(`classes`), which the frequent classes do not lower; else measured on
        the training targets `y`, of at most `MOST_SCORES` scores: mse their variance, l1 the mean
        distance to their median, others by L-BFGS. `scores`: those of some example, for the shape.
        Raises TaskError for a loss that is not above 0 then: all rules compare by factors.
        """
        if self.kind == "cross_entropy":
            return math.log(classes)
        y = y[: max(1, MOST_SCORES // max(1, scores[0].numel()))]
        start = self._guess(y, scores)
        value = self._of_constant(start, y)
        if self.kind in ("own", "huber"):
            value = min(value, self._polished(start, y))
        if self.kind != "own" and value == 0:
            raise TaskError("the training targets are all the same: there is nothing to learn")
        if not 0 < value < math.inf:
            raise TaskError(
                f"loss {self.name}: is {value:.3g} for the best constant prediction; it must be a"
                " finite number above 0, since losses are compared by factors"
            )
        return float(f"{value:.6g}")  # the same on every machine

    def _guess(self, y: Tensor, scores: Tensor) -> Tensor:
        """Return a constant prediction for one example: the best, or where to look for it."""
        if self.kind == "own":
            return torch.zeros(scores.shape[1:])
        if self.kind == "mse":
            return y.mean(0)
        if self.kind == LABELS:
            return torch.logit(y.mean(0), eps=1e-6)
        return y.median(0).values

    @torch.no_grad()
    def _of_constant(self, guess: Tensor, y: Tensor) -> float:
        return float(self.total(guess.expand(len(y), *guess.shape), y)) / len(y)

    def _polished(self, start: Tensor, y: Tensor) -> float:
        """Return the least loss of a constant that L-BFGS finds, inf if it finds none."""
        guess = start.clone().requires_grad_()
        search = torch.optim.LBFGS([guess], max_iter=100, line_search_fn="strong_wolfe")

        def value() -> Tensor:
            search.zero_grad()
            loss = self.mean(guess.expand(len(y), *guess.shape), y)
            torch.autograd.backward(loss)
            return loss

        try:
            search.step(value)  # type: ignore[no-untyped-call]
            found = self._of_constant(guess.detach(), y)
        except (RuntimeError, ValueError):  # a loss that wants more of scores than a view of one
            return math.inf
        return found if math.isfinite(found) else math.inf

    def remarks(self, y: Tensor, chance: float, scores: Tensor) -> list[str]:
        """Return sentences on the loss, and on targets or `scores` that will make trouble.

        `scores`: of the first examples, from a network that nobody has trained.
        """
        if self.kind == "cross_entropy":
            return [PROBABILITIES] if _probabilities(self._fitted(scores, y[: len(scores)])) else []
        told = [f"The loss is {self.name}: {chance:.4g} for the best constant prediction."]
        if self.kind not in NUMBERS:
            return told
        levels = torch.unique(y) if y.dim() == 1 else y
        if torch.equal(levels, torch.arange(len(levels), dtype=y.dtype)):
            told.append(
                f"Labels 0 to {len(levels) - 1} are taken as numbers: loss=cross_entropy is for"
                " classes."
            )
        zero = self._of_constant(torch.zeros(y.shape[1:]), y)
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


def _made(config: OwnConfig) -> Function:
    """Return the user's function with its arguments, or an instance of the class (nn.Module)."""
    found = user_code.check(config)
    if not inspect.isclass(found):
        return partial(found, **config.arguments)
    made = user_code.build(config)
    if not callable(made):
        raise TaskError(f"{config.target}: cannot be called with scores and targets")
    return made  # type: ignore[no-any-return]


def _tried(name: str, function: Callable[..., object], x: Tensor, y: Tensor, what: str) -> object:
    try:
        return function(x, y)
    except (Exception, SystemExit) as error:  # whatever the user's function raises: one line
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"{name}: it cannot take {what}: {problem}") from error


CLASSIFY = Task()
