"""The argument of a training function: the settings of one run, and its reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orchestrator.curve import Point, Result
from orchestrator.errors import ConfigError
from orchestrator.objectives import Session, StopRun
from orchestrator.recipe import Run
from orchestrator.system import signals
from orchestrator.training import checkpoint, randomness
from orchestrator.training.function.groups import Groups
from orchestrator.training.function.stopwatch import Stopwatch

Number: TypeAlias = "float | Tensor"
Test: TypeAlias = "Callable[[], Number | tuple[Number, Number]]"


class Trial:
    """One run of a training function: `train(trial)` returns `trial.result(...)`.

    Wrong use raises ConfigError, one line.

    Attributes:
        seed: For weights, data order and everything else that is random. The global random states
            of Python, NumPy and torch are seeded with it before the call.
    """

    def __init__(self, run: Run, session: Session, name: str, seed: int) -> None:
        self.seed = seed
        self.min_loss = 0.0  # what smaller held-out losses are replaced by
        self.asked: set[str] = set()  # settings that the function has read
        self.metric_name: str | None = None
        self.has_test = False
        self.keeps_end = False  # whether the state at the end was saved
        self.notes: dict[str, None] = {}
        self.points: list[Point] = []
        self.groups: Groups | None = None
        self._run, self._session, self._name = run, session, name
        self._reports = run.report_steps()
        self._keeper = checkpoint.Keeper(session)
        self._step = -1  # the last one that rates were set for
        self._last: Point | None = None  # the last report, until the result is there
        self._training, self._evaluation = Stopwatch(), Stopwatch()

    @property
    def steps(self) -> int:
        """Number of updates, counted from 0."""
        self.asked.add("steps")
        return self._run.steps

    @property
    def batch_size(self) -> int:
        """Training examples of one update."""
        self.asked.add("batch_size")
        return self._run.batch_size

    @property
    def held_out_examples(self) -> int:
        """How many held-out examples are enough for the next report, 0: all. This is advice."""
        return 0 if self._step + 1 >= self._run.steps else self._run.held_out_examples

    @property
    def device(self) -> torch.device:
        """The device of the optimiser's parameters; the CPU before the first `apply`."""
        if self.groups is None:
            return torch.device("cpu")
        parameter: Tensor = self.groups.optimizer.param_groups[0]["params"][0]
        return parameter.device

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set lr, momentum (or beta1) and weight decay of update `step`, counted from 0.

        Call it before each update. Param groups keep the ratios of their rates and decays.

        Args:
            optimizer: The optimiser.
            step: Number of the update.

        Raises:
            Interrupted: After a signal.
        """
        signals.check()
        if not self._step <= step < self._run.steps:
            raise self.misuse(
                f"goes on to step {step} after step {self._step} of {self._run.steps}: loop over"
                " range(trial.steps)"
            )
        self._training.go()
        groups = self._use(optimizer)
        groups.apply(self._run.schedule.at(step / self._run.steps), self._run.weight_decay)
        self._step = step

    def due(self, step: int) -> bool:
        """Return whether to report the loss after update `step`; always after the last one.

        Args:
            step: Number of the update.
        """
        due = step + 1 == self._next_report
        if due:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._training.stop()
            self._evaluation.go()
        return due

    def report(
        self, step: int, *, train_loss: Number, held_out_loss: Number, **metric: Number
    ) -> None:
        """Report the losses after update `step`, if `due(step)`. May end the run.

        Args:
            step: Number of the update.
            train_loss: Mean since the last report, or of the last batch, without weight decay.
            held_out_loss: Mean over held-out examples.
            metric: At most one metric, by its own name: `accuracy=0.9`.
        """
        if self._step < 0:
            raise self.misuse("never calls trial.apply(optimizer, step): no rate of the study used")
        if step + 1 != self._next_report or step != self._step:
            raise self.misuse(
                f"reports step {step} after trial.apply for step {self._step}: report only where"
                f" trial.due(step), next at step {self._next_report - 1}"
            )
        if len(metric) > 1:
            raise self.misuse(f"reports {', '.join(metric)}: give one metric at most")
        self.metric_name = next(iter(metric), None)
        self._training.stop()
        self._evaluation.stop()
        rates = self._run.schedule.at(step / self._run.steps)
        point = Point(
            step=step + 1,
            progress=(step + 1) / self._run.steps,
            lr=rates.lr,
            momentum=rates.momentum,
            train_loss=_number(train_loss),
            held_out_loss=self._counted(held_out_loss),
            metric=_number(next(iter(metric.values()), math.nan)),
            seconds=self._training.seconds,
            evaluation_seconds=self._evaluation.seconds,
        )
        if step + 1 < self._run.steps:
            self._send(point)
        else:
            self._last = point
        self._training.go()

    def result(
        self,
        *,
        held_out_loss: Number | None = None,
        test: Test | None = None,
        model: nn.Module | None = None,
    ) -> Result:
        """Return the value that the training function must return.

        Args:
            held_out_loss: The final one, if it is not that of the last report (averaged weights).
            test: Returns the loss on the test data, or (loss, metric). It is called only in runs
                that open the test data.
            model: Saved as model.pt if it is the answer of the study.
        """
        if self._last is None:
            raise self.misuse(self._unfinished())
        if held_out_loss is not None:
            self._last = replace(self._last, held_out_loss=self._counted(held_out_loss))
        self._send(self._last)
        self.has_test = test is not None
        tested = (math.nan, math.nan)
        if self._run.opens_test:
            if test is None:
                raise self.misuse("gives no test: return trial.result(test=...) for a final stage")
            value = test()
            loss, metric = value if isinstance(value, tuple) else (value, math.nan)
            tested = _number(loss), _number(metric)
            if model is not None:
                self._session.save_model(checkpoint.model_bytes(model))
        return Result(
            self._last.seconds,
            self._run.examples,
            *tested,
            evaluation_seconds=self._last.evaluation_seconds,
        )

    def save(self, step: int, **parts: Any) -> None:
        """Save the state after update `step`, and the random states, for `load`.

        Call it after each step and its report, or if `due(step)`. It saves every few seconds, and
        the end of a run whose network may be tested later: that test then trains nothing again.

        Args:
            step: Number of the update.
            parts: Objects with a `state_dict`, by the names that `load` uses.
        """
        if step + 1 < self._run.steps:
            if not self._keeper.is_due():
                return
        elif self._last is None or not self._run.keeps_end:
            return
        else:
            self.keeps_end = True
        self._training.stop()
        kept = {
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "random": randomness.state_dict(self.device),
            "step": step,
            "seconds": self._training.seconds,
        }
        last = [self._last] if self._last else []
        self._keeper.save(kept, [*self.points, *last])
        self._training.go()

    def load(self, **parts: Any) -> int:
        """Restore the state that `save` saved of this run, and return the next step.

        The data are not restored: continue with the batches of that step.

        Args:
            parts: The objects of `save`, by the same names.

        Returns:
            The step to continue with, 0 if nothing was saved.
        """
        for part in parts.values():
            if hasattr(part, "param_groups"):
                self._use(part)  # as it is made: its loaded groups have the rates of a schedule
        if (saved := self._session.load()) is None:
            return 0
        state, points = checkpoint.read(saved)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        if points and points[-1].step == self._run.steps:
            self._last = points.pop()  # sent with the result
        for point in points:
            self._send(point)
        randomness.load_state_dict(state["random"], self.device)
        self._step, self._training.seconds = int(state["step"]), float(state["seconds"])
        return self._step + 1

    def note(self, sentence: str) -> None:
        """Add a note to the study's report, once. Notes are read before the study starts.

        Args:
            sentence: The note.
        """
        self.notes[sentence] = None

    def misuse(self, what: str) -> ConfigError:
        """Return an error about wrong use.

        Args:
            what: What the training function does.

        Returns:
            The error, to be raised.
        """
        return ConfigError(f"{self._name} {what}")

    def _use(self, optimizer: Optimizer) -> Groups:
        if self.groups is None:
            try:
                self.groups = Groups(optimizer)
            except ValueError as error:
                raise self.misuse(f"has an optimiser that cannot be set: {error}") from error
        elif self.groups.optimizer is not optimizer:
            first, second = (type(o).__name__ for o in (self.groups.optimizer, optimizer))
            raise self.misuse(
                f"applies one trial to two optimisers ({first} and {second}): a study searches one"
                " max_lr; make them groups of one optimiser, or tune one and leave the other as set"
            )
        return self.groups

    @property
    def _next_report(self) -> int:
        """Updates after which the next report is due, 0: no more."""
        done = len(self.points) + (self._last is not None)
        return self._reports[done] if done < len(self._reports) else 0

    def _unfinished(self) -> str:
        if not self.points:
            return "returned without a report: call trial.report(...) where trial.due(step)"
        return (
            f"returned after step {self._step} of {self._run.steps}, the report of step"
            f" {self._next_report - 1} is missing: loop over range(trial.steps)"
        )

    def _counted(self, loss: Number) -> float:
        value = _number(loss)
        if value < 0:
            raise self.misuse(
                f"reports a held-out loss of {value:.3g}: it must not be below 0, losses are"
                " compared by factors"
            )
        return max(value, self.min_loss) if math.isfinite(value) else value

    def _send(self, point: Point) -> None:
        self.points.append(point)
        self._session.report(point)
        if not (math.isfinite(point.train_loss) and math.isfinite(point.held_out_loss)):
            raise StopRun("the loss is not finite", pruned=False)


def _number(value: Number) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
