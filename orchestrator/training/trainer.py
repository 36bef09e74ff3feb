"""The trainer of one run: network, optimiser and batches, with fast steps for small networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config.optimizer import AnyOptimizer, OptimizerConfig
from orchestrator.curve import Point
from orchestrator.recipe import Run, run_seed
from orchestrator.training import models, randomness
from orchestrator.training.average import Average
from orchestrator.training.batches import Inputs, batches
from orchestrator.training.data.parts import Data, Part
from orchestrator.training.evaluate import evaluate
from orchestrator.training.optimizer import make, set_rates
from orchestrator.training.task import CLASSIFY, Task

Forward = Callable[[nn.Module, Tensor], Tensor]


def eager(model: nn.Module, x: Tensor) -> Tensor:
    """Return the scores of a batch."""
    scores: Tensor = model(x)
    return scores


@dataclass(frozen=True)
class Setup:
    """What all runs of a study share. `make_model` uses torch's global random state.

    `micro_batch_size`: larger batches are split into pieces of this size, with gradients added up.
    `forward` returns the scores of a training batch, perhaps compiled. `min_loss`: lower bound of
    reported held-out losses, above 0, since losses are compared by factors.
    """

    make_model: Callable[[], nn.Module]
    data: Data
    inputs: Inputs
    optimizer: AnyOptimizer = field(default_factory=OptimizerConfig)
    precision: str = "float32"
    seed: int = 0
    micro_batch_size: int | None = None
    forward: Forward = eager
    task: Task = CLASSIFY
    min_loss: float = 0.0
    _warm: set[object] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.inputs.device

    def network(self, replicate: int) -> nn.Module:
        """Return the network on the device, with the initial weights of this replicate."""
        randomness.seed_all(run_seed(self.seed, replicate, "weights"), self.device)
        model = self.make_model().to(self.device)
        if self.inputs.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of a forward pass."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def now(self) -> float:
        """Return the time in seconds, after synchronising the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def warm_up(self, run: Run) -> None:
        """Make two warm-up steps, once for each batch size, since the first steps are slow.

        A compiled network is also compiled again if dropout changes.
        """
        shape = (run.batch_size, run.dropout)
        if shape not in self._warm:
            self._warm.add(shape)
            Trainer(self, run).advance(min(2, run.steps))


class Trainer:
    """Network, optimiser and batches of one run after `step` steps.

    All randomness is from the study's seed and the run's replicate: the candidates of a stage have
    the same initial weights and see the same batches. Raises ValueError for too large a batch.
    """

    def __init__(self, setup: Setup, run: Run) -> None:
        count = len(setup.data.train)
        if run.batch_size > count:
            raise ValueError(
                f"batch_size={run.batch_size}: choose 1 to {count}, the number of training examples"
            )
        self.setup, self.run, self.step = setup, run, 0
        self.seconds = self.evaluation_seconds = 0.0
        self.held_out_blocks: list[float] = []  # losses of blocks of examples at its end
        self.model = setup.network(run.replicate).train()
        models.set_dropout(self.model, run.dropout)
        noise = run_seed(setup.seed, run.replicate, "noise")  # of dropout
        randomness.seed_all(noise, setup.device)
        # Looked up once, as in `advance`: each call and attribute slows down a step of a small net.
        self._autocast, self._smoothing = setup.autocast(), setup.optimizer.label_smoothing
        self._forward, self._mean, self._count = setup.forward, setup.task.mean, setup.task.count
        self._micro = min(run.batch_size, setup.micro_batch_size or run.batch_size)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make(self.model, setup.optimizer, run.weight_decay)
        # Not in a ramp: an average of the weights would show too late that they diverge.
        decay = setup.optimizer.ema if run.kind == "train" else None
        self.average = Average(self.model, decay) if decay else None
        self.batches_from(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state between two steps, with random states."""
        return {
            "model": self.model.state_dict(),
            "average": self.average and self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "reported": self.reported,
            "total": self.total,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "held_out_blocks": self.held_out_blocks,
            **randomness.state_dict(self.setup.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. If this raises, the trainer is partly restored."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches_from(state["step"])
        self.reported = state["reported"]
        self.total = state["total"].to(self.setup.device)
        self.seconds = state["seconds"]
        self.evaluation_seconds = state.get("evaluation_seconds", 0.0)
        self.held_out_blocks = state.get("held_out_blocks", [])
        randomness.load_state_dict(state, self.setup.device)

    @property
    def answer(self) -> nn.Module:
        """The network to evaluate and save: its average if there is one."""
        return self.average.model if self.average else self.model

    def batches_from(self, step: int) -> None:
        """Set the next batch to that of `step`."""
        order = run_seed(self.setup.seed, self.run.replicate, "order")
        self.batches = batches(self.setup.inputs, self.run.batch_size, order, step)
        self.step = self.reported = step
        self.total = torch.zeros((), device=self.setup.device)  # of losses since that report

    def advance(self, count: int, pause: Callable[[], bool] = lambda: False) -> None:
        """Make `count` steps, or until `pause()` is true after one; add their losses to `total`.

        Losses are without weight decay and label smoothing, as held-out losses are.
        """
        parameters, longest = self._parameters, self.setup.optimizer.max_grad_norm
        groups, at, steps = self.optimizer.param_groups, self.run.schedule.at, self.run.steps
        total, update = self.total, self.optimizer.step
        batches, backward = self.batches, self._backward
        for step in range(self.step, self.step + count):
            set_rates(groups, at(step / steps))
            for parameter in parameters:  # like zero_grad, which takes ten times as long
                parameter.grad = None
            total += backward(*next(batches))
            if longest is not None:
                nn.utils.clip_grad_norm_(parameters, longest)
            update()
            if self.average:
                self.average.update(step)
            self.step = step + 1
            if pause():
                break

    def gradient(self) -> Tensor:
        """Add the gradient of the next batch's mean loss; return this loss without smoothing."""
        return self._backward(*next(self.batches))

    @property
    def _backward(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self._backward_whole if self._micro == self.run.batch_size else self._backward_pieces

    def _backward_pieces(self, x: Tensor, y: Tensor) -> Tensor:
        count = -(-len(y) // self._micro)  # of similar size: batch norm needs more than one example
        pieces = zip(x.chunk(count), y.chunk(count), strict=True)
        whole = self._count(y).clamp(min=1)
        shares = [self._backward_whole(a, b, self._count(b) / whole) for a, b in pieces]
        return torch.stack(shares).sum()

    def _backward_whole(self, x: Tensor, y: Tensor, share: Tensor | None = None) -> Tensor:
        with self._autocast:
            scores = self._forward(self.model, x)
            loss = self._mean(scores, y, self._smoothing)
            plain = self._mean(scores.detach(), y) if self._smoothing else loss.detach()
        torch.autograd.backward(loss if share is None else loss * share)
        # Its graph is freed with the next one: freeing it here costs a small network 1 % of its
        # speed.
        self._kept = loss
        return plain if share is None else plain * share

    def to(
        self,
        stop: int,
        pause: Callable[[], bool] = lambda: False,
        keep: Callable[[], object] = lambda: None,
    ) -> Point:
        """Train until step `stop`, evaluate, and return the measurement.

        `keep()` is called, not timed, after each step at which `pause()` is true.
        """
        while self.step < stop:
            start = self.setup.now()
            self.advance(stop - self.step, pause)
            self.seconds += self.setup.now() - start
            if self.step < stop:
                keep()
        mean = self.total / (stop - self.reported)
        self.reported, self.total = stop, torch.zeros_like(self.total)
        rates = self.run.schedule.at((stop - 1) / self.run.steps)
        loss, metric = self._held_out(last=stop == self.run.steps)
        return Point(
            step=stop,
            progress=stop / self.run.steps,
            lr=rates.lr,
            momentum=rates.momentum,
            train_loss=float(mean),
            held_out_loss=loss,
            metric=metric,
            seconds=self.seconds,
            evaluation_seconds=self.evaluation_seconds,
        )

    def _held_out(self, last: bool) -> tuple[float, float]:
        part, ramp = self.setup.inputs.held_out, self.run.kind == "ramp"
        if self.run.held_out_examples and (ramp or not last):
            part = Part(*(t[: self.run.held_out_examples] for t in part))
        # Running batch-norm statistics lag behind: early in a run, or on a ramp, a network that
        # learns well seems to diverge with them. The end of a run is measured with them.
        blocks = None if ramp or not last else self.held_out_blocks
        return self.evaluate(part, batch_statistics=ramp or not last, blocks=blocks)

    def evaluate(
        self, part: Part, *, batch_statistics: bool = False, blocks: list[float] | None = None
    ) -> tuple[float, float]:
        """Return mean loss and metric on `part`, which is from `inputs.placed`.

        `blocks`: gets the mean losses of blocks of its examples.
        """
        start = time.perf_counter()
        loss, metric = evaluate(
            self.answer,
            self.setup.inputs,
            part,
            task=self.setup.task,
            batch_statistics=batch_statistics,
            autocast=self.setup.autocast(),
            blocks=blocks,
        )
        self.evaluation_seconds += time.perf_counter() - start
        return max(loss, self.setup.min_loss), metric  # in this order NaN stays
