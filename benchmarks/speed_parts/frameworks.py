"""Lightning's Trainer and fastai's Learner, each at its fastest: no logger, bar or checkpoint.

Both are fed with the batches of the hand-written loop and report as often; a user's DataLoader
would only be slower. Both set lr and momentum in every step. fastai's own SGD has no Nesterov
momentum, so torch's is wrapped, fused as everywhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.recipe import Run
from speed_parts.by_hand import made
from speed_parts.contest import Contender, Task, Timing

Batch = tuple[Tensor, Tensor]


class Training:
    """The training batches of a run, `per_pass` at a time; they go on where the last pass ended."""

    def __init__(self, task: Task, per_pass: int) -> None:
        self._batches, self._per_pass = task.feed.batches(), per_pass

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._per_pass):
            yield next(self._batches)

    def __len__(self) -> int:
        return self._per_pass


class HeldOut:
    """The held-out pieces of a run's next report: each pass is one report."""

    def __init__(self, task: Task, run: Run) -> None:
        self._feed, self._counts = task.feed, iter(task.feed.held_out_counts(run))

    def __iter__(self) -> Iterator[Batch]:
        yield from self._feed.held_out(next(self._counts))


def lightning(task: Task, run: Run) -> Timing:
    """Train with Lightning's Trainer."""
    import lightning as L

    for name in ("lightning.pytorch", "lightning.fabric"):  # it greets on every start
        logging.getLogger(name).setLevel(logging.ERROR)
    started = task.setup.now()

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = made(task), 0.0
            self.train_total = torch.zeros((), device=task.setup.device)
            self.total = torch.zeros(3, device=task.setup.device)

        def configure_optimizers(self) -> Any:
            return _sgd(self.model.parameters(), run)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            group = self.optimizers(use_pl_optimizer=False).param_groups[0]
            group["lr"], group["momentum"] = run.schedule.at(self.global_step / run.steps)

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.train_total += loss.detach()
            return loss

        def on_validation_epoch_start(self) -> None:
            float(self.train_total)
            self.train_total.zero_()
            self.total.zero_()

        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            scores, y = self.model(batch[0]).float(), batch[1]
            self.total[0] += F.cross_entropy(scores, y, reduction="sum")
            self.total[1] += (scores.argmax(1) == y).sum()
            self.total[2] += len(y)

        def on_validation_epoch_end(self) -> None:
            loss, _, count = self.total.tolist()
            self.loss = loss / count

    module = Module()
    trainer = L.Trainer(
        accelerator="gpu" if task.setup.device.type == "cuda" else "cpu",
        devices=1,
        precision="32-true" if task.case.precision == "float32" else "bf16-mixed",
        max_steps=run.steps,
        val_check_interval=run.steps // len(run.report_steps()),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends loaders with workers
        trainer.fit(module, Training(task, run.steps), HeldOut(task, run))
    return Timing(task.setup.now() - started, None, module.loss)


def fastai(task: Task, run: Run) -> Timing:
    """Train with fastai's Learner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions, which torch no longer likes
        from fastai.callback.schedule import ParamScheduler
        from fastai.learner import Learner
        from fastai.metrics import accuracy
        from fastai.optimizer import OptimWrapper

    started = task.setup.now()
    reports = len(run.report_steps())
    counts = task.feed.held_out_counts(run)

    class Pieces(HeldOut):
        passes = 0

        def __iter__(self) -> Iterator[Batch]:
            self.passes += 1
            return super().__iter__()

        def __len__(self) -> int:
            return -(-counts[min(self.passes, reports - 1)] // 512)

    class Data:  # what Learner asks of its DataLoaders
        device = task.setup.device
        train, valid = Training(task, run.steps // reports), Pieces(task, run)

        def __getitem__(self, index: int) -> Any:
            return (self.train, self.valid)[index]

        def to(self, device: Any) -> Data:
            return self

    def of(index: int) -> Any:
        return lambda progress: run.schedule.at(min(1.0, float(progress)))[index]

    callbacks = [ParamScheduler({"lr": of(0), "mom": of(1)})]
    if task.case.precision != "float32":
        from fastai.callback.fp16 import MixedPrecision

        callbacks.append(MixedPrecision(amp_mode="bf16"))
    learner = Learner(
        Data(),
        made(task),
        loss_func=F.cross_entropy,
        opt_func=partial(OptimWrapper, opt=partial(_sgd, run=run)),
        metrics=accuracy,
        cbs=callbacks,
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(reports, wd=run.weight_decay)
    return Timing(task.setup.now() - started, None, float(learner.recorder.values[-1][1]))


def _sgd(parameters: Any, run: Run, **_: Any) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=run.weight_decay, fused=True
    )


def present() -> dict[str, Contender]:
    """Return the frameworks that are installed."""
    found: dict[str, Contender] = {"Lightning": lightning, "fastai": fastai}
    return {name: train for name, train in found.items() if find_spec(name.lower())}


def missing() -> list[str]:
    """Return the names of those that are not."""
    return [name for name in ("Lightning", "fastai") if not find_spec(name.lower())]
