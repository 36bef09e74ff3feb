"""A stage's section of the page: its decision, figure, numbers, and what became of its runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.figures import Figure
from orchestrator.figures.clue_strip import clue_of
from orchestrator.numbers import duration, number, rate
from orchestrator.record import StageRecord
from orchestrator.report.elements import escape, figure, table
from orchestrator.report.text import columns, counts

PAIRED = (
    "Held-out loss is the geometric mean over the seeds; the difference to the incumbent is that"
    " over the seeds that both have."
)
UNSTABLE = (
    "Most runs here jumped on their way: usual near the largest rate that still trains, and no"
    " fault where they end well. If their ends scatter too (the noise above), half of"
    " recipe.max_lr or more held-out examples (data.held_out_examples) calm them."
)
MOST = 4  # sentences about single runs before the table; all of them stand in it


def section(stage: StageRecord, drawn: tuple[Figure, bytes] | None) -> str:
    """Return the section of a stage; `drawn` is its figure and the same as a PNG file."""
    d = stage.decision
    parts = [f"<h2>{escape(d.stage.replace('_', ' '))}</h2>"]
    mark = "" if d.answered else ' class="warn"'
    parts.append(f"<p{mark}>{escape(d.reason)}</p>")
    if d.tied_with:
        ties = ", ".join(rate(v) for v in d.tied_with)
        parts.append(f'<p class="soft">Tied with it, within noise: {escape(ties)}.</p>')
    if drawn:
        parts.append(figure(*drawn, f"{d.stage}: {d.reason}"))
    rows = [row for row in d.evidence.get("rows", ()) if isinstance(row, Mapping)]
    if rows:
        names = columns(rows)
        parts.append(
            table(
                [str(n).replace("held_out", "held-out").replace("_", " ") for n in names],
                [tuple(number(row.get(n)) for n in names) for row in rows],
                numeric={i for i, n in enumerate(names) if _numeric(rows, n)},
            )
        )
        if "against incumbent" in names:
            parts.append(f'<p class="soft">{PAIRED}</p>')
    return "\n".join([*parts, _told(stage), _runs(stage)])


def _told(stage: StageRecord) -> str:
    """Return what runs said by how they ended or by their shape: the gravest first."""
    said = list(dict.fromkeys(_sentences(stage)))
    if not said:
        return ""
    more = f"and {len(said) - MOST} more, in the table of runs"
    shown = said[:MOST] + ([more] if len(said) > MOST else [])
    words = f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in shown)}</ul>"
    return words + f'<p class="soft">{UNSTABLE}</p>' * _mostly_unstable(stage)


def _mostly_unstable(stage: StageRecord) -> bool:
    """Whether more than half of the runs whose clue is known, three at least, were unstable."""
    labels = [clue.label for clue in stage.clues.values()]
    return len(labels) >= 3 and 2 * labels.count("unstable") > len(labels)


def _sentences(stage: StageRecord) -> Iterator[str]:
    ended = [o for o in stage.outcomes if o.state != "finished"]
    for o in ended:
        yield f"{o.run.name} was {o.state}: {o.reason or 'no reason was given'}"
    for o in stage.outcomes:
        if o.state == "finished" and (clue := clue_of(stage, o)):
            yield f"{o.run.name}: {clue.reason}"


def _runs(stage: StageRecord) -> str:
    if not stage.outcomes:
        return '<p class="soft">Nothing was run.</p>'
    head = ("run", "state", "clue", "held-out loss", "metric", "seconds", "reason")
    rows = [
        (
            o.run.name,
            o.state,
            stage.clues[o.key].label if o.key in stage.clues else "",
            number(float(o.curve.held_out_loss[-1])) if len(o.curve) else number(None),
            number(o.metric if math.isfinite(o.metric) else None),
            number(o.result.seconds, 3),
            o.reason or _sentence(stage, o),
        )
        for o in stage.outcomes
    ]
    states = counts(o.state for o in stage.outcomes)
    title = f"{states} looked at, {duration(stage.seconds)} of training"
    runs = table(head, rows, numeric={3, 4, 5})
    return f"<details><summary>{escape(title)}</summary>{runs}</details>"


def _sentence(stage: StageRecord, o: Outcome) -> str:
    clue = clue_of(stage, o)
    return clue.reason if clue else ""


def _numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    return all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)
