"""Figures of a stage: makes from a `StageRecord` the description of a figure (`figure.Figure`).

Losses may be NaN or inf and stages may have no runs: then less is drawn, without an error.
"""

from __future__ import annotations

from orchestrator.figures.figure import Figure
from orchestrator.figures.lr_range import lr_range
from orchestrator.figures.runs import batch_size, curves, final
from orchestrator.record import StageRecord

__all__ = ["Figure", "of"]


def of(stage: StageRecord, metric: str | None = None) -> Figure | None:
    """Return the figure of a stage's kind, None if there is nothing to draw.

    A user's own kind gets its loss curves, one colour per label. `metric`: name of the metric.
    """
    kinds = {"lr_range": lr_range, "batch_size": batch_size, "final": final}
    return kinds.get(stage.decision.kind, curves)(stage, metric)
