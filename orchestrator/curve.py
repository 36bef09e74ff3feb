"""The result of a run: `Point`s make a `Curve`; an `Outcome` is a curve and how the run ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.recipe import Run

Floats = NDArray[np.float64]
OUT_OF_MEMORY = "out of memory"  # how the reason of such a failed run begins


@dataclass(frozen=True)
class Point:
    """One measurement in a run.

    Attributes:
        step: Steps made, from 1.
        progress: Fraction of the run done.
        lr: Learning rate of the last step.
        momentum: Momentum of the last step.
        train_loss: Mean over the steps since the last point, without weight decay.
        held_out_loss: Held-out loss now.
        metric: Held-out metric now, NaN without one.
        seconds: Training seconds so far, without evaluation.
        evaluation_seconds: Seconds of held-out evaluations so far.
    """

    step: int
    progress: float
    lr: float
    momentum: float
    train_loss: float
    held_out_loss: float
    metric: float = math.nan
    seconds: float = 0.0
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Curve:
    """The points of a run as arrays of shape (points,), in the order they were reported.

    Losses may be NaN or inf: a run that diverged is evidence too.
    """

    step: Floats
    progress: Floats
    lr: Floats
    momentum: Floats
    train_loss: Floats
    held_out_loss: Floats
    metric: Floats
    seconds: Floats

    @classmethod
    def of(cls, points: Iterable[Point]) -> Curve:
        """Build a curve from points."""
        rows = list(points)
        return cls(*(np.array([getattr(p, f.name) for p in rows], float) for f in fields(cls)))

    def points(self) -> list[Point]:
        """Return the points."""
        names, columns = zip(*self.to_json().items(), strict=True)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        return [Point(**{**row, "step": int(row["step"])}) for row in rows]

    def __len__(self) -> int:
        return len(self.step)

    def to_json(self) -> dict[str, list[float]]:
        """Return lists by field name, exact: a replay must give the same decisions."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, list[float]]) -> Curve:
        """Make a curve from what `to_json` returned."""
        return cls(*(np.array(data[f.name], float) for f in fields(cls)))


@dataclass(frozen=True)
class Result:
    """What an objective returns besides the points it reported.

    Attributes:
        seconds: Training seconds, without evaluation and warm-up.
        examples: Training examples seen.
        test_loss: Test loss, only of a run with `opens_test`.
        test_metric: Test metric, only of a run with `opens_test`.
        measured: JSON values that a probe or a calibration measured.
        evaluation_seconds: Seconds of all evaluations.
    """

    seconds: float = 0.0
    examples: int = 0
    test_loss: float = math.nan
    test_metric: float = math.nan
    measured: Mapping[str, Any] = field(default_factory=dict)
    evaluation_seconds: float = 0.0


State = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True)
class Outcome:
    """A run that ended.

    Attributes:
        run: The run.
        key: Its trial's key: `Run.key`, except for audits (see `audit.Audit`).
        state: "finished", "pruned" or "failed".
        curve: Its points.
        result: What the objective returned.
        reason: Why it ended early, or failed.
    """

    run: Run
    key: str
    state: State
    curve: Curve
    result: Result
    reason: str = ""

    @classmethod
    def stopped(
        cls, run: Run, key: str, points: Iterable[Point], reason: str, *, pruned: bool
    ) -> Outcome:
        """Make the outcome of a run that ended at its last point.

        Args:
            run: The run.
            key: Its trial's key.
            points: Its points, at least one.
            reason: Why it ended.
            pruned: Whether a pruner ended it; otherwise its own stop rule, so it is finished.

        Returns:
            The outcome.
        """
        *before, last = points
        done = Result(
            last.seconds, last.step * run.batch_size, evaluation_seconds=last.evaluation_seconds
        )
        curve = Curve.of([*before, last])
        return cls(run, key, "pruned" if pruned else "finished", curve, done, reason)

    @property
    def held_out_loss(self) -> float:
        """Held-out loss at the end; inf if the run was pruned, failed or ended in NaN."""
        loss = float(self.curve.held_out_loss[-1]) if len(self.curve) else math.inf
        return loss if self.state == "finished" and math.isfinite(loss) else math.inf

    @property
    def out_of_memory(self) -> bool:
        """Whether the run failed because memory ran out."""
        return self.state == "failed" and self.reason.startswith(OUT_OF_MEMORY)

    @property
    def value(self) -> float:
        """The value of the Optuna trial: the final held-out loss, 0 for a run without a curve."""
        return self.held_out_loss if len(self.curve) else 0.0

    @property
    def metric(self) -> float:
        """The metric at the end, NaN if there is none."""
        return float(self.curve.metric[-1]) if len(self.curve) else math.nan
