"""The page of a report, made from `templates/`: all that is shown in it goes through here.

A value in a template loses passwords and hidden marks (`finalize`) and is then escaped
(`autoescape`). Only `Markup` stays as it is: files of our own, base64, and the JSON of a figure,
whose texts `plots` cleans.
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
    """A table of texts. `numeric`: numbers of the columns that are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Collection[int] = ()
    first_is_own: bool = False


def render(template: str, **values: Any) -> str:
    """Return a template filled in with `values`."""
    return templates().get_template(template).render(values)


@cache
def templates() -> Environment:
    """Return the templates of the report. A name that is not there raises."""
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
    """Return a file of our own, to stand in the page as it is."""
    return Markup((files(__package__) / "static" / name).read_text("utf-8"))


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode())


def _sha256(script: str) -> Markup:
    return _base64(hashlib.sha256(script.encode()).digest())
