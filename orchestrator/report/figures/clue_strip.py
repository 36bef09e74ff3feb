"""The strip beneath curves that shows where in a run its clue stands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from orchestrator import clues
from orchestrator.clues import Clue, Label
from orchestrator.curve import Floats, Outcome
from orchestrator.record import StageRecord
from orchestrator.report.figures.style import SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUIET = ("", "horizontal", "short")  # the goal, and nothing to say
ROW, HEAD, MOST = 0.16, 0.2, 10  # inches of a row and of the title; rows at most


class Row(NamedTuple):
    """The runs of one candidate that have the same clue; `of`: how many runs it has."""

    name: str
    label: Label
    runs: Sequence[tuple[Outcome, Clue]]
    of: int


def clue_of(stage: StageRecord, o: Outcome) -> Clue | None:
    """Return the gravest clue of a run, with its steps and sentence.

    None where there is nothing to tell: the end is horizontal, or the curve too short.
    """
    label = stage.clues.get(o.key, "")
    if label in QUIET or not len(o.curve):
        return None
    # The record names the clue but not the chance loss: a run starts near it.
    found = clues.segments(o.curve, float(o.curve.held_out_loss[0]))
    end = int(o.curve.step[-1])
    named = (clue for clue in found if clue.label == label)
    return next(named, None) or Clue(cast(Label, label), end, end, o.reason)


def rows(
    stage: StageRecord,
    outcomes: Sequence[Outcome],
    name: Callable[[Outcome], str],
    names: Iterable[str],
) -> list[Row]:
    """Return the runs that have a clue to show by candidate and label, in the order of `names`.

    If there are more than ten such rows, the ten gravest.
    """
    found: dict[tuple[str, Label], list[tuple[Outcome, Clue]]] = defaultdict(list)
    for o in outcomes:
        if clue := clue_of(stage, o):
            found[name(o), clue.label].append((o, clue))
    of, order = Counter(map(name, outcomes)), list(names)
    made = [Row(who, label, runs, of[who]) for (who, label), runs in found.items()]
    gravest = sorted(made, key=lambda row: clues.GRAVITY.index(row.label))[:MOST]
    return sorted(gravest, key=lambda row: order.index(row.name))


def height(*panels: Sequence[Row]) -> tuple[float, ...]:
    """Return the height in inches of the strips beneath panels: none where no clue is shown."""
    count = max((len(panel) for panel in panels), default=0)
    return (HEAD + ROW * count,) if count else ()


def draw(
    axes: Axes,
    found: Sequence[Row],
    most: int,
    colours: Mapping[str, str],
    x: Callable[[Outcome], Floats],
) -> None:
    """Draw a row per candidate and label: a bar per run, from the clue's first step to its last.

    `most`: rows that there is room for. `x`: where the points of a run stand on the x axis, whose
    limits are set. Bars of several seeds lie over each other; the text beside them names the clue
    and counts them.
    """
    axes.set_axis_off()  # the x axis is that of the curves above
    if not found:
        return
    axes.set_ylim(most - 0.5, -0.5)
    axes.set_title("clues: where in the run", fontsize=8, color=SOFT)
    low, high = axes.get_xlim()
    for i, row in enumerate(found):
        spans = [_span(o, clue, x(o), least=0.012 * (high - low)) for o, clue in row.runs]
        for start, end in spans:
            axes.barh(i, end - start, 0.7, start, color=colours[row.name], alpha=0.55, lw=0)
        many = f", {len(row.runs)} of {row.of} runs" if row.of > 1 else ""
        text = f"{row.name}: {row.label}{many}"
        first, last = min(s for s, _ in spans), max(e for _, e in spans)
        gap = 0.01 * (high - low)
        if high - last > first - low:  # on the side with more room
            axes.text(last + gap, i, text, va="center", fontsize=8, clip_on=False)
        else:
            axes.text(first - gap, i, text, va="center", ha="right", fontsize=8)


def _span(o: Outcome, clue: Clue, x: Floats, least: float) -> tuple[float, float]:
    first, last = np.searchsorted(o.curve.step, (clue.first_step, clue.last_step))
    start, end = float(x[min(first, len(x) - 1)]), float(x[min(last, len(x) - 1)])
    return (start, end) if end - start >= least else (end - least, end)
