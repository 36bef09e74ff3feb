"""Hugging Face: its Trainer runs the trials and stays as it is.

The adapter translates and decides nothing: `lr_find` is the range test over `Trainer.train`, and
`train` the training function of `objective=transformers`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    import transformers as hf
except ModuleNotFoundError as error:
    raise ImportError("not installed: pip install 'orchestrator[transformers]'") from error

from orchestrator.config.user_code import built
from orchestrator.training.function.range_test import range_test
from orchestrator.training.function.trial import Trial
from orchestrator.training.standalone.range_test import LEAST_FINAL
from orchestrator.training.standalone.restore import SavedModules, SavedOptimizer

if TYPE_CHECKING:
    from orchestrator.curve import Result
    from orchestrator.training.standalone.range_result import LRRangeResult

# What would draw, print, or end a trial by a rule of its own.
LEFT_OUT = (hf.EarlyStoppingCallback, hf.ProgressCallback, hf.PrinterCallback)
DECAY = 0.01  # stands for what the study sets, so that norms and biases keep their 0


def lr_find(
    trainer: hf.Trainer,
    *,
    num_training: int = 100,
    final_steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> LRRangeResult:
    """Find max_lr for `trainer`, on the loss of its `eval_dataset`.

    `num_training`: steps of a ramp. `final_steps`: updates of the training that the rate is for;
    None: those of its arguments; 0: not considered, ramps alone decide. `options`: see
    `orchestrator.lr_range_test`. Batch size, accumulation, precision and clipping are those of its
    arguments; its lr scheduler, early stopping, logging and saving are left out. Model, optimiser,
    arguments and random states are left as found: take `trainer.args.learning_rate = found.max_lr`
    yourself. Raises ConfigError, one line, for what cannot be used.
    """

    def once(trial: Trial) -> Result:
        with _restoring(trainer):
            return _fit(trial, _copied(trainer))

    name, size = f"{__name__}.lr_find", trainer.args.per_device_train_batch_size * _pieces(trainer)
    length = _updates(trainer, size) if final_steps is None else final_steps
    return range_test(
        once,
        name,
        steps=num_training,
        batch_size=size,
        seed=seed,
        final_steps=length if length >= LEAST_FINAL or final_steps else None,
        **options,
    )


def _updates(trainer: hf.Trainer, size: int) -> int:
    """Return the updates of `trainer.train()`, 0 for data without a length."""
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    data: Any = trainer.train_dataset
    try:
        return math.ceil(trainer.args.num_train_epochs * math.ceil(len(data) / size))
    except TypeError:
        return 0


def train(
    trial: Trial, trainer: Mapping[str, Any], test_dataset: Mapping[str, Any] | None = None
) -> Result:
    """Train what a `transformers.Trainer` trains; the function of `objective=transformers`.

    `trainer`: `_target_` and arguments of a function that makes the Trainer, its model too.
    `test_dataset`: `_target_` and arguments of what gives the sealed test data. The batch size of
    an update is `per_device_train_batch_size` times accumulation steps and devices.
    """
    made = built(trainer, batch_size=trial.batch_size)
    if not isinstance(made, hf.Trainer):
        raise trial.misuse(f"needs a transformers.Trainer, trainer gives a {type(made).__name__}")
    used, pieces = _copied(made), _pieces(made)
    if trial.batch_size % pieces:
        raise trial.misuse(
            f"cannot make batches of {trial.batch_size} from {pieces} pieces (accumulation steps x"
            " devices): let batch sizes be multiples of it"
        )
    used.args.per_device_train_batch_size = trial.batch_size // pieces
    used._train_batch_size = used.args.train_batch_size
    used.args.weight_decay = used.args.weight_decay or DECAY
    return _fit(trial, used, test_dataset)


def _pieces(trainer: hf.Trainer) -> int:
    """Return how many batches of one device make an update."""
    return int(trainer.args.gradient_accumulation_steps * max(1, trainer.args.n_gpu))


def _copied(trainer: hf.Trainer) -> hf.Trainer:
    """Return a trainer of the same model and data whose own state is new."""
    if trainer.args.world_size > 1:
        raise ValueError(f"{trainer.args.world_size} processes: a trial runs in one")
    used = copy.copy(trainer)
    used.args = copy.copy(trainer.args)
    used.args.eval_strategy = used.args.logging_strategy = used.args.save_strategy = "no"
    used.args.load_best_model_at_end, used.args.lr_scheduler_type = False, "constant"
    used.state, used.control = hf.TrainerState(), hf.TrainerControl()
    used.state.is_local_process_zero = used.state.is_world_process_zero = True
    used.callback_handler = copy.copy(trainer.callback_handler)
    used.callback_handler.callbacks = [
        copy.copy(callback)
        for callback in trainer.callback_handler.callbacks
        if not isinstance(callback, LEFT_OUT)
        and not type(callback).__module__.startswith("transformers.integrations")
    ]
    used.lr_scheduler, used._created_lr_scheduler = None, False
    used.create_accelerator_and_postprocess()
    return used


def _fit(
    trial: Trial, trainer: hf.Trainer, test_dataset: Mapping[str, Any] | None = None
) -> Result:
    """Run a trial with a trainer that is ours alone."""
    trial.note("The lr scheduler of the Trainer is left out: the study sets the rates.")
    args = trainer.args
    args.max_steps, args.seed, args.data_seed = trial.steps, trial.seed, trial.seed
    trainer.callback_handler.callbacks.append(_Reporter(trial))
    trainer.train()
    trainer.callback_handler.callbacks.pop()

    def test() -> float:
        data = built(test_dataset or {})
        return float(trainer.evaluate(data, metric_key_prefix="test")["test_loss"])

    return trial.result(test=test if test_dataset else None, model=trainer.model)


class _Reporter(hf.TrainerCallback):
    """Sets the rates before each update and reports where that is due."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._train_loss: float | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set the rates of this update."""
        optimizer = given["optimizer"]
        self._trial.apply(getattr(optimizer, "optimizer", optimizer), state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the train loss and an evaluation where a report is due."""
        if self._trial.due(state.global_step - 1):
            control.should_log = control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the mean train loss since the last report."""
        if logs and "loss" in logs:
            self._train_loss = float(logs["loss"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Report."""
        metrics = given["metrics"]
        if "eval_loss" not in metrics:
            raise self._trial.misuse(
                f"finds no eval_loss in an evaluation ({', '.join(metrics)}): the model must return"
                " a loss on the eval_dataset"
            )
        loss = float(metrics["eval_loss"])
        train_loss = loss if self._train_loss is None else self._train_loss
        self._trial.report(state.global_step - 1, train_loss=train_loss, held_out_loss=loss)


@contextmanager
def _restoring(trainer: hf.Trainer) -> Iterator[None]:
    """Leave the trainer's model, its optimiser and their attributes as they are."""
    model: Any = trainer.model
    kept: list[Any] = [SavedModules([model], [], [getattr(model, "config", None)])]
    if trainer.optimizer is not None:
        kept.append(SavedOptimizer(trainer.optimizer))
    try:
        yield
    finally:
        for part in kept:
            part.put_back()
