"""The figure of the LR range test (Smith 2018, section 4.1): losses and accuracy against log lr."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from orchestrator.curve import Outcome
from orchestrator.figures.figure import (
    Axis,
    Dash,
    Entry,
    Figure,
    Line,
    Mark,
    Panel,
    Span,
    Symbol,
    plottable,
)
from orchestrator.figures.numbers import rate
from orchestrator.figures.style import COLOURS, SOFT, both_axis, log_axis
from orchestrator.recipe import Decision
from orchestrator.record import StageRecord
from orchestrator.stages.suggest import smooth

SYMBOLS: tuple[Symbol, ...] = get_args(Symbol)
CHOSEN = COLOURS[2]
# A ramp's curves by name: width, dash, alpha, legend key.
LOOKS: dict[str, tuple[float, Dash, float, str]] = {
    "train_loss": (1.0, "dot", 0.6, "train loss"),
    "held_out_loss": (0.8, "solid", 0.5, "measured"),
    "smoothed": (2.0, "solid", 1.0, "smoothed"),
}


def lr_range(stage: StageRecord, metric: str | None = None) -> Figure | None:
    """Return the losses of every ramp against lr, with the metric below if there is one."""
    figure = losses(stage.decision, stage.outcomes)
    metrics = tuple(
        Line(o.curve.lr, o.curve.metric, _colour(_linear(o)), o.run.label, (_shape(_linear(o)),))
        for o in stage.outcomes
        if o.run.kind == "ramp" and np.isfinite(o.curve.metric).any()
    )
    if figure is None or not metrics:
        return figure
    [[panel]] = figure.columns
    plain = tuple(replace(span, text="") for span in panel.spans)
    scores = Panel(Axis(f"held-out {metric or 'metric'}"), 1.5, lines=metrics, spans=plain)
    return replace(figure, columns=((panel, scores),))


def losses(decision: Decision, outcomes: Sequence[Outcome]) -> Figure | None:
    """Return the losses of every ramp against lr in one panel, with max_lr and min_lr.

    Thin: as measured. Thick: smoothed, which the rules read. Circles: the losses at the ends of
    short cycles by their max_lr, if these decided. Lines: max lr and min lr; shaded: the interval
    of max lr. Marks at the bottom: results of other rules. None without a point.
    """
    evidence = decision.evidence
    ramps = [o for o in outcomes if o.run.kind == "ramp" and len(o.curve)]
    cycles, circles = _cycles(outcomes)
    lines = [*(line for ramp in ramps for line in _ramp(ramp)), *cycles]
    if not lines:
        return None
    x = log_axis("learning rate (per step)", (line.x for line in lines))
    train = [line.y for line in lines if line.dash == "dot"]
    y = both_axis([line.y for line in lines if line.dash != "dot"], train)
    marks = tuple(_rules(evidence, x, y))
    spans = tuple(_spans(decision))
    panel = Panel(y, 3.4, lines=tuple(lines), marks=(*circles, *marks), spans=spans)
    entries = [
        *([Entry("linear", "linear ramps", _colour(True), 2.0)] * any(map(_linear, ramps))),
        Entry("exponential", "exponential ramp", _colour(False), 2.0),
        Entry("smoothed", "held-out loss, smoothed", SOFT, 2.0),
        Entry("measured", "held-out loss as measured", SOFT, 0.8),
        Entry("train loss", "train loss", SOFT, 1.0, "dot"),
    ]
    if cycles:
        entries.append(Entry("cycles", "end of a short cycle, by its max lr", CHOSEN, 2.0))
    if decision.interval:
        text = "max lr, half-way to its neighbours" if cycles else "max lr, ramp by ramp"
        entries.append(Entry("interval", text, CHOSEN, 6, alpha=0.3))
    rules = [Entry(m.text, m.text, m.colour, symbol=m.symbol) for m in marks]
    return Figure(x, ((panel,),), (*entries, *rules))


def _ramp(ramp: Outcome) -> Iterator[Line]:
    linear, curve = _linear(ramp), ramp.curve
    curves = {
        "train_loss": curve.train_loss,
        "held_out_loss": curve.held_out_loss,
        "smoothed": smooth(curve.held_out_loss),
    }
    for name, (width, dash, alpha, key) in LOOKS.items():
        text = f"{_shape(linear)} ramp, {key if name == 'train_loss' else f'held-out, {key}'}"
        groups = (_shape(linear), key)
        yield Line(curve.lr, curves[name], _colour(linear), text, groups, width, dash, alpha)


def _cycles(outcomes: Sequence[Outcome]) -> tuple[list[Line], list[Mark]]:
    """Return a line through the ends of the last short cycles, and a circle at each."""
    cycles = [o for o in outcomes if o.run.kind == "train"]
    ends = sorted(
        (o.run.schedule.max_lr, o.held_out_loss)
        for o in cycles
        if o.run.steps == cycles[-1].run.steps and math.isfinite(o.held_out_loss)
    )
    if not ends:
        return [], []
    lr, loss = np.array(ends).T
    text, groups = f"ends of cycles of {cycles[-1].run.steps} steps", ("cycles",)
    circles = [
        Mark(float(x), float(y), "circle", CHOSEN, f"cycle to lr {rate(float(x))}", groups)
        for x, y in zip(lr, loss, strict=True)
    ]
    return [Line(lr, loss, CHOSEN, text, groups, 2.0)], circles


def _linear(o: Outcome) -> bool:
    return o.run.schedule.name == "range_test"


def _shape(linear: bool) -> str:
    return "linear" if linear else "exponential"


def _colour(linear: bool) -> str:
    return COLOURS[0] if linear else COLOURS[7]


def _spans(decision: Decision) -> Iterator[Span]:
    if decision.interval:
        yield Span(*decision.interval, CHOSEN)
    dashes: dict[str, Dash] = {"max_lr": "solid", "min_lr": "dash"}
    for name, dash in dashes.items():
        lr = decision.values.get(name)
        if plottable(lr):
            text = f"{name.replace('_', ' ')} {rate(float(lr))}"
            yield Span(float(lr), float(lr), CHOSEN, text, dash)


def _rules(evidence: Mapping[str, Any], x: Axis, y: Axis) -> Iterator[Mark]:
    """Mark the lr of each suggestion rule at the lower edge; the legend names them."""
    if x.range is None or y.range is None:
        return
    used = {row.get("rule") for row in evidence.get("rows", ()) if row.get("used")}
    shown = [(name, lr) for name, lr in dict(evidence.get("rules", {})).items() if plottable(lr)]
    levels = _levels([lr for _, lr in shown], *x.range)
    for i, ((name, lr), level) in enumerate(zip(shown, levels, strict=True)):
        text = f"{name.replace('_', ' ')}: {rate(float(lr))}" + " (used)" * (name in used)
        symbol, colour = SYMBOLS[i % len(SYMBOLS)], COLOURS[(i + 1) % 6]
        yield Mark(float(lr), y.at(0.04 + 0.06 * level), symbol, colour, text, (text,))


def _levels(lrs: Sequence[float], low: float, high: float) -> list[int]:
    """Return for each mark the lowest row in which it covers no other."""
    width = 0.03 * math.log(high / low)
    levels: list[int] = []
    for i, lr in enumerate(lrs):
        taken = {levels[k] for k in range(i) if abs(math.log(lr / lrs[k])) < width}
        levels.append(next(n for n in range(i + 1) if n not in taken))
    return levels
