"""Figures of trained runs: candidates compared, batch sizes over time, the final runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.figures import clue_strip
from orchestrator.figures.figure import (
    Axis,
    Dash,
    Entry,
    Figure,
    Line,
    Mark,
    Panel,
    Span,
    plottable,
)
from orchestrator.figures.numbers import rate
from orchestrator.figures.style import (
    PROGRESS,
    SOFT,
    both_axis,
    colours,
    log_axis,
    loss_axis,
)
from orchestrator.record import StageRecord

NAMES = {
    "max_momentum": "max momentum",
    "weight_decay": "weight decay",
    "max_lr": "max lr",
    "batch_size": "batch size",
}
FINAL = ("answer", "range test only", "untuned")
STOPPED = Entry("stopped", "stopped early", SOFT, dash="dash", symbol="x")

SOLID: Dash = "solid"
DASHED: Dash = "dash"

X = Callable[[Outcome], Floats]
Name = Callable[[Outcome], str]


def curves(stage: StageRecord, metric: str | None = None) -> Figure | None:
    """Return held-out loss against progress, a panel per length of run, a colour per candidate.

    All seeds thin, the chosen candidate thick; pruned and failed runs dashed, with a cross at their
    end. Below: where in the runs their clues are. Candidates that were judged by range tests alone
    are drawn against lr.
    """
    field = stage.decision.evidence.get("field")
    trained = _trained(stage)
    runs = trained or [o for o in stage.outcomes if o.run.kind == "ramp" and len(o.curve)]
    if not runs:
        return None
    lengths = sorted({o.run.steps for o in runs})
    if len(lengths) > 3:  # more panels than fit: lengths differ for other reasons than the horizon
        lengths = []
    panels: list[list[Outcome]] = [[o for o in runs if o.run.steps == n] for n in lengths] or [runs]
    groups = _groups(runs, field)
    chosen = _text(stage.decision.values.get(field)) if field else None
    x: X = _progress if trained else _lr
    axis = PROGRESS if trained else log_axis("learning rate (per step)", map(x, runs))

    def name(o: Outcome) -> str:
        return _group(o, field)

    columns = []
    for panel in panels:
        y = loss_axis([o.curve.held_out_loss for o in panel])
        order = [o for n in groups for o in panel if name(o) == n]
        lines = [_line(o, x, groups[name(o)], name(o), name(o) == chosen) for o in order]
        title = f"{panel[0].run.steps} steps" if lengths else ""
        marks = _crosses(panel, x, y, name, groups)
        spans = () if trained else _at(stage.recipe.max_lr)
        columns.append(Panel(y, 3.6, title, tuple(lines), tuple(marks), spans))
    strips = clue_strip.strips(stage, panels, name, groups, x, axis)
    grid = tuple((p, *strip) for p, strip in zip(columns, strips, strict=True))
    title = NAMES.get(field, str(field)) if field else ""
    return Figure(axis, grid, _legend(groups, runs, chosen), title)


def batch_size(stage: StageRecord, metric: str | None = None) -> Figure | None:
    """Return loss and metric against training time, for timed runs of equal time."""
    trained = _trained(stage)
    timed = [o for o in trained if o.run.timed] or trained
    # A timing that was rejected was measured again: only the last attempt counts.
    runs = list({replace(o.run, attempt=0): o for o in timed}.values())
    if not runs:
        return None
    groups = colours(_text(s) for s in sorted({o.run.batch_size for o in runs}))
    chosen = _text(stage.decision.values.get("batch_size"))

    def name(o: Outcome) -> str:
        return _text(o.run.batch_size)

    y = loss_axis([o.curve.held_out_loss for o in runs])
    lines = [_line(o, _seconds, groups[name(o)], name(o), name(o) == chosen) for o in runs]
    marks = tuple(_crosses(runs, _seconds, y, name, groups))
    columns = [(Panel(y, lines=tuple(lines), marks=marks),)]
    if any(np.isfinite(o.curve.metric).any() for o in runs):
        own = tuple(replace(k, y=o.curve.metric) for k, o in zip(lines, runs, strict=True))
        columns.append((Panel(Axis(f"held-out {metric or 'metric'}"), lines=own),))
    axis = Axis("training time (s)")
    return Figure(axis, tuple(columns), _legend(groups, runs, chosen), "batch size")


def final(stage: StageRecord, metric: str | None = None) -> Figure | None:
    """Return the final runs, answer and baselines: losses above, lr and momentum below.

    At the bottom: where in the runs their clues are.
    """
    trained = _trained(stage)
    runs = [o for o in trained if o.run.opens_test] or trained
    if not runs:
        return None
    parts = {_part(o) for o in runs}
    names = [n for n in FINAL if n in parts] + sorted(parts - set(FINAL))
    groups = colours(names)
    order = [o for n in reversed(names) for o in runs if _part(o) == n]  # the answer on top
    y = both_axis([o.curve.held_out_loss for o in runs], [o.curve.train_loss for o in runs])
    losses = [line for o in order for line in _losses(o, groups[_part(o)])]
    marks = tuple(_crosses(runs, _progress, y, _part, groups))
    firsts = {_part(o): o for o in reversed(order)}.values()

    def settings(label: str, read: X) -> Panel:
        lines = [
            Line(o.curve.progress, read(o), groups[_part(o)], _part(o), (_part(o),), 1.4)
            for o in firsts
        ]
        return Panel(Axis(label), 1.1, lines=tuple(lines))

    [strip] = clue_strip.strips(stage, [runs], _part, groups, _progress, PROGRESS)
    column = (
        Panel(y, 3.4, lines=tuple(losses), marks=marks),
        settings("lr", _lr),
        settings("momentum", lambda o: o.curve.momentum),
        *strip,
    )
    legend = [Entry(n, n, c, 2.0) for n, c in groups.items()]
    legend += [
        Entry("held-out loss", "held-out loss", SOFT, 1.2),
        Entry("train loss", "train loss", SOFT, 1.2, "dot"),
    ]
    return Figure(PROGRESS, (column,), tuple(legend))


def _losses(o: Outcome, colour: str) -> Iterator[Line]:
    part = _part(o)
    held_out = _line(o, _progress, colour, part, part == "answer")
    yield replace(held_out, groups=(part, "held-out loss"))
    train = (part, "train loss")
    text = f"{o.run.name}, train loss"
    yield Line(o.curve.progress, o.curve.train_loss, colour, text, train, 1.0, "dot", 0.7)


def _trained(stage: StageRecord) -> list[Outcome]:
    return [o for o in stage.outcomes if o.run.kind == "train" and len(o.curve)]


def _progress(o: Outcome) -> Floats:
    return o.curve.progress


def _seconds(o: Outcome) -> Floats:
    return o.curve.seconds


def _lr(o: Outcome) -> Floats:
    return o.curve.lr


def _at(max_lr: float | None) -> tuple[Span, ...]:
    if max_lr is None or not plottable(max_lr):
        return ()
    return (Span(max_lr, max_lr, SOFT, f"max lr {rate(max_lr)}", "dash"),)


def _part(o: Outcome) -> str:
    """Return which recipe a final run trained: the answer or a baseline."""
    return o.run.label.split(" ")[0].replace("_", " ")


def _line(o: Outcome, x: X, colour: str, group: str, thick: bool) -> Line:
    whole = o.state == "finished"
    text = o.run.name if whole else f"{o.run.name}: {o.state}, {o.reason}"
    groups = (group,) if whole else (group, STOPPED.key)
    width, dash = (2.0 if thick else 0.9), SOLID if whole else DASHED
    return Line(x(o), o.curve.held_out_loss, colour, text, groups, width, dash)


def _crosses(
    runs: Iterable[Outcome],
    x: X,
    y: Axis,
    name: Name,
    groups: Mapping[str, str],
) -> Iterator[Mark]:
    """Mark where a run was stopped; on the upper edge if its loss is above the axis."""
    top = y.range[1] if y.range else np.inf
    for o in runs:
        finite = np.flatnonzero(np.isfinite(o.curve.held_out_loss))
        if o.state != "finished" and len(finite):
            last = finite[-1]
            loss = min(top, float(o.curve.held_out_loss[last]))
            text = f"{o.run.name}: {o.state}, {o.reason}"
            keys = (name(o), STOPPED.key)
            yield Mark(float(x(o)[last]), loss, "x", groups[name(o)], text, keys)


def _groups(runs: Sequence[Outcome], field: str | None) -> dict[str, str]:
    """Return a colour per candidate, in the order of their values."""
    named = {_group(o, field): _value(o, field) for o in runs}
    return colours(sorted(named, key=lambda n: (named[n] is None, named[n] or 0)))


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
    groups: Mapping[str, str], runs: Sequence[Outcome], chosen: str | None
) -> tuple[Entry, ...]:
    entries = [
        Entry(n, f"{n} (chosen)", c, 2.4) if n == chosen else Entry(n, n, c)
        for n, c in groups.items()
    ]
    if any(o.state != "finished" for o in runs):
        entries.append(STOPPED)
    return tuple(entries)
