"""Figures of trained runs: candidates beside each other, batch sizes in time, the final runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.record import StageRecord
from orchestrator.report.figures import clue_strip
from orchestrator.report.figures.style import (
    COLOURS,
    SOFT,
    empty,
    limit,
    limit_both,
    line,
    new,
    styled,
)
from orchestrator.report.text import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "max_momentum": "max momentum",
    "weight_decay": "weight decay",
    "max_lr": "max lr",
    "batch_size": "batch size",
}


@styled
def curves(stage: StageRecord) -> Figure:
    """Return held-out loss against progress, a panel per length of run, a colour per candidate.

    All seeds thin, the chosen candidate thick; pruned and failed runs dashed, a cross at their end.
    Beneath: where in the runs their clues stand.
    """
    field = stage.decision.evidence.get("field")
    runs = _trained(stage)
    lengths = sorted({o.run.steps for o in runs})
    if len(lengths) > 3:  # more panels than fit: lengths differ for other reasons than the horizon
        lengths = []
    panels: list[list[Outcome]] = [[o for o in runs if o.run.steps == n] for n in lengths] or [runs]
    groups = _groups(runs, field)
    found = [clue_strip.rows(stage, p, lambda o: _group(o, field), groups) for p in panels]
    figure, (row, *strips) = new(len(panels), (3.6, *clue_strip.height(*found)))
    if not runs:
        return empty(figure)
    chosen = _text(stage.decision.values.get(field)) if field else None
    for axes, panel in zip(row, panels, strict=True):
        for name, colour in groups.items():
            for o in (o for o in panel if _group(o, field) == name):
                _curve(axes, _progress(o), o, colour, thick=name == chosen)
        limit(axes, [o.curve.held_out_loss for o in panel])
        _crosses(axes, ((_progress(o), o, groups[_group(o, field)]) for o in panel))
        axes.set_xlim(0, 1.03)
        if lengths:
            axes.set_title(f"{panel[0].run.steps} steps")
        axes.set_xlabel("progress of the run")
    for axes, rows in zip(*strips, found, strict=True) if strips else ():
        axes.set_xlim(0, 1.03)
        clue_strip.draw(axes, rows, max(map(len, found)), groups, _progress)
    row[0].set_ylabel("held-out loss")
    title = NAMES.get(field, field) if field else None
    _legend(figure, groups, runs, title, chosen)
    return figure


@styled
def batch_size(stage: StageRecord, metric: str | None = None) -> Figure:
    """Return loss, and the metric beside it, against training time: timed runs of equal time."""
    trained = _trained(stage)
    timed = [o for o in trained if o.run.timed] or trained
    # A timing that was rejected was measured again: only the last attempt counts.
    runs = list({replace(o.run, attempt=0): o for o in timed}.values())
    shows_metric = any(np.isfinite(o.curve.metric).any() for o in runs)
    figure, [row] = new(2 if shows_metric else 1)
    if not runs:
        return empty(figure)
    sizes = sorted({o.run.batch_size for o in runs})
    groups = {_text(s): COLOURS[i % len(COLOURS)] for i, s in enumerate(sizes)}
    chosen = _text(stage.decision.values.get("batch_size"))
    for o in runs:
        name = _text(o.run.batch_size)
        _curve(row[0], o.curve.seconds, o, groups[name], thick=name == chosen)
        if shows_metric:
            width = 2.0 if name == chosen else 0.9
            row[1].plot(o.curve.seconds, o.curve.metric, color=groups[name], lw=width)
    limit(row[0], [o.curve.held_out_loss for o in runs])
    _crosses(row[0], ((o.curve.seconds, o, groups[_text(o.run.batch_size)]) for o in runs))
    row[0].set_title("held-out loss")
    if shows_metric:
        row[1].set_title(f"held-out {metric or 'metric'}")
    for axes in row:
        axes.set_xlabel("training time (s)")
    _legend(figure, groups, runs, "batch size", chosen)
    return figure


@styled
def final(stage: StageRecord) -> Figure:
    """Return the final runs: losses above, lr and momentum beneath, answer against baselines.

    Beneath: where in the runs their clues stand.
    """
    trained = _trained(stage)
    runs = [o for o in trained if o.run.opens_test] or trained
    order = ("answer", "range test only", "untuned")
    parts = {_part(o) for o in runs}
    names = [n for n in order if n in parts] + sorted(parts - set(order))
    groups = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    found = clue_strip.rows(stage, runs, _part, names)
    figure, rows = new(1, (3.4, 1.1, 1.1, *clue_strip.height(found)))
    if not runs:
        return empty(figure)
    top, middle, bottom, *strip = (axes for [axes] in rows)
    for name in reversed(names):  # the answer on top
        own = [o for o in runs if _part(o) == name]
        for o in own:
            colour, c = groups[name], o.curve
            _curve(top, c.progress, o, colour, thick=name == "answer")
            top.plot(c.progress, c.train_loss, ":", color=colour, lw=1.0, alpha=0.7)
        middle.plot(own[0].curve.progress, own[0].curve.lr, color=groups[name], lw=1.4)
        bottom.plot(own[0].curve.progress, own[0].curve.momentum, color=groups[name], lw=1.4)
    limit_both(top, [o.curve.held_out_loss for o in runs], [o.curve.train_loss for o in runs])
    top.set_ylabel("loss")
    middle.set_ylabel("lr")
    bottom.set(ylabel="momentum", xlabel="progress of the run")
    for axes in (top, middle, bottom, *strip):
        axes.set_xlim(0, 1.03)
    for axes in (top, middle):
        axes.tick_params(labelbottom=False)
    for axes in strip:
        clue_strip.draw(axes, found, len(found), groups, _progress)
    handles = [line(groups[n], n, lw=2.0) for n in names]
    handles += [
        line(SOFT, "held-out loss", lw=1.2),
        line(SOFT, "train loss", ls=":", lw=1.2),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _trained(stage: StageRecord) -> list[Outcome]:
    return [o for o in stage.outcomes if o.run.kind == "train" and len(o.curve)]


def _progress(o: Outcome) -> Floats:
    return o.curve.progress


def _part(o: Outcome) -> str:
    """Return which of the final recipes a run trained: the answer or a baseline."""
    return o.run.label.split(" ")[0].replace("_", " ")


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
        line(
            colour,
            f"{name} (chosen)" if name == chosen else name,
            lw=2.4 if name == chosen else 1.4,
        )
        for name, colour in groups.items()
    ]
    if any(o.state != "finished" for o in runs):
        handles.append(line(SOFT, "stopped early", ls="--", marker="x"))
    lines = -(-len(handles) // 5)  # at most five beside each other, and no line of one
    columns = -(-len(handles) // max(1, lines))
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=max(1, columns))
