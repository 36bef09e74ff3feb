"""Figures of a stage, one function each: a `StageRecord` in, a matplotlib figure out.

Losses may be NaN or inf and stages may have run nothing: then less is drawn, never an error.
Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.record import StageRecord
from orchestrator.report.text import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
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
NAMES = {
    "max_momentum": "max momentum",
    "weight_decay": "weight decay",
    "max_lr": "max lr",
    "batch_size": "batch size",
}


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in our style and leave the reader's own matplotlib settings as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def of(stage: StageRecord, metric: str | None = None) -> Figure:
    """Return the figure of a stage's kind; other kinds get their curves, one colour per label."""
    draw: Callable[[StageRecord, str | None], Figure] = {
        "lr_range": lambda s, _: lr_range(s),
        "batch_size": batch_size,
        "final": lambda s, _: final(s),
    }.get(stage.decision.kind, lambda s, _: curves(s))
    return draw(stage, metric)


@_styled
def lr_range(stage: StageRecord) -> Figure:
    """Return held-out and train loss against lr of every ramp, with the rates that were read off.

    Thin: as measured. Thick: smoothed, from which max_lr is read. Shaded: from the lowest to the
    highest reading. Marks at the bottom: what other rules would say.
    """
    figure, (axes,) = _new(1)
    evidence, decision = stage.decision.evidence, stage.decision
    drawn: list[Floats] = []
    for ramp in evidence.get("ramps", ()):
        linear = ramp.get("shape") == "linear"
        colour = COLOURS[0] if linear else COLOURS[7]
        lr = _array(ramp.get("lr"))
        losses = {k: _array(ramp.get(k)) for k in ("train_loss", "held_out_loss", "smoothed")}
        for name, width, style in (
            ("train_loss", 0.8, ":"),
            ("held_out_loss", 0.8, "-"),
            ("smoothed", 2.0, "-"),
        ):
            loss = losses[name]
            if len(loss) != len(lr) or not len(lr):
                continue
            alpha = 1.0 if name == "smoothed" else 0.5
            axes.plot(lr, loss, style, color=colour, lw=width, alpha=alpha)
            drawn.append(loss)
    if not drawn:
        return _empty(figure, axes)
    axes.set_xscale("log")
    _limit(axes, drawn)
    if decision.interval:
        axes.axvspan(*decision.interval, color=COLOURS[2], alpha=0.18, lw=0)
    max_lr = decision.values.get("max_lr")
    if max_lr is not None and _positive(max_lr):
        axes.axvline(max_lr, color=COLOURS[2], lw=1.8)
        axes.annotate(
            f"max lr {rate(float(max_lr))}",
            (max_lr, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color="#00664a",
            weight="bold",
        )
    _rule_marks(axes, evidence.get("rules", {}))
    handles = [
        _line(COLOURS[0], "linear ramp, held-out loss smoothed", lw=2.0),
        _line(COLOURS[7], "exponential ramp", lw=2.0),
        _line("#666666", "held-out loss as measured", lw=0.8),
        _line("#666666", "train loss", ls=":", lw=1.0),
    ]
    handles += [h for h in axes.get_lines() if h.get_gid() == "rule"]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    axes.set(xlabel="learning rate (per step)", ylabel="loss")
    return figure


@_styled
def curves(stage: StageRecord) -> Figure:
    """Return held-out loss against progress, a panel per length of run, a colour per candidate.

    All seeds thin, the chosen candidate thick; pruned and failed runs dashed, a cross at their end.
    """
    field = stage.decision.evidence.get("field")
    runs = [o for o in stage.outcomes if o.run.kind == "train" and len(o.curve)]
    lengths = sorted({o.run.steps for o in runs})
    if len(lengths) > 3:  # more panels than fit: lengths differ for other reasons than the horizon
        lengths = []
    panels: list[list[Outcome]] = [[o for o in runs if o.run.steps == n] for n in lengths] or [runs]
    figure, all_axes = _new(len(panels))
    if not runs:
        return _empty(figure, all_axes[0])
    groups = _groups(runs, field)
    chosen = _text(stage.decision.values.get(field)) if field else None
    for axes, panel in zip(all_axes, panels, strict=True):
        for name, colour in groups.items():
            for o in (o for o in panel if _group(o, field) == name):
                _curve(axes, o.curve.progress, o, colour, thick=name == chosen)
        _limit(axes, [o.curve.held_out_loss for o in panel])
        _crosses(axes, ((o.curve.progress, o, groups[_group(o, field)]) for o in panel))
        axes.set(xlabel="progress of the run", xlim=(0, 1.03))
        if lengths:
            axes.set_title(f"{panel[0].run.steps} steps")
    all_axes[0].set_ylabel("held-out loss")
    title = NAMES.get(field, field) if field else None
    _legend(figure, groups, runs, title, chosen)
    return figure


@_styled
def batch_size(stage: StageRecord, metric: str | None = None) -> Figure:
    """Return loss, and the metric beside it, against training time: timed runs of equal time."""
    trained = [o for o in stage.outcomes if o.run.kind == "train" and len(o.curve)]
    timed = [o for o in trained if o.run.timed] or trained
    # A timing that was rejected was measured again: only the last attempt counts.
    runs = list({replace(o.run, attempt=0): o for o in timed}.values())
    shows_metric = any(np.isfinite(o.curve.metric).any() for o in runs)
    figure, all_axes = _new(2 if shows_metric else 1)
    if not runs:
        return _empty(figure, all_axes[0])
    sizes = sorted({o.run.batch_size for o in runs})
    groups = {_text(s): COLOURS[i % len(COLOURS)] for i, s in enumerate(sizes)}
    chosen = _text(stage.decision.values.get("batch_size"))
    for o in runs:
        name = _text(o.run.batch_size)
        _curve(all_axes[0], o.curve.seconds, o, groups[name], thick=name == chosen)
        if shows_metric:
            width = 2.0 if name == chosen else 0.9
            all_axes[1].plot(o.curve.seconds, o.curve.metric, color=groups[name], lw=width)
    _limit(all_axes[0], [o.curve.held_out_loss for o in runs])
    _crosses(all_axes[0], ((o.curve.seconds, o, groups[_text(o.run.batch_size)]) for o in runs))
    all_axes[0].set_title("held-out loss")
    if shows_metric:
        all_axes[1].set_title(f"held-out {metric or 'metric'}")
    for axes in all_axes:
        axes.set_xlabel("training time (s)")
    _legend(figure, groups, runs, "batch size", chosen)
    return figure


@_styled
def final(stage: StageRecord) -> Figure:
    """Return the final runs: losses above, lr and momentum beneath, answer against baselines."""
    trained = [o for o in stage.outcomes if o.run.kind == "train" and len(o.curve)]
    runs = [o for o in trained if o.run.opens_test] or trained
    figure, (top, middle, bottom) = _new(1, rows=(3.2, 1, 1))
    if not runs:
        for axes in (middle, bottom):
            axes.remove()
        return _empty(figure, top)
    order = ("answer", "range_test_only", "untuned")
    found = {o.run.label.split(" ")[0] for o in runs}
    names = [n for n in order if n in found] + sorted(found - set(order))
    groups = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for name in reversed(names):  # the answer on top
        own = [o for o in runs if o.run.label.split(" ")[0] == name]
        for o in own:
            colour, c = groups[name], o.curve
            _curve(top, c.progress, o, colour, thick=name == "answer")
            top.plot(c.progress, c.train_loss, ":", color=colour, lw=1.0, alpha=0.7)
        middle.plot(own[0].curve.progress, own[0].curve.lr, color=groups[name], lw=1.4)
        bottom.plot(own[0].curve.progress, own[0].curve.momentum, color=groups[name], lw=1.4)
    held_out = [o.curve.held_out_loss for o in runs]
    least = min((float(np.nanmin(x)) for x in held_out if np.isfinite(x).any()), default=0.0)
    # A train loss near zero would press everything else flat: it may leave through the bottom.
    _limit(top, held_out + [np.maximum(o.curve.train_loss, 0.3 * least) for o in runs])
    top.set_ylabel("loss")
    middle.set_ylabel("lr")
    bottom.set(ylabel="momentum", xlabel="progress of the run")
    for axes in (top, middle, bottom):
        axes.set_xlim(0, 1.03)
    for axes in (top, middle):
        axes.tick_params(labelbottom=False)
    handles = [_line(groups[n], n.replace("_", " "), lw=2.0) for n in names]
    handles += [
        _line("#666666", "held-out loss", lw=1.2),
        _line("#666666", "train loss", ls=":", lw=1.2),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _new(columns: int, rows: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return a figure in our style without pyplot, so that nothing global is touched or kept."""
    from matplotlib.figure import Figure

    size = (6.4 if columns == 1 else 4.6 * columns, 4.2 if len(rows) == 1 else 6.2)
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    grid = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": list(rows)}
    )
    return figure, list(grid.flat)


def _empty(figure: Figure, axes: Axes) -> Figure:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No curves: nothing was trained here.", ha="center", color="#666666")
    return figure


def _curve(axes: Axes, x: Floats, o: Outcome, colour: str, thick: bool) -> None:
    loss, whole = o.curve.held_out_loss, o.state == "finished"
    mark = "." if len(loss) == 1 else None
    width, style = (2.0 if thick else 0.9), ("-" if whole else "--")
    axes.plot(x, loss, color=colour, lw=width, ls=style, marker=mark)


def _crosses(axes: Axes, ended: Iterable[tuple[Floats, Outcome, str]]) -> None:
    """Mark where a run was stopped; on the upper edge if it had left the picture."""
    top = axes.get_ylim()[1]
    for x, o, colour in ended:
        finite = np.flatnonzero(np.isfinite(o.curve.held_out_loss))
        if o.state != "finished" and len(finite):
            place = (x[finite[-1]], min(top, o.curve.held_out_loss[finite[-1]]))
            axes.plot(*place, "x", color=colour, ms=7, mew=1.8, clip_on=False, in_layout=False)


def _limit(axes: Axes, losses: Iterable[Floats]) -> None:
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
        _log_axis(axes)
        axes.set_ylim(low / 1.1, high * 1.1)
    else:
        room = 0.05 * max(high - low, 1e-9 + abs(low) * 1e-3)
        axes.set_ylim(low - room, high + room)


def _log_axis(axes: Axes) -> None:
    """Make the loss axis logarithmic, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(float(value))))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _rule_marks(axes: Axes, rules: Any) -> None:
    """Mark on the lower edge what each suggestion rule says; the legend names them."""
    marks = ("o", "s", "D", "^", "v", "P", "X", "*")
    shown = [(name, lr) for name, lr in dict(rules).items() if _positive(lr)]
    for i, (name, lr) in enumerate(shown):
        axes.plot(
            lr,
            0.03,
            marks[i % len(marks)],
            transform=axes.get_xaxis_transform(),
            color=COLOURS[(i + 1) % 6],
            ms=7,
            mec="white",
            label=f"{name.replace('_', ' ')}: {rate(float(lr))}",
            gid="rule",
        )


def _groups(runs: Sequence[Outcome], field: str | None) -> dict[str, str]:
    """Return a colour per candidate, in the order of their values."""
    named = {_group(o, field): _value(o, field) for o in runs}
    order = sorted(named, key=lambda n: (named[n] is None, named[n] or 0))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(order)}


def _group(o: Outcome, field: str | None) -> str:
    """Return a run's candidate: its value of `field`, or its label without the seed."""
    value = _value(o, field)
    if value is not None:
        return _text(value)
    return re.sub(r"[ ,]*\b(seed|replicate) \d+.*$", "", o.run.label) or o.run.kind


def _value(o: Outcome, field: str | None) -> float | None:
    value = o.run.params().get(field) if field else None
    return None if value is None else float(value)


def _text(value: Any) -> str:
    return rate(float(value)) if isinstance(value, int | float) else str(value)


def _legend(
    figure: Figure,
    groups: dict[str, str],
    runs: Sequence[Outcome],
    title: str | None,
    chosen: str | None,
) -> None:
    handles = [
        _line(
            colour,
            f"{name} (chosen)" if name == chosen else name,
            lw=2.4 if name == chosen else 1.4,
        )
        for name, colour in groups.items()
    ]
    if any(o.state != "finished" for o in runs):
        handles.append(_line("#666666", "stopped early", ls="--", marker="x"))
    figure.legend(
        handles=handles, title=title, loc="outside lower center", ncols=min(5, len(handles))
    )


def _line(colour: str, label: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, **style)


def _array(values: Any) -> Floats:
    return np.array([math.nan if v is None else v for v in values or ()], float)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
