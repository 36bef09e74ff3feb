"""Messages about a wrong config: one line for each mistake, with its path and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import nearest
from orchestrator.redact import hidden

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V")
RENAMED = {  # keys of 0.1 and their new names
    "least_steps": "min_steps",
    "most_steps": "max_steps",
    "least_drop": "min_drop",
    "most_seeds": "max_seeds",
    "lr_margin": "lr_factor",
    "margin": "lr_factor",
    "largest": "max_size",
    "most": "max_sizes",
}


def shown(value: Any) -> str:
    """Return `value` as one short line."""
    text = hidden(" ".join(repr(value).split()))
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_of(allowed: Iterable[object], word: object) -> str:
    """Return "must be one of ...", with the nearest ones to a misspelt `word`."""
    names = [str(name) for name in allowed]
    hint = nearest(word, names)
    return f"must be one of {', '.join(names)}" + (f"; {hint}" if hint else "")


_MUST = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list in square brackets",
    "list_type": "a list in square brackets",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "none_required": "null",
}


def _must(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] in _MUST:
        return f"must be {_MUST[error['type']].format(**context)}"
    if error["type"] == "literal_error":
        return f"must be one of {context['expected']}".replace("'", "")
    if error["type"] == "value_error":
        return str(context["error"])
    return error["msg"][:1].lower() + error["msg"][1:]


def _found(data: Any, where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the part of `where` that exists in `data`; pydantic appends the names of types."""
    path: list[int | str] = []
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)


def problems(error: ValidationError, model: type[BaseModel], data: Any, path: str) -> list[str]:
    """Return one line for each wrong key or value: where, what it is, what is allowed."""
    keys = [f.alias or name for name, f in model.model_fields.items()]
    lines: dict[str, list[str]] = {}
    for detail in error.errors():
        where = detail["loc"]
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # only because members are wrong, which have their own lines
        if detail["type"] == "extra_forbidden":
            what, must = "unknown key", _known_key(keys, where[-1])
        elif detail["type"] == "missing":
            what, must = "missing", "must be given"
        else:
            where = _found(data, where)
            what, must = f"{shown(detail['input'])} is not allowed", _must(detail)
        head = f"{'.'.join(filter(None, [path, *map(str, where)]))}: {what}: "
        lines.setdefault(head, []).append(must)
    # One value may break several rules: each member of a union reports its own.
    return [head + " or ".join(dict.fromkeys(musts)) for head, musts in lines.items()]


def _known_key(keys: list[str], word: int | str) -> str:
    """Return the allowed keys, or the new name of a renamed key."""
    new = RENAMED.get(str(word))
    return f"it is now {new}" if new in keys else one_of(keys, word)


def read(model: type[M], data: Any, path: str, lines: list[str]) -> M | None:
    """Return `data` as a `model`; None, and `lines` longer, if it is wrong."""
    if data is None:  # an empty section in YAML
        data = {}
    if not isinstance(data, Mapping):
        lines.append(f"{path}: {shown(data)} is not allowed: must be a mapping of keys to values")
        return None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines.extend(problems(error, model, data, path))
        return None


def choose(
    table: Mapping[str, V], given: Mapping[str, Any], key: str, path: str, lines: list[str]
) -> V | None:
    """Return the entry of `table` that `given[key]` names; None, and `lines` longer, if none is."""
    name = given[key]
    if isinstance(name, str) and name in table:
        return table[name]
    lines.append(f"{path}.{key}: {shown(name)} is not allowed: {one_of(table, name)}")
    return None
