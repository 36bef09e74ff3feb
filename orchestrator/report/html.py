"""report.html: one self-contained page that opens with the answer and then shows its evidence."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from html import escape as escaped
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.curve import Outcome
from orchestrator.record import StageRecord, StudyRecord
from orchestrator.redact import hidden
from orchestrator.report import figures
from orchestrator.report.figures.clue_strip import clue_of
from orchestrator.report.page import PAGE
from orchestrator.report.snippet import pytorch
from orchestrator.report.text import (
    audited,
    balance,
    columns,
    command,
    counts,
    duration,
    measure,
    number,
    rate,
    results,
)

log = logging.getLogger(__name__)
VERDICTS = {
    "complete": "",
    "undecided": "There is no answer: the data did not give one. What was decided so far is below.",
    "interrupted": "The study was interrupted and is not complete. The same command goes on.",
    "failed": "The study failed before it had an answer. What was decided so far is below.",
}

# Marks that turn the direction of text, and control characters: they make a page show another text
# than it holds.
TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNSEEN = dict.fromkeys((*range(9), *range(14, 32), 127, *TURNING), "?")


def escape(text: str) -> str:
    """Return `text` as it may stand in the page: no markup, no passwords, no hidden marks."""
    return escaped(hidden(text)).translate(UNSEEN)


def write(record: StudyRecord, folder: Path) -> list[Path]:
    """Write figures/<stage>.png and report.html into `folder`, return their paths.

    A figure that cannot be drawn is left out and logged; the report is written all the same.
    """
    pictures = {}
    for stage in record.stages:
        if any(len(o.curve) for o in stage.outcomes) and (png := _draw(stage, record.metric)):
            pictures[stage.decision.stage] = png
    files = []
    for name, png in pictures.items():
        path = folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        files.append(path)
    page = folder / "report.html"
    page.write_text(render(record, pictures), encoding="utf-8")
    return [page, *files]


def render(record: StudyRecord, pictures: Mapping[str, bytes]) -> str:
    """Return the page; `pictures` are PNG files by stage name."""
    parts = [
        _head(record),
        _answer(record),
        *(_stage(s, pictures.get(s.decision.stage)) for s in record.stages),
        _cost(record),
        _audits(record),
        _reproduce(record),
    ]
    return PAGE.substitute(title=escape(f"Study {record.study}"), body="\n".join(parts))


def _draw(stage: StageRecord, metric: str | None) -> bytes | None:
    data = io.BytesIO()
    try:
        with np.errstate(over="ignore"):  # losses of 1e200 on a logarithmic axis
            figures.of(stage, metric).savefig(data, format="png")
    except Exception:
        log.exception("no figure of stage %s", stage.decision.stage)
        return None
    return data.getvalue()


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


def _answer(record: StudyRecord) -> str:
    complete, summary = record.status == "complete", record.summary()
    parts = [f"<h2>{'The answer' if complete else 'The recipe so far'}</h2>"]
    if scores := results(summary):
        parts.append(f'<p class="score">{escape(measure(summary))} {escape(scores[0][1])}</p>')
        parts.append(
            _table(
                ("recipe", measure(summary), "the answer is"),
                [(name.replace("_", " "), score, verdict) for name, score, verdict in scores],
                first_is_own=True,
            )
        )
        parts.append(
            '<p class="soft">Mean ± standard deviation over n seeds, measured once on data that no'
            " decision saw. A tie: the difference is within two standard errors.</p>"
        )
    parts += ["<h3>Recipe</h3>", _recipe(record)]
    if complete:
        parts.append("<h3>Train with it again</h3>")
        parts.append("<p>This trains and tests it, alone:</p>")
        parts.append(f'<pre class="wrap">{escape(command(summary))}</pre>')
    evidence: Mapping[str, Any] = record.final.decision.evidence if record.final else {}
    if complete and (code := pytorch(record.recipe, evidence.get("epochs"))):
        parts.append(
            "<details><summary>The same recipe in plain PyTorch, to paste</summary>"
            f"<pre>{escape(code)}</pre></details>"
        )
    return "\n".join(parts)


def _recipe(record: StudyRecord) -> str:
    """Return the recipe's table: each value, and which stage chose it."""
    setter: dict[str, StageRecord] = {}
    chosen: dict[str, Any] = {}
    for stage in record.stages:
        for field, value in stage.decision.values.items():
            if field not in chosen or chosen[field] != value:  # a later yes is not a choice
                chosen[field], setter[field] = value, stage
    rows = []
    for field, value in record.recipe.values().items():
        unset = "the model's own" if field == "dropout" else "not known"
        shown = rate(value) if value is not None else unset
        origin = _origin(setter[field], field) if field in setter else "as configured"
        rows.append((field, shown, origin))
    return _table(("", "value", "chosen by"), rows, numeric={1}) + _balance(record)


def _balance(record: StudyRecord) -> str:
    """Return what regularises and how: whoever changes one of them has to look at the others."""
    if not (parts := balance(record.summary())):
        return ""
    return (
        "<h3>Balance of regularisation</h3>"
        + _table(("", "value", "regularises more when"), parts, numeric={1})
        + '<p class="soft">Raise one and the others must give way; the products of lr matter more'
        " than their factors. lr and momentum are per step, weight decay is coupled L2.</p>"
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


def _stage(stage: StageRecord, picture: bytes | None) -> str:
    d = stage.decision
    parts = [f"<h2>{escape(d.stage.replace('_', ' '))}</h2>"]
    mark = "" if d.answered else ' class="warn"'
    parts.append(f"<p{mark}>{escape(d.reason)}</p>")
    if picture:
        data = base64.b64encode(picture).decode()
        width = int.from_bytes(picture[16:20], "big") / figures.DPI  # inches, from the PNG's header
        parts.append(
            f'<figure style="width:{100 * width:.0f}px"><img alt="{escape(d.stage)}:'
            f' {escape(d.reason)}" style="min-width:{56 * width:.0f}px"'
            f' src="data:image/png;base64,{data}"></figure>'
        )
    rows = [row for row in d.evidence.get("rows", ()) if isinstance(row, Mapping)]
    if rows:
        names = columns(rows)
        numbers = {i for i, n in enumerate(names) if _numeric(rows, n)}
        parts.append(
            _table(
                [str(n).replace("held_out", "held-out").replace("_", " ") for n in names],
                [tuple(number(row.get(n)) for n in names) for row in rows],
                numeric=numbers,
            )
        )
    parts.append(_runs(stage))
    return "\n".join(parts)


def _runs(stage: StageRecord) -> str:
    if not stage.outcomes:
        return '<p class="soft">Nothing was run.</p>'
    head = ("run", "state", "clue", "held-out loss", "metric", "seconds", "reason")
    rows = [
        (
            o.run.label or o.run.kind,
            o.state,
            stage.clues.get(o.key, ""),
            number(float(o.curve.held_out_loss[-1])) if len(o.curve) else number(None),
            number(o.metric if math.isfinite(o.metric) else None),
            number(o.result.seconds, 3),
            o.reason or _sentence(stage, o),
        )
        for o in stage.outcomes
    ]
    states = counts(o.state for o in stage.outcomes)
    title = f"{states}, {duration(stage.seconds)} of training"
    table = _table(head, rows, numeric={3, 4, 5})
    return f"<details><summary>{escape(title)}</summary>{table}</details>"


def _sentence(stage: StageRecord, o: Outcome) -> str:
    clue = clue_of(stage, o)
    return clue.reason if clue else ""


def _cost(record: StudyRecord) -> str:
    cost = record.summary()["cost"]
    rows = [
        (
            s.decision.stage.replace("_", " "),
            counts(o.state for o in s.outcomes),
            f"{s.examples:,}",
            duration(s.seconds),
        )
        for s in record.stages
    ]
    if record.audits:
        audit, states = cost["audit"], counts(a.end.state for a in record.audits)
        spent = duration(audit["training_seconds"])
        rows.append(("audit", states, f"{audit['examples']:,}", spent))
    states = counts(o.state for o in record.outcomes)
    rows.append(("all", states, f"{cost['examples']:,}", duration(cost["training_seconds"])))
    saved = f" Pruning saved {cost['pruned_saving']:.1%} of the planned training."
    return (
        "<h2>What it cost</h2>"
        + _table(("stage", "runs", "training examples", "training time"), rows, numeric={2, 3})
        + f"<p>{duration(cost['total_seconds'])} in all, evaluation and waiting included."
        + f"{saved if cost['pruned_saving'] else ''}</p>"
    )


def _audits(record: StudyRecord) -> str:
    """Return what became of pruned runs that were let to their end, nothing without an audit."""
    if not record.audits:
        return ""
    rows = [
        (
            a.pruned.run.label or a.pruned.run.kind,
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
        f"<h2>Audit of the pruner</h2><p>{escape(audited(record.summary()))}.</p>"
        + _table(head, rows, numeric={1, 3, 4, 5})
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


def _numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    return all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: set[int] | None = None,
    first_is_own: bool = False,
) -> str:
    """Return a table that scrolls by itself where the page is narrow; everything is escaped."""
    marks = ["n" if i in (numeric or ()) else "" for i in range(len(head))]
    cells = [(f' class="{m}"' if m else "") for m in marks]
    lines = ["".join(f"<th{c}>{escape(h)}</th>" for c, h in zip(cells, head, strict=True))]
    lines += [
        "".join(f"<td{c}>{escape(v)}</td>" for c, v in zip(cells, row, strict=True)) for row in rows
    ]
    body = "".join(
        f"<tr{' class=own' if first_is_own and i == 1 else ''}>{line}</tr>"
        for i, line in enumerate(lines)
    )
    return f'<div class="scroll"><table>{body}</table></div>'
