"""The strip below loss curves that shows where in each run its clue is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.clues import GRAVITY, Clue, Label
from orchestrator.curve import Floats, Outcome
from orchestrator.figures.figure import Axis, Bar, Panel, Words
from orchestrator.record import StageRecord

QUIET: tuple[Label, ...] = ("horizontal", "short")  # the goal, and too few points: not shown
ROW, HEAD, MOST = 0.16, 0.2, 10  # inches of a row and of the title; rows at most
LEAST, ROOM = 0.012, 0.42  # shares of the axis: the shortest bar, the width of words on a phone


class Row(NamedTuple):
    """The runs of one candidate that have the same clue; `of`: how many runs it has."""

    name: str
    label: Label
    runs: Sequence[tuple[Outcome, Clue]]
    of: int


def clue_of(stage: StageRecord, o: Outcome) -> Clue | None:
    """Return the clue of a run; None where its end is horizontal, or the curve too short."""
    clue = stage.clues.get(o.key)
    return clue if clue and clue.label not in QUIET else None


def rows(
    stage: StageRecord,
    outcomes: Sequence[Outcome],
    name: Callable[[Outcome], str],
    names: Iterable[str],
) -> list[Row]:
    """Return the runs that have a clue to show by candidate and label, in the order of `names`.

    If there are more than ten such rows, the ten most serious.
    """
    found: dict[tuple[str, Label], list[tuple[Outcome, Clue]]] = defaultdict(list)
    for o in outcomes:
        if clue := clue_of(stage, o):
            found[name(o), clue.label].append((o, clue))
    of, order = Counter(map(name, outcomes)), list(names)
    made = [Row(who, label, runs, of[who]) for (who, label), runs in found.items()]
    gravest = sorted(made, key=lambda row: GRAVITY.index(row.label))[:MOST]
    return sorted(gravest, key=lambda row: order.index(row.name))


def strips(
    stage: StageRecord,
    panels: Sequence[Sequence[Outcome]],
    name: Callable[[Outcome], str],
    colours: Mapping[str, str],
    x: Callable[[Outcome], Floats],
    axis: Axis,
) -> list[tuple[Panel, ...]]:
    """Return what is below each panel: one strip, or none if no clue is shown at all.

    A row per candidate and label, a bar per run from the clue's first step to its last. The text
    beside them names the clue and counts the runs.
    """
    found = [rows(stage, panel, name, colours) for panel in panels]
    most = max(map(len, found), default=0)
    return [(_strip(r, most, colours, x, axis),) if most else () for r in found]


def _strip(
    found: Sequence[Row],
    most: int,
    colours: Mapping[str, str],
    x: Callable[[Outcome], Floats],
    axis: Axis,
) -> Panel:
    """Return a strip of `most` rows; bars of several seeds overlap."""
    bars, words = [], []
    for i, row in enumerate(found):
        for o, clue in row.runs:
            low, high = _span(o, clue, x(o), axis)
            text = f"{o.run.label}: {clue.reason}"
            bars.append(Bar(i, low, high, colours[row.name], text, (row.name,)))
        many = f", {len(row.runs)} of {row.of}" if row.of > 1 else ""
        own = [bar for bar in bars if bar.row == i]
        first, last = min(bar.low for bar in own), max(bar.high for bar in own)
        place, left = _beside(axis, first, last)
        words.append(Words(i, place, f"{row.name}: {row.label}{many}", left))
    title = "clues: where in the run, in how many runs" if found else ""
    height = HEAD + ROW * most
    return Panel(Axis(), height, title, rows=most, bars=tuple(bars), words=tuple(words))


def _beside(axis: Axis, first: float, last: float) -> tuple[float, bool]:
    """Return the place of the text beside bars, and whether it ends there instead of beginning.

    It is placed where it fits; otherwise at an end of the axis, overlapping the bars least.
    """
    before, after = _fraction(axis, first), 1 - _fraction(axis, last)
    if max(before, after) < ROOM:
        return (axis.at(0), False) if before > after else (axis.at(1), True)
    return (first, True) if before > after else (last, False)


def _span(o: Outcome, clue: Clue, x: Floats, axis: Axis) -> tuple[float, float]:
    """Return where a clue begins and ends on the axis, wide enough to be visible."""
    first, last = np.searchsorted(o.curve.step, (clue.first_step, clue.last_step))
    start, end = float(x[min(first, len(x) - 1)]), float(x[min(last, len(x) - 1)])
    least = _fraction(axis, end) - LEAST
    return (start, end) if _fraction(axis, start) <= least else (axis.at(least), end)


def _fraction(axis: Axis, value: float) -> float:
    """Return the fraction of the axis at which a value is: the inverse of `Axis.at`."""
    assert axis.range is not None
    low, high = np.log(axis.range) if axis.log else axis.range
    return float(((np.log(value) if axis.log else value) - low) / (high - low))
