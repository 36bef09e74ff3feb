"""One run in training: network, optimiser and batches, fast also where batches are small."""

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
    """What all runs of a study share. `make_model` draws from torch's global random state.

    `micro_batch_size`: larger batches go through the network in pieces of it, gradients summed up.
    `forward` gives a training batch's scores, perhaps compiled. `min_loss`: what smaller
    held-out losses, 0 too, are taken for, since losses are compared by factors.
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
        """Where the training happens."""
        return self.inputs.device

    def network(self, replicate: int) -> nn.Module:
        """Return the network on the device as all runs of a replicate begin with it."""
        randomness.seed_all(run_seed(self.seed, replicate, "weights"), self.device)
        model = self.make_model().to(self.device)
        if self.inputs.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def now(self) -> float:
        """Return the time in seconds, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def warm_up(self, run: Run) -> None:
        """Make two steps for nothing, once for each batch size: the first are slow.

        A compiled network is compiled anew where dropout changes.
        """
        shape = (run.batch_size, run.dropout)
        if shape not in self._warm:
            self._warm.add(shape)
            Trainer(self, run).advance(min(2, run.steps))


class Trainer:
    """Network, optimiser and batches of one run, `step` steps into it.

    All randomness comes from the study's seed and the run's replicate: candidates of one stage have
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
        self.model = setup.network(run.replicate).train()
        models.set_dropout(self.model, run.dropout)
        noise = run_seed(setup.seed, run.replicate, "noise")  # of dropout
        randomness.seed_all(noise, setup.device)
        # Looked up once, as in `advance`: a step of a small network feels each call and attribute.
        self._autocast, self._smoothing = setup.autocast(), setup.optimizer.label_smoothing
        self._forward, self._mean, self._count = setup.forward, setup.task.mean, setup.task.count
        self._micro = min(run.batch_size, setup.micro_batch_size or run.batch_size)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make(self.model, setup.optimizer, run.weight_decay)
        # A ramp asks where the weights themselves break: an average would show it too late.
        decay = setup.optimizer.ema if run.kind == "train" else None
        self.average = Average(self.model, decay) if decay else None
        self.batches_from(0)

    def state_dict(self) -> dict[str, Any]:
        """Return all of the state between two steps, random states too, as torch's classes do."""
        return {
            "model": self.model.state_dict(),
            "average": self.average and self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "reported": self.reported,
            "total": self.total,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            **randomness.state_dict(self.setup.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called. Where it raises, this trainer is half restored."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches_from(state["step"])
        self.reported = state["reported"]
        self.total = state["total"].to(self.setup.device)
        self.seconds = state["seconds"]
        self.evaluation_seconds = state.get("evaluation_seconds", 0.0)
        randomness.load_state_dict(state, self.setup.device)

    @property
    def answer(self) -> nn.Module:
        """The network to evaluate and to save: its average if there is one."""
        return self.average.model if self.average else self.model

    def batches_from(self, step: int) -> None:
        """Go to `step`: the next batch is the one of that step, whatever was trained before."""
        order = run_seed(self.setup.seed, self.run.replicate, "order")
        self.batches = batches(self.setup.inputs, self.run.batch_size, order, step)
        self.step = self.reported = step
        self.total = torch.zeros((), device=self.setup.device)  # of losses since that report

    def advance(self, count: int, pause: Callable[[], bool] = lambda: False) -> None:
        """Make `count` steps, fewer where `pause()` says so after one; add their losses to `total`.

        The loss without weight decay and without label smoothing, comparable with a held-out one.
        """
        parameters, longest = self._parameters, self.setup.optimizer.max_grad_norm
        groups, at, steps = self.optimizer.param_groups, self.run.schedule.at, self.run.steps
        total, update = self.total, self.optimizer.step
        batches, backward = self.batches, self._backward
        for step in range(self.step, self.step + count):
            set_rates(groups, at(step / steps))
            for parameter in parameters:  # zero_grad does this too, at ten times the cost
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
        """Add the gradient of the next batch's mean loss, return that loss, without smoothing."""
        return self._backward(*next(self.batches))

    @property
    def _backward(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self._backward_whole if self._micro == self.run.batch_size else self._backward_pieces

    def _backward_pieces(self, x: Tensor, y: Tensor) -> Tensor:
        count = -(-len(y) // self._micro)  # of about one size: batch norm wants more than one
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
        # Its graph, empty now, goes with the next one's: taken apart here it costs a small network
        # 1 % of its speed.
        self._kept = loss
        return plain if share is None else plain * share

    def to(
        self,
        stop: int,
        pause: Callable[[], bool] = lambda: False,
        keep: Callable[[], object] = lambda: None,
    ) -> Point:
        """Train until `stop` steps are made, evaluate, return the measurement.

        `keep()` is called, outside the clock, after each step after which `pause()` says so.
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
        # Running batch-norm statistics lag behind: early in a run, or on a ramp, they make a net
        # that learns well look as if it had diverged. The end of a run is measured with them.
        return self.evaluate(part, batch_statistics=ramp or not last)

    def evaluate(self, part: Part, *, batch_statistics: bool = False) -> tuple[float, float]:
        """Return mean loss and metric on `part`, as `inputs.placed` gave it."""
        start = time.perf_counter()
        loss, metric = evaluate(
            self.answer,
            self.setup.inputs,
            part,
            task=self.setup.task,
            batch_statistics=batch_statistics,
            autocast=self.setup.autocast(),
        )
        self.evaluation_seconds += time.perf_counter() - start
        return max(loss, self.setup.min_loss), metric  # in this order NaN stays
