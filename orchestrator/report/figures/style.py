"""What all figures share: colours, style, axes that fit what trains.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from orchestrator.curve import Floats
from orchestrator.report.text import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
SOFT = "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 10,
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
DPI = 160


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in our style and leave the reader's own matplotlib settings as they were."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def new(columns: int, rows: Sequence[float] = (3.6,)) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its axes by row; `rows` are their heights in inches.

    Without pyplot, so that nothing global is touched or kept.
    """
    from matplotlib.figure import Figure

    size = (6.4 if columns == 1 else 4.6 * columns, 0.6 + sum(rows))  # .6: the legend beneath
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    grid = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": list(rows)}
    )
    return figure, [list(row) for row in grid]


def empty(figure: Figure) -> Figure:
    """Say on an otherwise blank figure that there is nothing to draw."""
    figure.clear()
    text = "No curves: nothing was trained here."
    figure.text(0.5, 0.5, text, ha="center", color=SOFT)
    return figure


def limit(axes: Axes, losses: Iterable[Floats]) -> None:
    """Fit the loss axis to what trains: a run that blew up leaves through the top."""
    parts = [loss[np.isfinite(loss)] for loss in losses]
    parts = [loss for loss in parts if len(loss)]
    if not parts:
        return
    low = min(float(loss.min()) for loss in parts)
    high = max(float(loss.max()) for loss in parts)
    start = max(float(loss[0]) for loss in parts)
    high = min(high, max(1.25 * start, low + 1e-9))
    if low > 0 and high > 3 * low:  # the ends are what is compared: do not press them flat
        _log_axis(axes, low, high)
        axes.set_ylim(low / 1.1, high * 1.1)
    else:
        room = 0.05 * max(high - low, 1e-9 + abs(low) * 1e-3)
        axes.set_ylim(low - room, high + room)


def limit_both(axes: Axes, held_out: Sequence[Floats], train: Iterable[Floats]) -> None:
    """Fit the loss axis to both losses, but first to the held-out loss.

    A train loss near zero would press everything else flat: it may leave through the bottom.
    """
    finite = [loss[np.isfinite(loss)] for loss in held_out]
    least = min((float(loss.min()) for loss in finite if len(loss)), default=0.0)
    limit(axes, [*held_out, *(np.maximum(loss, 0.3 * least) for loss in train)])


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the loss axis logarithmic, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high < 50 * low else (1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(float(value))))
    axes.yaxis.set_minor_formatter(NullFormatter())


def line(colour: str, label: str, **style: Any) -> Any:
    """Return a line for the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, **style)
