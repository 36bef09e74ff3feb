"""Fills in the templates of the report; every value on the page passes through here.

Passwords and invisible characters are removed from each value (`finalize`), then it is escaped
(`autoescape`). Only `Markup` is not changed: our own files, base64, and the JSON of a figure, whose
texts are cleaned by `plots`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.figures.interactive import plots
from orchestrator.redact import clean


@dataclass(frozen=True)
class Table:
    """A table of texts. `numeric`: indices of the columns that are aligned to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Collection[int] = ()
    first_is_own: bool = False


def render(template: str, **values: Any) -> str:
    """Return a template filled in with `values`."""
    return templates().get_template(template).render(values)


@cache
def templates() -> Environment:
    """Return the templates of the report. An undefined name in a template raises."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["static"] = _static
    made.filters |= {"base64": _base64, "sha256": _sha256, "plots": plots}
    return made


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else clean(str(value))


def _static(name: str) -> Markup:
    """Return one of our own files, to be included unescaped."""
    return Markup((files(__package__) / "static" / name).read_text("utf-8"))


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode())


def _sha256(script: str) -> Markup:
    return _base64(hashlib.sha256(script.encode()).digest())
