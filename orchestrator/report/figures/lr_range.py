"""The figure of the LR range test."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.curve import Floats
from orchestrator.record import StageRecord
from orchestrator.report.figures.style import COLOURS, SOFT, empty, limit_both, line, new, styled
from orchestrator.report.text import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
CHOSEN, CHOSEN_TEXT = COLOURS[2], "#00664a"


@styled
def lr_range(stage: StageRecord) -> Figure:
    """Return held-out and train loss against lr of every ramp, with the rates that were read off.

    Thin: as measured. Thick: smoothed, from which max_lr is read. Lines: max lr and min lr; shaded:
    from the lowest to the highest max lr that single ramps say. Marks at the bottom: what other
    rules would say.
    """
    figure, [[axes]] = new(1)
    evidence, decision = stage.decision.evidence, stage.decision
    drawn: dict[str, list[Floats]] = defaultdict(list)
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
            drawn[name].append(loss)
    if not drawn:
        return empty(figure)
    axes.set_xscale("log")
    limit_both(axes, drawn["held_out_loss"] + drawn["smoothed"], drawn["train_loss"])
    if decision.interval:
        axes.axvspan(*decision.interval, color=CHOSEN, alpha=0.18, lw=0)
    _rate_line(axes, "max lr", decision.values.get("max_lr"), "-")
    _rate_line(axes, "min lr", decision.values.get("min_lr"), "--")
    _rule_marks(axes, evidence)
    handles = [
        line(COLOURS[0], "linear ramp, held-out loss smoothed", lw=2.0),
        line(COLOURS[7], "exponential ramp", lw=2.0),
        line(SOFT, "held-out loss as measured", lw=0.8),
        line(SOFT, "train loss", ls=":", lw=1.0),
    ]
    if decision.interval:
        handles.append(line(CHOSEN, "max lr, ramp by ramp", lw=6, alpha=0.3))
    handles += [h for h in axes.get_lines() if h.get_gid() == "rule"]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    axes.set(xlabel="learning rate (per step)", ylabel="loss")
    return figure


def _rate_line(axes: Axes, name: str, lr: Any, style: str) -> None:
    if not _positive(lr):
        return
    axes.axvline(lr, color=CHOSEN, lw=1.8, ls=style)
    axes.annotate(
        f"{name} {rate(float(lr))}",
        (lr, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5, -5),
        textcoords="offset points",
        ha="right",
        va="top",
        color=CHOSEN_TEXT,
        weight="bold",
    )


def _rule_marks(axes: Axes, evidence: Mapping[str, Any]) -> None:
    """Mark at the lower edge what each suggestion rule says; the legend names them."""
    chosen = {row.get("rule") for row in evidence.get("rows", ()) if row.get("chosen") == "yes"}
    shown = [(name, lr) for name, lr in dict(evidence.get("rules", {})).items() if _positive(lr)]
    levels = _levels([lr for _, lr in shown], *axes.get_xlim())
    for i, ((name, lr), level) in enumerate(zip(shown, levels, strict=True)):
        axes.plot(
            lr,
            0.04 + 0.06 * level,
            MARKS[i % len(MARKS)],
            transform=axes.get_xaxis_transform(),
            color=COLOURS[(i + 1) % 6],
            ms=7,
            mec="white",
            label=f"{name.replace('_', ' ')}: {rate(float(lr))}" + " (chosen)" * (name in chosen),
            gid="rule",
        )


def _levels(lrs: Sequence[float], low: float, high: float) -> list[int]:
    """Return the lowest row for each mark in which it covers no other."""
    width = 0.03 * math.log(high / low)
    levels: list[int] = []
    for i, lr in enumerate(lrs):
        taken = {levels[k] for k in range(i) if abs(math.log(lr / lrs[k])) < width}
        levels.append(next(n for n in range(i + 1) if n not in taken))
    return levels


def _array(values: Any) -> Floats:
    return np.array([math.nan if v is None else v for v in values or ()], float)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
