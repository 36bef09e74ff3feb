"""The training loop of `lr_range_test`: ramps and cycles over the user's model and loaders."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orchestrator.curve import Curve, Outcome, Point, Result
from orchestrator.recipe import Run, run_seed
from orchestrator.training.evaluate import RESOLUTION, evaluating
from orchestrator.training.nested import Batch, fresh, size_of
from orchestrator.training.own_loss import broadcasts, is_sum
from orchestrator.training.randomness import seed_all
from orchestrator.training.standalone.loaders import forever, generators_of
from orchestrator.training.standalone.restore import Saved

Loss: TypeAlias = Callable[[Any, Any], Tensor]


class RampLoop:
    """Trains ramps and cycles: takes a `Run`, trains from the saved weights, returns its `Outcome`.

    `held_out`: the fixed subset, in batches, kept on the device. `found`: the saved state of model
    and optimiser. A loss that is a sum over examples is divided by their number. Every method
    raises ValueError for a loss that cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        train: Iterable[Any],
        held_out: Sequence[Batch],
        optimizer: Optimizer,
        *,
        found: Saved,
        seed: int,
    ) -> None:
        self._device = next(model.parameters()).device
        self._model, self._loss, self._train = model, loss, train
        self.held_out: list[Batch] = [fresh(batch, self._device) for batch in held_out]
        self._optimizer, self._found, self._seed = optimizer, found, seed
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._ratios = [rate / rates[0] if rates[0] > 0 else 1.0 for rate in rates]
        if not model.training:  # otherwise unchanged: the user may have set parts to eval mode
            model.train()
        self._tried = self._is_sum = False
        self._least = 0.0  # the loss below which float32 resolves nothing

    @property
    def held_out_examples(self) -> int:
        """Size of the fixed subset."""
        return sum(map(size_of, self.held_out))

    def loss_at_start(self) -> float:
        """Return the held-out loss before training."""
        value = self._held_out_loss(0)
        if not math.isfinite(value):
            raise ValueError(f"the held-out loss is {value} before training")
        if value == 0:
            raise ValueError(
                "the held-out loss is 0 before training: there is nothing to learn, start from an"
                " untrained model"
            )
        self._least = RESOLUTION * value
        return value

    def __call__(self, run: Run) -> Outcome:
        """Train one ramp or cycle, until its end or its stop rule."""
        for found in self._found:
            found.restart()
        order = run_seed(self._seed, run.replicate, "order")
        seed_all(order, generators=generators_of(self._train))
        batches, points, seconds, step = forever(self._train), [], 0.0, 0
        for stop in run.report_steps():
            start = time.perf_counter()
            train_loss = self._advance(run, batches, step, stop)
            seconds += time.perf_counter() - start
            ends = run.kind == "train" and stop == run.steps
            examples = 0 if ends else run.held_out_examples
            held_out_loss = self._held_out_loss(examples, batch_statistics=not ends)
            rates, step = run.schedule.at((stop - 1) / run.steps), stop
            points.append(
                Point(
                    step=stop,
                    progress=stop / run.steps,
                    lr=rates.lr,
                    momentum=rates.momentum,
                    train_loss=train_loss,
                    held_out_loss=held_out_loss,
                    seconds=seconds,
                )
            )
            if run.stopped_by(held_out_loss):
                return Outcome.stopped(run, run.label, points, "stop rule", pruned=False)
        return Outcome(run, run.label, "finished", Curve.of(points), Result(seconds, run.examples))

    def _advance(self, run: Run, batches: Iterator[Batch], start: int, stop: int) -> float:
        """Make the steps from `start` to `stop`, return their mean loss."""
        total = torch.zeros((), device=self._device)
        for step in range(start, stop):
            lr = run.schedule.at(step / run.steps).lr
            for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
                group["lr"] = lr * ratio
            x, y = fresh(next(batches), self._device)
            value = self._value(self._model(x), y)
            torch.autograd.backward(value)
            self._optimizer.step()
            self._found[0].clear_gradients()  # also of parameters that the optimiser does not train
            total += value.detach() / (size_of((x, y)) if self._is_sum else 1)
        return float(total) / (stop - start)

    @torch.no_grad()
    def _held_out_loss(self, examples: int, batch_statistics: bool = True) -> float:
        """Return the mean loss on the first `examples` (0: all), in whole batches."""
        total, seen = 0.0, 0
        # The running statistics of batch norm lag behind a ramp: see training.loop.
        with evaluating(self._model, batch_statistics=batch_statistics) as outputs_of:
            for x, y in self._cut(examples):
                size = size_of((x, y))
                outputs = outputs_of(partial(fresh, x, self._device))
                value = float(self._value(outputs, fresh(y, self._device)))
                total += value if self._is_sum else value * size
                seen += size
        mean = total / seen
        if mean < 0:
            raise ValueError(
                f"the held-out loss is {mean:.3g}, it must not be negative, since losses are"
                " compared by factors: use one such as cross-entropy or mean squared error"
            )
        return max(mean, self._least) if math.isfinite(mean) else mean

    def _cut(self, examples: int) -> Iterator[Batch]:
        """Yield batches until they hold `examples` (0: all of them)."""
        left = examples or self.held_out_examples
        for x, y in self.held_out:
            size = size_of((x, y))
            if left < size and isinstance(x, Tensor) and isinstance(y, Tensor):
                if left == 1 and size < self.held_out_examples:  # do not make a batch of one
                    return
                x, y, size = x[:left], y[:left], left
            yield x, y
            left -= size
            if left <= 0:
                return

    def _value(self, outputs: Any, y: Any) -> Tensor:
        if not self._tried:
            self._tried = True
            self._try_out(outputs, y)
        value = self._loss(outputs, y)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return a scalar tensor, the mean over a batch, got {got}")
        return value.reshape(())

    def _try_out(self, outputs: Any, y: Any) -> None:
        if broadcasts(self._loss, outputs, y):
            raise ValueError(
                f"the model returns {tuple(outputs.shape)} for targets {tuple(y.shape)}, which the"
                " loss broadcasts against each other: let the model or the loss squeeze(-1)"
            )
        self._is_sum = is_sum(self._loss, outputs, y)
