"""Figures as data for plotly.js: plain values, one plot per column. plotly is not imported.

The script sets the colours of text and grid, since they follow the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from orchestrator.curve import Floats
from orchestrator.figures.figure import Axis, Figure, Line, Panel, Span
from orchestrator.redact import clean

INCH = 78  # pixels
TITLE, NAMES, LABELS = 24, 16, 46  # pixels: title, names of lines, beneath the last x axis
Plot = dict[str, Any]


def plots(figure: Figure) -> list[Plot]:
    """Return a plot per column: {height, data, groups, layout}, for `JSON.parse` in the page.

    `groups` has for each trace the numbers of the legend entries that hide it. Texts contain no
    passwords, no invisible characters and no markup.
    """
    keys = {entry.key: i for i, entry in enumerate(figure.legend)}
    return [_plot(column, figure.x, keys) for column in figure.columns]


def _text(words: str) -> str:
    """Return a text that plotly.js shows as `words`, although it has markup and templates."""
    # Templates are filled in before entities are decoded: no label can insert a value.
    return escape(clean(words), quote=False).replace("%{", "&#37;{")


def _plot(column: tuple[Panel, ...], x: Axis, keys: Mapping[str, int]) -> Plot:
    heights = [panel.height * INCH for panel in column]
    last = max(i for i, panel in enumerate(column) if not panel.rows)
    above = [
        TITLE + NAMES * bool(_with_names(panel)) + LABELS * (i == last + 1)
        for i, panel in enumerate(column)
    ]
    below = LABELS if last == len(column) - 1 else 4
    whole = sum(heights) + sum(above[1:])
    layout: dict[str, Any] = {
        "xaxis": _axis(x) | {"anchor": f"y{last + 1}"},
        "shapes": [],
        "annotations": [],
        "margin": {"t": above[0], "b": below},
    }
    data: list[dict[str, Any]] = []
    groups: list[list[int]] = []
    top = whole
    for i, panel in enumerate(column):
        name = f"y{i + 1}" if i else "y"
        top -= above[i] if i else 0
        low, high = max(0, top - heights[i]) / whole, top / whole
        top -= heights[i]
        y = _rows(panel.rows) if panel.rows else _axis(replace(panel.y, label=""))
        layout[f"yaxis{i + 1}" if i else "yaxis"] = y | {"domain": [low, high]}
        layout["shapes"] += [_span(s, name) for s in panel.spans]
        layout["annotations"] += [_title(panel, high)]
        layout["annotations"] += [_named(s, n, x, high) for n, s in _with_names(panel)]
        for trace, own in _traces(panel, x, name):
            data.append(trace)
            groups.append([keys[key] for key in own if key in keys])
    return {
        "height": round(whole + above[0] + below), "data": data, "groups": groups, "layout": layout,
    }  # fmt: skip


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if axis.label:
        made["title"] = {"text": _text(axis.label), "standoff": 8}
    if axis.range:
        made["range"] = list(axis.range)
    if axis.log:
        made |= {"type": "log", "tickformat": "~g"}
    if axis.log and axis.range:
        low, high = made["range"] = [math.log10(v) for v in axis.range]
        # Ticks at 1, 2 and 5: with a few more asked for, plotly.js writes all nine digits.
        made["nticks"] = min(7, max(3, int((high - low) / 0.31)))
    return made


def _rows(rows: int) -> dict[str, Any]:
    return {"visible": False, "range": [rows - 0.5, -0.5], "fixedrange": True}


def _title(panel: Panel, top: float) -> dict[str, Any]:
    words = " · ".join(_text(part) for part in (panel.title, panel.y.label) if part)
    return {
        "text": words, "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left",
        "yanchor": "bottom", "yshift": NAMES * bool(_with_names(panel)), "showarrow": False,
    }  # fmt: skip


def _with_names(panel: Panel) -> list[tuple[int, Span]]:
    """Return the lines whose names are above the panel, with their numbers."""
    return list(enumerate(span for span in panel.spans if span.text))


def _span(span: Span, y: str) -> dict[str, Any]:
    band = span.low < span.high
    shape = {
        "type": "rect" if band else "line", "xref": "x", "yref": f"{y} domain", "y0": 0, "y1": 1,
        "x0": _number(span.low), "x1": _number(span.high), "layer": "below",
        "line": {"width": 0 if band else 2, "color": span.colour, "dash": span.dash},
    }  # fmt: skip
    return shape | ({"fillcolor": span.colour, "opacity": 0.18} if band else {})


def _named(span: Span, number: int, x: Axis, top: float) -> dict[str, Any]:
    place = math.log10(span.low) if x.log else span.low  # plotly.js: logarithms here, not in shapes
    return {
        "text": f"<b>{_text(span.text)}</b>", "xref": "x", "yref": "paper", "x": place, "y": top,
        "xanchor": "right" if number else "center", "yanchor": "bottom", "showarrow": False,
    }  # fmt: skip


def _traces(panel: Panel, x: Axis, axis: str) -> Iterable[tuple[dict[str, Any], tuple[str, ...]]]:
    place = {"xaxis": "x", "yaxis": axis}
    across, up = _text(x.label), _text(panel.y.label)
    shown = f"<b>%{{meta}}</b><br>{across} %{{x:.3~g}}<br>{up} %{{y:.4~g}}"
    for line in panel.lines:
        yield place | _line(line) | {
            "meta": _text(line.text), "hovertemplate": f"{shown}<extra></extra>",
        }, line.groups  # fmt: skip
    for m in panel.marks:
        yield place | {
            "type": "scatter", "mode": "markers", "x": [_number(m.x)], "y": [_number(m.y)],
            "marker": {"symbol": m.symbol, "size": 9, "color": m.colour}, "meta": _text(m.text),
            "hovertemplate": "%{meta}<extra></extra>", "cliponaxis": False,
        }, m.groups  # fmt: skip
    for bar in panel.bars:
        yield place | {
            "type": "bar", "orientation": "h", "base": [_number(bar.low)], "y": [bar.row],
            "x": [_number(bar.high - bar.low)], "width": 0.7, "meta": _text(bar.text),
            "marker": {"color": bar.colour, "opacity": 0.55},
            "hovertemplate": "%{meta}<extra></extra>",
        }, bar.groups  # fmt: skip
    for w in panel.words:
        side = "left" if w.left else "right"
        yield place | {
            "type": "scatter", "mode": "text", "x": [_number(w.x)], "y": [w.row],
            "text": [f" {_text(w.text)} "], "textposition": f"middle {side}", "hoverinfo": "skip",
            "cliponaxis": False,
        }, ()  # fmt: skip


def _line(line: Line) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines" if len(line.x) > 1 else "markers",
        "x": _numbers(line.x), "y": _numbers(line.y), "opacity": line.alpha,
        "line": {"color": line.colour, "width": 1.3 * line.width, "dash": line.dash},
        "marker": {"color": line.colour},
    }  # fmt: skip


def _numbers(values: Floats) -> list[float | None]:
    return [_number(v) for v in np.asarray(values, float).tolist()]


def _number(value: float) -> float | None:
    """Return a number with as many digits as a screen can show; None for NaN and inf (JSON)."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
