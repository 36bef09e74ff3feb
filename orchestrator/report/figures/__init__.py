"""Figures of a stage, one function each: a `StageRecord` in, a matplotlib figure out.

Losses may be NaN or inf and stages may have run nothing: then less is drawn, never an error.
matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.record import StageRecord
from orchestrator.report.figures.lr_range import lr_range
from orchestrator.report.figures.runs import batch_size, curves, final
from orchestrator.report.figures.style import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DPI", "batch_size", "curves", "final", "lr_range", "of"]


def of(stage: StageRecord, metric: str | None = None) -> Figure:
    """Return the figure of a stage's kind; other kinds get their curves, one colour per label."""
    draw: Callable[[StageRecord, str | None], Figure] = {
        "lr_range": lambda s, _: lr_range(s),
        "batch_size": batch_size,
        "final": lambda s, _: final(s),
    }.get(stage.decision.kind, lambda s, _: curves(s))
    return draw(stage, metric)
