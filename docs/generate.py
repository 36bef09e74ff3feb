"""Writes docs/config.md from the schema and docs/api.md from docstrings: `make docs`.

In config.md names, types, defaults and limits are those that check a config. Meanings are the text
after each field in `orchestrator/config/sections.py`, and the help of each option where a stage
declares it. For api.md see api_page.py.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import choices, schema, sections
from orchestrator.config.options import options_of
from orchestrator.pruners.optunas import OPTUNAS
from orchestrator.stages import STAGES

PAGE = Path(__file__).parent / "config.md"
HEAD = """\
# Every setting

Made from the schema by `make docs`. Any key can be given on the command line, as `KEY=VALUE`
(`stages.momentum.candidates=[0.95,0.9]`, in quotes where the shell needs them), in a file of
`conf/study/`, or to `Config.from_mapping`. `null` means none. Unknown keys are refused, and all
mistakes are reported at once. `model`, `data`, `objective` and stages may instead be your own:
`_target_: package.module.name` and its arguments.
"""
ALSO = """\
One of Optuna's pruners in addition to the clue rules, chosen as `pruner=NAME` (our values) or
`pruner.also.name=NAME` (Optuna's). See [pruning.md](pruning.md).\
"""
NAMES = {float: "number", int: "whole number", bool: "true or false", str: "text"}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
# What a validator function allows, for it cannot be read off.
WORDS = {
    "_folder_name": "letters, digits, `.`, `_`, `-`; at most 80",
    "_no_repeats": "no value twice",
}


def page() -> str:
    """Return the whole text of config.md."""
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    yield _section("The study", "", schema.Config, about="Keys at the top of the config.")
    for key, model in choices.SECTIONS.items():
        variants = choices.variants(key)
        if not variants:
            yield _section(f"`{key}`", f"{key}.", model)
        for name, made in variants.items():
            yield _section(f"`{key}={name}`", f"{key}.", made())
        if key == "objective":
            yield _section("`objective._target_`", f"{key}.", sections.OwnObjectiveConfig)
        if key == "pruner":
            yield _optunas()
    for kind, stage in STAGES.items():
        yield _section(f"`stages.{kind}`", f"stages.{kind}.", options_of(stage, "kind"))


def _section(title: str, prefix: str, model: type[BaseModel], about: str = "") -> str:
    source = getattr(model, "builds", model)
    about = about or " ".join((source.__doc__ or "").split("\n\n")[0].split())
    rows = [_row(f"{prefix}{name}", *field) for name, field in fields(model)]
    head = ["| key | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([f"## {title}", "", about, "", *([*head, *rows, ""] if rows else [])])


def fields(model: type[BaseModel]) -> Iterator[tuple[str, tuple[FieldInfo, str]]]:
    """Yield the name of each setting, its schema and its meaning; not what chose the model."""
    texts = _texts(model)
    parts = ("stages", *choices.SECTIONS) if model is schema.Config else ()
    for name, field in model.model_fields.items():
        only = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        chooses = name == "name" and (only or field.annotation is str)
        if name in (*parts, "kind") or chooses or field.alias == "_target_":
            continue
        yield name, (field, field.description or texts.get(name, ""))


def _row(key: str, field: FieldInfo, meaning: str) -> str:
    kind, limits = _told(Annotated[field.annotation, *field.metadata, ""])
    default = _value(field.get_default(call_default_factory=True))
    about = meaning.rstrip(".").replace("|", "\\|")
    return f"| `{key}` | {kind} | {default} | {limits} | {about} |"


def _optunas() -> str:
    """Return the section of Optuna's pruners: their arguments are documented by Optuna."""
    rows = []
    for name, cls in OPTUNAS.items():
        given = inspect.signature(cls).parameters.values()
        told = (
            f"`{p.name}`" + ("" if p.default is p.empty else f" {_value(p.default)}") for p in given
        )
        rows.append(f"| `{name}` | `{cls.__name__}` | {', '.join(told)} |")
    head = ["| pruner | in Optuna | its arguments and their defaults |", "| --- | --- | --- |"]
    return "\n".join(["## `pruner.also`", "", ALSO, "", *head, *rows, ""])


def _texts(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the text that stands after each field in the source of a class and of its bases."""
    bases = [b for b in model.__bases__ if issubclass(b, BaseModel) and b is not BaseModel]
    found = {name: text for base in bases for name, text in _texts(base).items()}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    except (OSError, TypeError):  # made at run time
        return found
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    for field, text in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _told(annotation: Any) -> tuple[str, str]:
    """Return the type and the limits of a field, in words."""
    limits: list[str] = []
    kind = _type(annotation, limits)
    return kind, ", ".join(dict.fromkeys(limits))


def _type(annotation: Any, limits: list[str]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind = _type(arguments[0], limits)
        for rule in arguments[1:]:
            limits += _limits(rule)
        return kind
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        kinds = [_type(a, limits) for a in inner]
        return " or ".join([*kinds, *(["null"] if len(inner) < len(arguments) else [])])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0], limits)}s"
    if annotation in NAMES:
        return NAMES[annotation]
    return "a mapping"


def _limits(rule: Any) -> list[str]:
    """Return what one piece of metadata demands."""
    told = [
        f"{sign} {_value(getattr(rule, name))}"
        for name, sign in SIGNS.items()
        if hasattr(rule, name)
    ]
    least = getattr(rule, "min_length", None)
    if least is not None:
        told.append("not empty" if least == 1 else f"at least {least}")
    if function := getattr(rule, "func", None):
        told += [WORDS[function.__name__]] if function.__name__ in WORDS else []
    for inner in getattr(rule, "metadata", ()):
        told += _limits(inner)
    return told


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if value == 2**63:
        return "2⁶³"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    import api_page

    PAGE.write_text(page(), encoding="utf-8")
    api_page.PAGE.write_text(api_page.page(), encoding="utf-8")
