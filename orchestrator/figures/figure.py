"""The description of a figure, independent of how it is drawn.

`png.py` draws it with matplotlib for files and paper, `interactive.py` with plotly.js for screens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from orchestrator.curve import Floats

Dash = Literal["solid", "dash", "dot"]
Symbol = Literal[
    "circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star", "x"
]


@dataclass(frozen=True)
class Axis:
    """An axis; `range`: (low, high) in the data's unit, None if the renderer chooses it."""

    label: str = ""
    log: bool = False
    range: tuple[float, float] | None = None

    def at(self, fraction: float) -> float:
        """Return the value at a fraction of the axis, which must have a range."""
        assert self.range is not None
        low, high = self.range
        return low * (high / low) ** fraction if self.log else low + (high - low) * fraction


@dataclass(frozen=True)
class Line:
    """A curve: x and y of shape (points,), where y may be NaN or inf.

    `text`: shown on hover; `groups`: keys of the legend entries that hide it.
    """

    x: Floats
    y: Floats
    colour: str
    text: str
    groups: tuple[str, ...] = ()
    width: float = 0.9
    dash: Dash = "solid"
    alpha: float = 1.0


@dataclass(frozen=True)
class Mark:
    """A single point; `text`: its meaning."""

    x: float
    y: float
    symbol: Symbol
    colour: str
    text: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """A part of the x axis over the whole height; a line with `text` above it if `low` is `high`.

    The first of several texts in a panel is centred on its line, the others end there.
    """

    low: float
    high: float
    colour: str
    text: str = ""
    dash: Dash = "solid"


@dataclass(frozen=True)
class Bar:
    """A part of the x axis in one row of a strip (row 0 is the top); `text`: its meaning."""

    row: int
    low: float
    high: float
    colour: str
    text: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """A text in a row of a strip, to the right of `x` or to the left of it."""

    row: int
    x: float
    text: str
    left: bool = False


@dataclass(frozen=True)
class Panel:
    """A plot, or with `rows` a strip without axes; `height` in inches."""

    y: Axis
    height: float = 3.6
    title: str = ""
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    spans: tuple[Span, ...] = ()
    rows: int = 0
    bars: tuple[Bar, ...] = ()
    words: tuple[Words, ...] = ()

    @property
    def groups(self) -> set[str]:
        """The keys of the legend's entries that hide something here."""
        parts: tuple[Line | Mark | Bar, ...] = (*self.lines, *self.marks, *self.bars)
        return {key for part in parts for key in part.groups}


@dataclass(frozen=True)
class Entry:
    """An entry of the legend, for all that has `key` among its groups."""

    key: str
    label: str
    colour: str
    width: float = 1.4
    dash: Dash = "solid"
    alpha: float = 1.0
    symbol: Symbol | None = None


@dataclass(frozen=True)
class Figure:
    """Columns of panels side by side; the panels of a column share their x axis."""

    x: Axis
    columns: tuple[tuple[Panel, ...], ...]
    legend: tuple[Entry, ...] = ()
    legend_title: str = ""

    @property
    def groups(self) -> set[str]:
        """The keys of the legend's entries that hide something."""
        return {key for column in self.columns for panel in column for key in panel.groups}


def plottable(value: Any) -> TypeGuard[float]:
    """Whether a value can be drawn on a logarithmic axis."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
