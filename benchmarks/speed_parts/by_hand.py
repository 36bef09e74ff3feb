"""The floor: a training loop written by hand for one task, with nothing slower left in.

The losses are added up on the device and read at the reports; SGD is fused; gradients are dropped
and not zeroed. How the batches are made: `feed`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from orchestrator.recipe import Run
from speed_parts.contest import Task, Timing
from speed_parts.feed import Feed


def made(task: Task) -> nn.Module:
    """Return the task's network, fresh and on the device."""
    model = task.setup.make_model().to(task.setup.device).train()
    return model.to(memory_format=torch.channels_last) if task.setup.inputs.images else model


def autocast(task: Task) -> Any:
    """Return the context of a forward pass."""
    if task.case.precision == "float32":
        return nullcontext()
    return torch.autocast(task.setup.device.type, dtype=getattr(torch, task.case.precision))


def train(task: Task, run: Run) -> Timing:
    """Train by hand."""
    now = task.setup.now
    started, training, loss = now(), 0.0, 0.0
    feed, model, context = task.feed, made(task), autocast(task)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(
        parameters,
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=run.weight_decay,
        fused=True,
    )
    group, batches = optimizer.param_groups[0], feed.batches()
    done = 0
    for stop, count in zip(run.report_steps(), feed.held_out_counts(run), strict=True):
        before = now()
        total = torch.zeros((), device=feed.device)
        for step in range(done, stop):
            group["lr"], group["momentum"] = run.schedule.at(step / run.steps)
            x, y = next(batches)
            with context:
                step_loss = F.cross_entropy(model(x), y)
            for parameter in parameters:
                parameter.grad = None
            step_loss.backward()
            optimizer.step()
            total += step_loss.detach()
        training += now() - before
        float(total / (stop - done))
        done = stop
        loss, _ = evaluate(model, feed, count, context)
    return Timing(now() - started, training, loss)


@torch.no_grad()
def evaluate(model: nn.Module, feed: Feed, count: int, context: Any) -> tuple[float, float]:
    """Return mean loss and accuracy on the first `count` held-out examples."""
    model.eval()
    total = torch.zeros(2, device=feed.device)
    with context:
        for x, y in feed.held_out(count):
            scores = model(x).float()
            total[0] += F.cross_entropy(scores, y, reduction="sum")
            total[1] += (scores.argmax(1) == y).sum()
    model.train()
    loss, right = total.tolist()
    return loss / count, right / count
