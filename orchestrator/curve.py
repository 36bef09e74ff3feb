"""What came back from a run: `Point`s make a `Curve`, and a curve with its end is an `Outcome`."""

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
    """One measurement. `train_loss`: mean over the steps since the last point, no weight decay.

    `step` counts from 1, `progress` is the fraction of the run done, `lr` and `momentum` those of
    the step just made, `seconds` the training seconds so far (no evaluation), `evaluation_seconds`
    those of the held-out evaluations so far, `metric` NaN if none.
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

    Losses may hold NaN and inf: a run that diverged is evidence too.
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
        """Return the points again, with whole steps."""
        names, columns = zip(*self.to_json().items(), strict=True)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        return [Point(**{**row, "step": int(row["step"])}) for row in rows]

    def __len__(self) -> int:
        return len(self.step)

    def to_json(self) -> dict[str, list[float]]:
        """Return plain lists by field name, exact: decisions must replay to the last bit."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, list[float]]) -> Curve:
        """Rebuild what `to_json` gave."""
        return cls(*(np.array(data[f.name], float) for f in fields(cls)))


@dataclass(frozen=True)
class Result:
    """What an objective returns beside the points it reported.

    `seconds`: training time alone (no evaluation, no warm-up), `evaluation_seconds` that of all
    evaluations; `examples`: training examples seen.
    `test_loss`, `test_metric` only for runs that open the sealed test. `measured`: the numbers of a
    probe or calibration, JSON-able.
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
    """A run that ended: its state, its curve, its result, and why it ended if not by itself.

    `key` is that of its trial: the run's own (`Run.key`), but for audits (see `audit.Audit`).
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
        """Build the outcome of a run that a report ended: it counts as far as it came.

        `points` holds at least the one whose report ended it.
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
        """What Optuna is told: the held-out loss at the end, 0 for a run without a curve."""
        return self.held_out_loss if len(self.curve) else 0.0

    @property
    def metric(self) -> float:
        """The metric at the end, NaN if there is none."""
        return float(self.curve.metric[-1]) if len(self.curve) else math.nan
