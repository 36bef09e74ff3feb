"""A stage's section of the page: its decision, figure, numbers and runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.figures import Figure
from orchestrator.figures.clue_strip import clue_of
from orchestrator.figures.numbers import duration, number, rate
from orchestrator.recipe import Decision
from orchestrator.record import StageRecord
from orchestrator.report.page import Table
from orchestrator.report.text import columns, counts

MOST = 4  # sentences about single runs above the table, which has all of them


def section(stage: StageRecord, drawn: tuple[Figure, bytes] | None) -> dict[str, Any]:
    """Return the content of a stage's section; `drawn`: its figure with the PNG file."""
    states = counts(o.state for o in stage.outcomes)
    return {
        "decision": stage.decision,
        "ties": ", ".join(rate(v) for v in stage.decision.tied_with),
        "drawn": drawn,
        "numbers": _numbers(stage.decision),
        "sentences": _sentences(stage),
        "unstable": _mostly_unstable(stage),
        "runs": _runs(stage),
        "total": f"{states}, {duration(stage.seconds)} of training",
    }


def _numbers(decision: Decision) -> Table:
    """Return the rows of the decision's evidence."""
    rows = [row for row in decision.evidence.get("rows", ()) if isinstance(row, Mapping)]
    names = columns(rows)
    return Table(
        [str(n).replace("held_out", "held-out").replace("_", " ") for n in names],
        [[number(row.get(n)) for n in names] for row in rows],
        {i for i, n in enumerate(names) if _numeric(rows, n)},
    )


def _sentences(stage: StageRecord) -> list[str]:
    """Return why runs did not finish, then the clues of the others."""
    ended = [
        f"{o.run.name} was {o.state}: {o.reason or 'no reason given'}"
        for o in stage.outcomes
        if o.state != "finished"
    ]
    read = [
        f"{o.run.name}: {clue.reason}"
        for o in stage.outcomes
        if o.state == "finished" and (clue := clue_of(stage, o))
    ]
    said = list(dict.fromkeys(ended + read))
    said = _measured_on(stage) + said
    more = [f"and {len(said) - MOST} more, in the table of runs"] if len(said) > MOST else []
    return said[:MOST] + more


def _measured_on(stage: StageRecord) -> list[str]:
    """Return on what whole device times were measured, if a cluster has chosen it."""
    devices = sorted({str(d) for o in stage.outcomes if (d := o.result.measured.get("device"))})
    if not devices:
        return []
    kinds = "" if len(devices) == 1 else ", of more than one kind, so they differ for that too"
    return [f"times were measured on a whole device of the cluster: {'; '.join(devices)}{kinds}"]


def _mostly_unstable(stage: StageRecord) -> bool:
    """Whether more than half of the runs with a clue, at least three of them, were unstable."""
    labels = [clue.label for clue in stage.clues.values()]
    return len(labels) >= 3 and 2 * labels.count("unstable") > len(labels)


def _runs(stage: StageRecord) -> Table:
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
    return Table(head, rows, {3, 4, 5})


def _sentence(stage: StageRecord, o: Outcome) -> str:
    clue = clue_of(stage, o)
    return clue.reason if clue else ""


def _numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    return all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)
