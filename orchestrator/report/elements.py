"""The pieces of the page: text that stays text, tables, blocks to copy, figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape as escaped

from orchestrator.figures.figure import Entry, Figure
from orchestrator.figures.interactive import plots
from orchestrator.redact import hidden

# Marks that turn the direction of text, and control characters: they make a page show another text
# than it holds.
TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNSEEN = dict.fromkeys((*range(9), *range(14, 32), 127, *TURNING), "?")
# What would end a script element, or a string in one, inside JSON.
IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
DASHES = {"solid": "", "dash": "5 3", "dot": "2 2"}
SHAPES = {
    "circle": "M12 2a4 4 0 1 0 .01 0z", "square": "M8 2h8v8h-8z", "diamond": "M12 1l5 5-5 5-5-5z",
    "triangle-up": "M12 1l5 9h-10z", "triangle-down": "M12 11l5-9h-10z",
    "cross": "M10 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "star": "M12 0l1.6 4h4l-3.2 2.6 1.2 4.4-3.6-2.6-3.6 2.6 1.2-4.4-3.2-2.6h4z",
}  # fmt: skip


def clean(text: str) -> str:
    """Return `text` without passwords and hidden marks; markup in it is left as it is."""
    return hidden(text).translate(UNSEEN)


def escape(text: str) -> str:
    """Return `text` as it may stand in the page: no markup, no passwords, no hidden marks."""
    return escaped(clean(text))


def table(
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


def to_copy(text: str, *, wrap: bool = False) -> str:
    """Return a block of code with a button that copies it."""
    kind = ' class="wrap"' if wrap else ""
    button = '<button class="copy" type="button">Copy</button>'
    return f'<div class="copied"><pre{kind}>{escape(text)}</pre>{button}</div>'


def figure(drawing: Figure, png: bytes, words: str) -> str:
    """Return a figure: its interactive plots, legend and data, and the picture that is printed.

    `words` describe it to who cannot see it.
    """
    one = " one" if len(drawing.columns) == 1 else ""
    boxes = '<div class="plot"></div>' * len(drawing.columns)
    data = json.dumps(plots(drawing, clean)).translate(IN_SCRIPT)
    title = f"<span>{escape(drawing.legend_title)}</span>" if drawing.legend_title else ""
    hides = {g for column in drawing.columns for panel in column for g in panel.groups}
    entries = "".join(_entry(entry, entry.key in hides) for entry in drawing.legend)
    image = base64.b64encode(png).decode()
    return (
        f'<figure><div class="plots{one}">{boxes}</div>'
        f'<div class="legend">{title}{entries}</div>'
        f'<img alt="{escape(words)}" src="data:image/png;base64,{image}">'
        f'<script type="application/json">{data}</script></figure>'
    )


def _entry(entry: Entry, hides: bool) -> str:
    """Return an entry of a legend: a button that hides what it names and shows it again.

    What belongs to the whole picture cannot be hidden.
    """
    colour = "currentColor" if entry.colour == "#000000" else entry.colour
    if entry.symbol in SHAPES:
        mark = f'<path d="{SHAPES[entry.symbol]}" fill="{colour}"/>'
    else:
        dash = f' stroke-dasharray="{DASHES[entry.dash]}"' if DASHES[entry.dash] else ""
        mark = (
            f'<path d="M1 6h22" stroke="{colour}" stroke-width="{1.3 * entry.width:g}"{dash}'
            f' opacity="{entry.alpha}"/>'
        )
        if entry.symbol == "x":
            mark += f'<path d="M8 2l8 8m0-8l-8 8" stroke="{colour}" stroke-width="2"/>'
    drawn = f'<svg width="24" height="12" aria-hidden="true">{mark}</svg>'
    off = "" if hides else " disabled"
    return f'<button type="button" aria-pressed="true"{off}>{drawn}{escape(entry.label)}</button>'
