"""Lightning: its Trainer runs the trials, its modules stay as they are.

The adapter translates and decides nothing: `lr_find` is the range test over `Trainer.fit`, and
`train` the training function of `objective=lightning`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

try:
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks as theirs
except ModuleNotFoundError as error:
    raise ImportError("not installed: pip install 'orchestrator[lightning]'") from error

from orchestrator.config.user_code import built, takes
from orchestrator.training.function.range_test import range_test
from orchestrator.training.function.trial import Trial
from orchestrator.training.standalone.restore import SavedModules, quiet

if TYPE_CHECKING:
    from orchestrator.curve import Result
    from orchestrator.training.standalone.range_result import LRRangeResult

# What would write files, draw, or end a trial by a rule of its own.
LEFT_OUT = (
    theirs.Checkpoint, theirs.EarlyStopping, theirs.Timer, theirs.ProgressBar, theirs.ModelSummary,
    theirs.LearningRateMonitor, theirs.LearningRateFinder, theirs.BatchSizeFinder,
)  # fmt: skip
NEVER = 10**9  # batches
QUIET = {"logger": False, "enable_checkpointing": False}


def lr_find(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    datamodule: pl.LightningDataModule | None = None,
    *,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    monitor: str = "val_loss",
    num_training: int = 100,
    final_steps: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> LRRangeResult:
    """Find max_lr for `model` as `Tuner(trainer).lr_find` does, but on validation loss.

    `monitor`: the loss that `validation_step` logs. `num_training`: steps of a ramp. `final_steps`:
    updates of the training that the rate is for (None: not known, ramps alone decide).
    `batch_size`: examples of a step, to judge how many reports a ramp can bear. `options`: see
    `orchestrator.lr_range_test`. Precision, accumulation, clipping and callbacks are those of
    `trainer`, without loggers, checkpoints and early stopping; lr schedulers are left out, with a
    warning in the log. Model, data module, trainer and random states are left as found: take
    `model.lr = found.max_lr` yourself. Raises ConfigError, one line, for what cannot be used.
    """
    loaders = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders}
    given = {"datamodule": datamodule, **loaders}

    def once(trial: Trial) -> Result:
        _check(trial, trainer)
        loggers = {id(logger): logger for logger in trainer.loggers}  # not copied
        found = SavedModules([model], [], [datamodule])
        try:
            return _fit(trial, copy.deepcopy(trainer, loggers), model, given, monitor)
        finally:
            found.put_back()

    name, size = f"{__name__}.lr_find", batch_size
    return range_test(
        once,
        name,
        steps=num_training,
        batch_size=size,
        seed=seed,
        final_steps=final_steps,
        **options,
    )


def train(
    trial: Trial,
    module: Mapping[str, Any],
    datamodule: Mapping[str, Any],
    trainer: Mapping[str, Any] | None = None,
    monitor: str = "val_loss",
    test_monitor: str = "test_loss",
) -> Result:
    """Train a LightningModule on a LightningDataModule; the function of `objective=lightning`.

    `module`, `datamodule`: `_target_` and arguments; the data module is offered `batch_size`.
    `trainer`: arguments of `lightning.pytorch.Trainer` (precision, devices, callbacks), or a
    `_target_` that gives one. `monitor`, `test_monitor`: the losses that `validation_step` and
    `test_step` log.
    """
    with quiet("lightning.pytorch"):
        used = built({"_target_": "lightning.pytorch.Trainer", **(trainer or QUIET)})
        _check(trial, used)
        sized = "batch_size" in takes(str(datamodule["_target_"]))
        offered = {"batch_size": trial.batch_size} if sized else {}
        data = {"datamodule": built(datamodule, **offered)}
        return _fit(trial, used, built(module), data, monitor, test_monitor)


def _check(trial: Trial, trainer: pl.Trainer) -> None:
    if (devices := trainer.num_devices * trainer.num_nodes) > 1:
        raise trial.misuse(f"has a Trainer on {devices} devices: give it devices=1, one process")
    if steps := trainer.global_step:
        raise trial.misuse(f"has a Trainer that has made {steps} steps: give it a new one")


def _fit(
    trial: Trial,
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: Mapping[str, Any],
    monitor: str,
    test_monitor: str = "",
) -> Result:
    """Run a trial with a trainer that is ours alone."""
    reporter, used = _Reporter(trial, monitor), cast(Any, trainer)
    used.callbacks = [c for c in used.callbacks if not isinstance(c, LEFT_OUT)] + [reporter]
    trainer.loggers, trainer.num_sanity_val_steps = [], 0
    trainer.check_val_every_n_epoch, trainer.val_check_interval = 1, 1.0
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, trial.steps
    with quiet("lightning.pytorch"):
        try:
            trainer.fit(model, **data)
        except _EndedError:
            assert reporter.end is not None
            raise reporter.end from None

    def test() -> float:
        with quiet("lightning.pytorch"):
            (logged,) = trainer.test(model, **data, verbose=False)
        return float(_named(trial, logged, test_monitor, "test_step"))

    return trial.result(test=test if test_monitor else None, model=model)


class _EndedError(Exception):
    """Leaves `Trainer.fit`, which would turn a KeyboardInterrupt into an exit."""


class _Reporter(pl.Callback):
    """Sets the rates before each update and reports where that is due."""

    def __init__(self, trial: Trial, monitor: str) -> None:
        self.end: BaseException | None = None
        self._trial, self._monitor = trial, monitor
        self._losses: list[float] = []
        self._step = 0  # the next update

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the module's own schedulers away."""
        with self._ending():
            if not trainer.enable_validation:
                raise self._trial.misuse("validates nothing: it needs validation_step and its data")
            if trainer.lr_scheduler_configs:
                self._trial.note(
                    f"The lr schedulers of {type(pl_module).__name__} are left out: the study sets"
                    " the rates."
                )
                trainer.strategy.lr_scheduler_configs = []

    def on_before_optimizer_step(self, *given: Any) -> None:
        """Set the rates of this update."""
        with self._ending():
            self._trial.apply(given[2], self._step)

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, *given: Any) -> None:
        """Have the loop validate next where a report is due: after an update."""
        if isinstance(outputs, Mapping) and "loss" in outputs:
            self._losses.append(float(outputs["loss"]))
        updated = trainer.global_step > self._step
        trainer.val_check_batch = 1 if updated and self._trial.due(self._step) else NEVER
        self._step = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, _: Any) -> None:
        """Report."""
        with self._ending():
            logged = trainer.callback_metrics
            held_out_loss = float(_named(self._trial, logged, self._monitor, "validation_step"))
            train_loss = fmean(self._losses or [held_out_loss])
            self._trial.report(self._step - 1, train_loss=train_loss, held_out_loss=held_out_loss)
        self._losses = []

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except BaseException as end:
            self.end = end
            raise _EndedError from end


def _named(trial: Trial, logged: Mapping[str, Any], name: str, step: str) -> Any:
    if name not in logged:
        raise trial.misuse(
            f"finds no {name!r} that {step} logs (it logs {', '.join(logged) or 'nothing'}): name"
            f" the loss by {'test_' * (step == 'test_step')}monitor"
        )
    return logged[name]
