"""What `lr_range_test` returns: learning rates, curves and a figure."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.curve import Floats, Outcome
from orchestrator.figures import Figure, png
from orchestrator.figures.lr_range import losses
from orchestrator.recipe import Decision
from orchestrator.stages.suggest import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 640  # of the figure in a notebook, in pixels; it has more, for dense screens


@dataclass(frozen=True, eq=False)
class Ramp:
    """One ramp, as arrays of shape (points,). Losses may end in NaN or inf, where a ramp stopped.

    Attributes:
        shape: "exponential" (the bracket) or "linear".
        lr: Learning rate per step, rising.
        train_loss: Mean train loss since the last point.
        held_out_loss: Held-out loss, in the loss's own unit.
        smoothed: The smoothed held-out loss, which the rules read.
    """

    shape: str
    lr: Floats
    train_loss: Floats
    held_out_loss: Floats
    smoothed: Floats

    @classmethod
    def of(cls, outcome: Outcome) -> Ramp:
        """Return the ramp of an outcome."""
        curve = outcome.curve
        shape = "linear" if outcome.run.schedule.name == "range_test" else "exponential"
        smoothed = smooth(curve.held_out_loss)
        return cls(shape, curve.lr, curve.train_loss, curve.held_out_loss, smoothed)


@dataclass(frozen=True, eq=False)
class LRRangeResult:
    """The result of a range test, or why there is none.

    Attributes:
        max_lr: Learning rate per step to train with at most, None if not `answered`.
        min_lr: A tenth of it.
        interval: Lowest and highest max_lr of the single ramps, from a fifth of the lowest on where
            steps do not grow with the gradient; half-way to the neighbours if cycles decided.
        answered: Whether the ramps gave a max_lr.
        reason: The result, or why there is none, in one sentence with numbers.
        rules: The lr of every suggestion rule (see `stages.suggest`), without a margin; None where
            a rule does not apply.
        ramps: All ramps, in the order made; none if they are long against the final run.
        initial_loss: Held-out loss before training.
        decision: The decision of the stage, with its evidence.
        outcomes: The outcomes of the ramps, in the order made, and of the cycles.
    """

    max_lr: float | None
    min_lr: float | None
    interval: tuple[float, float] | None
    answered: bool
    reason: str
    rules: Mapping[str, float | None]
    ramps: tuple[Ramp, ...] = field(repr=False)
    initial_loss: float
    decision: Decision = field(repr=False)
    outcomes: tuple[Outcome, ...] = field(repr=False)

    @classmethod
    def of(
        cls, decision: Decision, outcomes: Sequence[Outcome], initial_loss: float
    ) -> LRRangeResult:
        """Make the result from a decision.

        Args:
            decision: The decision of an `lr_range` stage.
            outcomes: The outcomes of its ramps and cycles.
            initial_loss: Held-out loss before training.

        Returns:
            The result.
        """
        return cls(
            max_lr=decision.values.get("max_lr"),
            min_lr=decision.values.get("min_lr"),
            interval=decision.interval,
            answered=decision.answered,
            reason=decision.reason,
            rules=dict(decision.evidence["rules"]),
            ramps=tuple(Ramp.of(o) for o in outcomes if o.run.kind == "ramp" and len(o.curve)),
            initial_loss=initial_loss,
            decision=decision,
            outcomes=tuple(outcomes),
        )

    def suggestion(self) -> float | None:
        """Return max_lr, under the name that it has in Lightning's finder."""
        return self.max_lr

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot losses against lr, with max_lr, min_lr, the interval and the rules' marks.

        It is the figure of a study's report. Needs matplotlib.

        Args:
            ax: The axes. None: new ones, made by pyplot, so that a notebook shows them.

        Returns:
            The axes.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.figure(figsize=(8.4, 4.2), layout="constrained").add_subplot()
        png.draw_on(ax, self._figure())
        if not self.answered:
            ax.set_title("no answer", loc="left")
        return ax

    def _figure(self) -> Figure:
        figure = losses(self.decision, self.outcomes)
        assert figure is not None  # there is a ramp, and it has a point
        return figure

    def __str__(self) -> str:
        if self.max_lr is None or self.min_lr is None or self.interval is None:
            return self.reason
        low, high = self.interval
        lines = [
            f"max_lr {self.max_lr:.3g} ({low:.3g} to {high:.3g}), min_lr {self.min_lr:.3g}",
            self.reason.partition(": ")[2],
            *([others] if (others := self._others()) else []),
        ]
        return "\n".join(lines)

    def _others(self) -> str:
        marks = [f"{k.replace('_', ' ')} {v:.2g}" for k, v in self.rules.items() if v is not None]
        return f"rules, without a margin: {', '.join(marks)}" if marks else ""

    def _repr_html_(self) -> str:
        """Return the result with its figure, for a notebook."""
        picture = base64.b64encode(png.png(self._figure())).decode()
        first, *more = str(self).splitlines()
        text = "".join(f"<br>{html.escape(line)}" for line in more)
        return (
            f"<div><b>{html.escape(first)}</b>{text}<br>"
            f'<img alt="loss against learning rate" width="{WIDTH}"'
            f' src="data:image/png;base64,{picture}"></div>'
        )
