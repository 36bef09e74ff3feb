"""Draws figures with matplotlib: PNG files for documents and for pages without scripts."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.figures.figure import Axis, Entry, Figure, Panel, Span
from orchestrator.figures.numbers import rate
from orchestrator.figures.style import SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MplAxis
    from matplotlib.figure import Figure as Canvas

DPI = 160
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v",
    "cross": "P", "star": "*", "x": "x",
}  # fmt: skip


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; the user's matplotlib settings do not change."""
    import matplotlib as mpl

    data = io.BytesIO()
    with (
        mpl.rc_context(STYLE),
        np.errstate(over="ignore"),  # losses of 1e200 on a log axis
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in any language
        draw(figure).savefig(data, format="png")
    return data.getvalue()


def draw(figure: Figure) -> Canvas:
    """Draw a figure without pyplot, whose state is global."""
    from matplotlib.figure import Figure as Canvas

    heights = [panel.height for panel in figure.columns[0]]
    columns = len(figure.columns)
    size = (6.4 if columns == 1 else 4.6 * columns, 0.6 + sum(heights))  # .6: the legend beneath
    canvas = Canvas(figsize=size, layout="constrained", dpi=DPI)
    grid = canvas.subplots(
        len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for j, column in enumerate(figure.columns):
        last = max(i for i, panel in enumerate(column) if not panel.rows)
        for i, panel in enumerate(column):
            _panel(grid[i][j], panel, figure.x)
            if not panel.rows:
                grid[i][j].tick_params(labelbottom=i == last)
        grid[last][j].set_xlabel(figure.x.label)
    _legend(canvas, figure)
    return canvas


def draw_on(axes: Axes, figure: Figure) -> None:
    """Draw a figure of one panel on the user's own axes, with the legend to the right."""
    [[panel]] = figure.columns
    _panel(axes, panel, figure.x)
    axes.set_xlabel(figure.x.label)
    handles = [_handle(e) for e in figure.legend]
    axes.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _panel(axes: Axes, panel: Panel, x: Axis) -> None:
    if x.log:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if x.range:
        axes.set_xlim(*x.range)
    if panel.rows:
        return _strip(axes, panel)
    names = [span for span in panel.spans if span.text]
    axes.set_title(panel.title, pad=20 if names else None)
    for k in panel.lines:
        mark = "." if len(k.x) == 1 else None
        look: dict[str, Any] = {"lw": k.width, "ls": DASHES[k.dash], "alpha": k.alpha}
        axes.plot(k.x, k.y, color=k.colour, marker=mark, **look)
    _loss_axis(axes, panel.y)
    for span in panel.spans:
        _span(axes, span)
    for number, span in enumerate(names):
        _named(axes, span, number)
    for m in panel.marks:
        cross = m.symbol == "x"
        look = {"mew": 1.8, "clip_on": False, "in_layout": False} if cross else {"mec": "white"}
        axes.plot(m.x, m.y, MARKERS[m.symbol], color=m.colour, ms=7, **look)
    return None


def _loss_axis(axes: Axes, y: Axis) -> None:
    """Set up the y axis; a logarithmic one has plain numbers."""
    from matplotlib.ticker import LogLocator

    axes.set_ylabel(y.label)
    if y.log:
        low, high = y.range or (1, 1)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high < 50 * low else (1, 3)))
        _plain_numbers(axes.yaxis)
    if y.range:
        axes.set_ylim(*y.range)


def _plain_numbers(axis: MplAxis) -> None:
    """Label ticks as .01 and not as powers of ten, which matplotlib sets as a formula."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: rate(float(value))))
    axis.set_minor_formatter(NullFormatter())


def _span(axes: Axes, span: Span) -> None:
    if span.low < span.high:
        axes.axvspan(span.low, span.high, color=span.colour, alpha=0.18, lw=0)
    else:
        axes.axvline(span.low, color=span.colour, lw=1.8, ls=DASHES[span.dash])


def _named(axes: Axes, span: Span, number: int) -> None:
    axes.annotate(
        span.text,
        (span.low, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right" if number else "center",
        va="bottom",
        weight="bold",
    )


def _strip(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=8, color=SOFT)
    axes.set_axis_off()  # the x axis is that of the curves above
    axes.set_ylim(panel.rows - 0.5, -0.5)
    for bar in panel.bars:
        width = bar.high - bar.low
        axes.barh(bar.row, width, 0.7, bar.low, color=bar.colour, alpha=0.55, lw=0)
    for w in panel.words:
        side, gap = ("right", -4) if w.left else ("left", 4)
        axes.annotate(
            w.text,
            (w.x, w.row),
            xytext=(gap, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _legend(canvas: Canvas, figure: Figure) -> None:
    if not figure.legend:
        return
    most = 5 if max(len(e.label) for e in figure.legend) < 20 else 2 * len(figure.columns)
    lines = -(-len(figure.legend) // most)  # balanced: no line with one entry
    columns = -(-len(figure.legend) // lines)
    canvas.legend(
        handles=[_handle(e) for e in figure.legend],
        title=figure.legend_title or None,
        loc="outside lower center",
        ncols=columns,
    )


def _handle(e: Entry) -> Any:
    from matplotlib.lines import Line2D

    marker = MARKERS[e.symbol] if e.symbol else None
    alone = e.symbol not in (None, "x")
    style = "" if alone else DASHES[e.dash]
    look: dict[str, Any] = {"lw": e.width, "ls": style, "alpha": e.alpha, "marker": marker}
    return Line2D([], [], color=e.colour, label=e.label, **look)
