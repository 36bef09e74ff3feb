"""What `lr_range_test` returns: numbers, curves, a figure, and how they read."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.curve import Floats
from orchestrator.recipe import Decision

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BRACKET, LINEAR, CHOSEN = "#999999", "#0072B2", "#009E73"  # Okabe and Ito's colours
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True, eq=False)
class Ramp:
    """One ramp: arrays of shape (points,), `lr` rising, losses in the loss's own unit.

    `train_loss`: mean since the last point. `smoothed`: the held-out loss as it is read. `shape` is
    "exponential" (the bracket) or "linear". Losses may end in NaN or inf: the ramp stopped there.
    """

    shape: str
    lr: Floats
    train_loss: Floats
    held_out_loss: Floats
    smoothed: Floats


@dataclass(frozen=True, eq=False)
class LRRangeResult:
    """The answer of a range test, or why there is none.

    `max_lr`, `min_lr` (a tenth of it): per step, None where not `answered`. `interval`: what the
    single ramps say. `reason`: one sentence with its numbers. `rules`: what every suggestion rule
    says (see `stages.suggest`), without a margin; None where its mark does not exist. `ramps`: all
    of them, in the order made. `initial_loss`: held-out loss before any training.
    """

    max_lr: float | None
    min_lr: float | None
    interval: tuple[float, float] | None
    answered: bool
    reason: str
    rules: Mapping[str, float | None]
    ramps: tuple[Ramp, ...] = field(repr=False)
    initial_loss: float

    @classmethod
    def of(cls, decision: Decision, initial_loss: float) -> LRRangeResult:
        """Build it from the decision of a stage `lr_range`."""
        return cls(
            max_lr=decision.values.get("max_lr"),
            min_lr=decision.values.get("min_lr"),
            interval=decision.interval,
            answered=decision.answered,
            reason=decision.reason,
            rules=dict(decision.evidence["rules"]),
            ramps=tuple(
                Ramp(r["shape"], *(np.array(r[f], float) for f in list(Ramp.__annotations__)[1:]))
                for r in decision.evidence["ramps"]
            ),
            initial_loss=initial_loss,
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw loss against lr, the interval and the rules' marks; return the axes.

        Thick: smoothed, which is read; thin: as measured; dotted: train loss. `ax` None: new axes,
        by pyplot, so that a notebook shows them. Needs matplotlib.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.figure(figsize=(7.0, 4.2), layout="constrained").add_subplot()
        labelled: set[str] = set()
        for ramp in self.ramps:
            colour = LINEAR if ramp.shape == "linear" else BRACKET
            name = f"held-out loss, {ramp.shape} ramp"
            label = {} if name in labelled else {"label": name}
            labelled.add(name)
            ax.plot(ramp.lr, ramp.smoothed, color=colour, lw=2, **label)  # type: ignore[arg-type]
            ax.plot(ramp.lr, ramp.held_out_loss, color=colour, lw=0.8, alpha=0.5)
            ax.plot(ramp.lr, ramp.train_loss, ":", color=colour, lw=0.8, alpha=0.6)
        ax.set_xscale("log")
        ax.set_ylim(*self._loss_range())
        if self.interval and self.max_lr:
            ax.axvspan(*self.interval, color=CHOSEN, alpha=0.18, lw=0)
            ax.axvline(self.max_lr, color=CHOSEN, lw=1.8, label=f"max_lr {self.max_lr:.3g}")
        self._mark_rules(ax)
        ax.set_xlabel("learning rate (per step)")
        ax.set_ylabel("loss")
        ax.set_title("LR range test" if self.answered else "LR range test: no answer", loc="left")
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax

    def _loss_range(self) -> tuple[float, float]:
        """Return limits of the loss axis: what blows up leaves through the top."""
        seen = np.concatenate([r.smoothed for r in self.ramps] or [np.ones(1)])
        seen = seen[np.isfinite(seen)]
        low = float(seen.min()) if len(seen) else 0.0
        high = 1.15 * self.initial_loss
        return min(0.95 * low, low - 0.03 * (high - low)), max(high, 1.05 * low)

    def _mark_rules(self, ax: Axes) -> None:
        shown = [(name, lr) for name, lr in self.rules.items() if lr is not None]
        for (name, lr), mark in zip(shown, MARKS, strict=False):
            ax.plot(
                lr,
                0.03,
                mark,
                transform=ax.get_xaxis_transform(),
                mec="white",
                ms=7,
                label=f"{name.replace('_', ' ')} {lr:.2g}",
            )

    def __str__(self) -> str:
        if self.max_lr is None or self.min_lr is None or self.interval is None:
            return self.reason
        low, high = self.interval
        return (
            f"max_lr {self.max_lr:.3g} ({low:.3g} to {high:.3g}), min_lr {self.min_lr:.3g}\n"
            f"{self.reason.partition(': ')[2]}\n{self._others()}"
        )

    def _others(self) -> str:
        marks = [f"{k.replace('_', ' ')} {v:.2g}" for k, v in self.rules.items() if v is not None]
        return f"rules, without a margin: {', '.join(marks)}"

    def _repr_html_(self) -> str:
        """Return the answer with its figure, for a notebook."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 4.2), layout="constrained", dpi=110)
        self.plot(figure.add_subplot())
        file = io.BytesIO()
        figure.savefig(file, format="png")
        picture = base64.b64encode(file.getvalue()).decode()
        first, *more = str(self).splitlines()
        text = "".join(f"<br>{html.escape(line)}" for line in more)
        return (
            f"<div><b>{html.escape(first)}</b>{text}<br>"
            f'<img alt="loss against learning rate" src="data:image/png;base64,{picture}"></div>'
        )
