"""report.html: one self-contained page, first the answer and then its evidence."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import figures
from orchestrator.figures import Figure
from orchestrator.figures.numbers import duration, number, rate
from orchestrator.figures.png import png
from orchestrator.record import StageRecord, StudyRecord
from orchestrator.report import page
from orchestrator.report.page import Table
from orchestrator.report.snippet import pytorch
from orchestrator.report.stage import section
from orchestrator.report.text import (
    audited,
    balance,
    command,
    counts,
    dropout,
    measure,
    more,
    results,
)
from orchestrator.storage.paths import StudyPaths

log = logging.getLogger(__name__)
DECAYS = {  # not known for a user's own optimiser
    "sgd": ", weight decay is coupled L2",
    "adamw": ", weight decay is decoupled: each step takes lr x weight_decay of the weights",
    "muon": ", weight decay is decoupled: each step takes lr x weight_decay of the weights",
}
VERDICTS = {
    "complete": "",
    "undecided": "There is no answer: the data do not determine one. Decisions so far are below.",
    "interrupted": "The study was interrupted. Run the same command to resume.",
    "failed": "The study failed before it had an answer. Decisions so far are below.",
}


def write(record: StudyRecord, folder: Path) -> list[Path]:
    """Write figures/<stage>.png and report.html into `folder`, return their paths.

    A figure that cannot be drawn is left out and logged.
    """
    paths, drawn = StudyPaths(folder), drawings(record)
    files = []
    for name, (_, picture) in drawn.items():
        path = paths.figures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        files.append(path)
    paths.report.write_text(render(record, drawn), encoding="utf-8")
    return [paths.report, *files]


def drawings(record: StudyRecord) -> dict[str, tuple[Figure, bytes]]:
    """Return the figure of each stage that has one, with its PNG file, by stage name."""
    drawn = {}
    for stage in record.stages:
        try:
            if figure := figures.of(stage, record.metric):
                drawn[stage.decision.stage] = figure, png(figure)
        except Exception:
            log.exception("no figure of stage %s", stage.decision.stage)
    return drawn


def render(record: StudyRecord, drawn: Mapping[str, tuple[Figure, bytes]]) -> str:
    """Return the page; `drawn`: figures with their PNG files, by stage name."""
    summary = record.summary()
    return page.render(
        "page.html",
        record=record,
        warnings=[line for line in (VERDICTS[record.status], record.reason) if line],
        answer=_answer(record, summary),
        stages=[section(s, drawn.get(s.decision.stage)) for s in record.stages],
        cost=_cost(record, summary["cost"]),
        price=_price(record, summary["cost"]),
        more=more(summary),
        audits=_audits(record),
        audited=audited(summary),
        versions=", ".join(f"{name} {version}" for name, version in record.versions.items()),
        figures=bool(drawn),
    )


def _answer(record: StudyRecord, summary: Mapping[str, Any]) -> dict[str, Any]:
    complete = record.status == "complete"
    has_code = complete and not record.own_loop
    epochs = record.final.decision.evidence.get("epochs") if record.final else None
    scores = [(name.replace("_", " "), score, said) for name, score, said in results(summary)]
    head = ("recipe", measure(summary), "the answer is")
    return {
        "complete": complete,
        "measure": measure(summary),
        "scores": Table(head, scores, first_is_own=True),
        "recipe": Table(("", "value", "chosen by"), list(_recipe(record, summary)), {1}),
        "command": command(summary) if complete else "",
        "code": pytorch(record.recipe, epochs, record.inputs, record.task) if has_code else None,
        "balance": Table(("", "value", "regularises more when"), balance(summary), {1}),
        "decay": DECAYS.get(record.recipe.optimizer, ""),
    }


def _price(record: StudyRecord, cost: Mapping[str, Any]) -> str:
    """Return what the study cost and what pruning saved."""
    saved = f" Pruning saved {cost['pruned_saving']:.1%} of the planned training."
    return (
        f"Found in {duration(cost['total_seconds'])}, evaluation and waiting included: "
        f"{counts(o.state for o in record.outcomes)}, {cost['examples']:,} training examples."
        f"{saved if cost['pruned_saving'] else ''}"
    )


def _recipe(record: StudyRecord, summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each field of the recipe, its value, and which stage chose it."""
    setter: dict[str, StageRecord] = {}
    chosen: dict[str, Any] = {}
    for stage in record.stages:
        for field, value in stage.decision.values.items():
            if field not in chosen or chosen[field] != value:  # a later confirmation is no choice
                chosen[field], setter[field] = value, stage
    for field, value in record.recipe.values().items():
        shown = "not known" if value is None else rate(value)
        if field == "dropout":
            shown = dropout(summary)
        yield field, shown, _origin(setter[field], field) if field in setter else "as configured"


def _origin(stage: StageRecord, field: str) -> str:
    """Return which stage chose a value, with ties and interval if it is the stage's main value."""
    d = stage.decision
    parts = [d.stage]
    if field != next(iter(d.values)):
        return d.stage
    if d.incumbent_kept:
        parts.append("kept")
    if d.tied_with:
        parts.append(f"tie with {', '.join(rate(v) for v in d.tied_with)}")
    elif d.interval and d.interval[0] < d.interval[1]:
        parts.append(f"range {rate(d.interval[0])} to {rate(d.interval[1])}")
    return ", ".join(parts)


def _cost(record: StudyRecord, cost: Mapping[str, Any]) -> Table:
    """Return the cost of each stage; a run that several stages share counts for the first one."""
    rows, seen, trained = [], set[str](), {o.key for o in record.trained}
    for s in record.stages:
        new = [o for o in s.outcomes if o.key not in seen]
        seen.update(o.key for o in new)
        paid = [o for o in new if o.key in trained]
        examples = sum(o.result.examples for o in paid)
        spent = duration(sum(o.result.seconds for o in paid))
        name = s.decision.stage.replace("_", " ")
        price = _in_final_runs(record.final_runs.get(s.decision.stage))
        rows.append((name, counts(o.state for o in new), price, f"{examples:,}", spent))
    if record.audits:
        audit, states = cost["audit"], counts(a.end.state for a in record.audits)
        spent = duration(audit["training_seconds"])
        rows.append(("audit", states, "", f"{audit['examples']:,}", spent))
    states = counts(o.state for o in record.outcomes)
    price = _in_final_runs(cost["final_runs"])
    rows.append(("all", states, price, f"{cost['examples']:,}", duration(cost["training_seconds"])))
    heads = ("stage", "runs", "in final runs", "training examples", "training time")
    return Table(heads, rows, {2, 3, 4})


def _in_final_runs(price: float | None) -> str:
    return "" if price is None else f"{price:.2f}"


def _audits(record: StudyRecord) -> Table:
    """Return the audited runs; no rows without an audit."""
    rows = [
        (
            a.pruned.run.name,
            f"{100 * a.pruned.curve.progress[-1]:.0f} %",
            a.pruned.reason,
            number(float(a.pruned.curve.held_out_loss[-1])),
            number(a.end.held_out_loss),
            number(a.best),
            "wrong" if a.wrong else "right, but close" if a.near else "right",
        )
        for a in record.audits
    ]
    head = ("run", "pruned at", "because", "loss then", "loss at its end", "best", "pruned")
    return Table(head, rows, {1, 3, 4, 5})
