"""report.html: one self-contained page that opens with the answer and then shows its evidence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.paths import StudyPaths
from orchestrator.record import StageRecord, StudyRecord
from orchestrator.report import figures
from orchestrator.report.elements import escape, table, to_copy
from orchestrator.report.figures import Figure
from orchestrator.report.figures.png import png
from orchestrator.report.page import page
from orchestrator.report.snippet import pytorch
from orchestrator.report.stage import section
from orchestrator.report.text import (
    audited,
    balance,
    command,
    counts,
    dropout,
    duration,
    measure,
    number,
    rate,
    results,
)

log = logging.getLogger(__name__)
DECAYS = {  # of an optimiser of the user's own it is not known
    "sgd": ", weight decay is coupled L2",
    "adamw": ", weight decay is decoupled: each step takes lr x weight_decay of the weights",
}
VERDICTS = {
    "complete": "",
    "undecided": "There is no answer: the data did not give one. What was decided so far is below.",
    "interrupted": "The study was interrupted and is not complete. The same command goes on.",
    "failed": "The study failed before it had an answer. What was decided so far is below.",
}


def write(record: StudyRecord, folder: Path) -> list[Path]:
    """Write figures/<stage>.png and report.html into `folder`, return their paths.

    A figure that cannot be drawn is left out and logged; the report is written all the same.
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
    """Return the figure of each stage that has one, and the same as a PNG file, by its name."""
    drawn = {}
    for stage in record.stages:
        try:
            if figure := figures.of(stage, record.metric):
                drawn[stage.decision.stage] = figure, png(figure)
        except Exception:
            log.exception("no figure of stage %s", stage.decision.stage)
    return drawn


def render(record: StudyRecord, drawn: Mapping[str, tuple[Figure, bytes]]) -> str:
    """Return the page; `drawn` are figures with their PNG files, by stage name."""
    summary = record.summary()
    parts = [
        _head(record),
        _answer(record, summary),
        *(section(s, drawn.get(s.decision.stage)) for s in record.stages),
        _cost(record, summary),
        _audits(record, summary),
        _reproduce(record),
    ]
    title = escape(f"Study {record.study}")
    return page(title, "\n".join(parts), figures=bool(drawn))


def _head(record: StudyRecord) -> str:
    status = f'<span class="status {record.status}">{record.status}</span>'
    lines = [f"<h1>Study {escape(record.study)} {status}</h1>"]
    lines.append(f'<p class="soft">{escape(record.device)}</p>')
    if verdict := VERDICTS[record.status]:
        lines.append(f'<p class="warn">{verdict}</p>')
    if record.reason:
        lines.append(f'<p class="warn">{escape(record.reason)}</p>')
    lines += [f'<p class="soft">{escape(note)}</p>' for note in record.notes]
    return "\n".join(lines)


def _answer(record: StudyRecord, summary: Mapping[str, Any]) -> str:
    complete = record.status == "complete"
    parts = [f"<h2>{'The answer' if complete else 'The recipe so far'}</h2>"]
    if scores := results(summary):
        parts.append(f'<p class="score">{escape(measure(summary))} {escape(scores[0][1])}</p>')
        parts.append(
            table(
                ("recipe", measure(summary), "the answer is"),
                [(name.replace("_", " "), score, verdict) for name, score, verdict in scores],
                first_is_own=True,
            )
        )
        parts.append(
            '<p class="soft">Mean ± standard deviation over n seeds, measured once on data that no'
            " decision saw. A tie: the difference is within two standard errors.</p>"
        )
    parts += ["<h3>Recipe</h3>", _recipe(record, summary)]
    parts.append(f'<p class="soft">{_price(record, summary["cost"])}</p>')
    if complete:
        parts.append("<h3>Train with it again</h3>")
        parts.append("<p>This trains and tests it, alone:</p>")
        parts.append(to_copy(command(summary), wrap=True))
    evidence: Mapping[str, Any] = record.final.decision.evidence if record.final else {}
    code = pytorch(record.recipe, evidence.get("epochs"), record.inputs, record.task)
    if complete and code:
        parts += ["<h3>The same recipe in plain PyTorch</h3>", to_copy(code)]
    parts.append(_balance(record, summary))
    return "\n".join(parts)


def _price(record: StudyRecord, cost: Mapping[str, Any]) -> str:
    """Say what the study spent and what it saved."""
    saved = f" Pruning saved {cost['pruned_saving']:.1%} of the planned training."
    return (
        f"Found in {duration(cost['total_seconds'])}, evaluation and waiting included: "
        f"{counts(o.state for o in record.outcomes)}, {cost['examples']:,} training examples."
        f"{saved if cost['pruned_saving'] else ''}"
    )


def _recipe(record: StudyRecord, summary: Mapping[str, Any]) -> str:
    """Return the recipe's table: each value, and which stage chose it."""
    setter: dict[str, StageRecord] = {}
    chosen: dict[str, Any] = {}
    for stage in record.stages:
        for field, value in stage.decision.values.items():
            if field not in chosen or chosen[field] != value:  # a later yes is not a choice
                chosen[field], setter[field] = value, stage
    rows = []
    for field, value in record.recipe.values().items():
        shown = "not known" if value is None else rate(value)
        if field == "dropout":
            shown = dropout(summary)
        origin = _origin(setter[field], field) if field in setter else "as configured"
        rows.append((field, shown, origin))
    return table(("", "value", "chosen by"), rows, numeric={1})


def _balance(record: StudyRecord, summary: Mapping[str, Any]) -> str:
    """Return what regularises and how: whoever changes one of them has to look at the others."""
    if not (parts := balance(summary)):
        return ""
    return (
        "<h3>Balance of regularisation</h3>"
        + table(("", "value", "regularises more when"), parts, numeric={1})
        + '<p class="soft">Raise one and the others must give way; the products of lr matter more'
        " than their factors. lr and momentum are per step"
        f"{DECAYS.get(record.recipe.optimizer, '')}.</p>"
    )


def _origin(stage: StageRecord, field: str) -> str:
    """Say which stage chose a value, and how clearly if it is what the stage is about."""
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


def _cost(record: StudyRecord, summary: Mapping[str, Any]) -> str:
    cost = summary["cost"]
    rows, seen = [], set[str]()
    for s in record.stages:
        new = [o for o in s.outcomes if o.key not in seen]
        seen.update(o.key for o in new)
        examples = sum(o.result.examples for o in new)
        spent = duration(sum(o.result.seconds for o in new))
        name = s.decision.stage.replace("_", " ")
        rows.append((name, counts(o.state for o in new), f"{examples:,}", spent))
    if record.audits:
        audit, states = cost["audit"], counts(a.end.state for a in record.audits)
        spent = duration(audit["training_seconds"])
        rows.append(("audit", states, f"{audit['examples']:,}", spent))
    states = counts(o.state for o in record.outcomes)
    rows.append(("all", states, f"{cost['examples']:,}", duration(cost["training_seconds"])))
    return (
        "<h2>What it cost</h2>"
        + table(("stage", "runs", "training examples", "training time"), rows, numeric={2, 3})
        + f"<p>{_price(record, cost)}</p>"
        + '<p class="soft">A run that several stages look at counts for the first of them.</p>'
    )


def _audits(record: StudyRecord, summary: Mapping[str, Any]) -> str:
    """Return what became of pruned runs that were let to their end, nothing without an audit."""
    if not record.audits:
        return ""
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
    return (
        f"<h2>Audit of the pruner</h2><p>{escape(audited(summary))}.</p>"
        + table(head, rows, numeric={1, 3, 4, 5})
        + '<p class="soft">Held-out losses; best: that of the best finished run of the same stage'
        " and length. The ends took no part in any decision.</p>"
    )


def _reproduce(record: StudyRecord) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        "<h2>How to reproduce it</h2>"
        "<p>The same command, with the config in <code>config.yaml</code> beside this file, the"
        " same versions and the same device. Every number of this page is in"
        " <code>summary.json</code> or in the Optuna storage beside it.</p>"
        f'<p class="soft">{escape(record.device)}{"; " if versions else ""}{escape(versions)}</p>'
    )
