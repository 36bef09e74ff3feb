"""The text of docs/api.md: the docstrings of the public names, as Markdown (see generate.py).

Docstrings have the sections of the Google style: Args, Attributes, Returns and Raises.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator import curve, errors, objectives, recipe, testing
from orchestrator.executors.inline import Watcher
from orchestrator.stages.stage import Stage
from orchestrator.study.watch import Listener
from orchestrator.tracking import Tracker

PAGE = Path(__file__).parent / "api.md"
HEAD = """\
# Python API

Made from the docstrings by `make docs`. [own.md](own.md) has examples of an objective and a stage
of your own, [pruning.md](pruning.md) of the pruner, [tutorial.md](tutorial.md) of `run_study`.
"""
GROUPS: Mapping[str, tuple[Any, ...]] = {
    "Run a study": (
        orchestrator.run_study,
        orchestrator.StudyRecord,
        orchestrator.ConfigError,
        errors.StorageError,
    ),
    "In your own training loop": (
        orchestrator.tune,
        orchestrator.Trial,
        orchestrator.trial_of,
        orchestrator.lr_range_test,
        orchestrator.LRRangeResult,
        orchestrator.Schedule,
        orchestrator.ScheduleLR,
        orchestrator.MuonAdamW,
    ),
    "In plain Optuna": (
        orchestrator.CluePruner,
        orchestrator.ClueRules,
        orchestrator.report_cycles,
    ),
    "Your own stage": (Stage, recipe.Facts, recipe.Recipe, recipe.Run, recipe.Decision),
    "Your own objective": (
        objectives.Objective,
        objectives.Session,
        objectives.StopRun,
        objectives.Description,
        curve.Point,
        curve.Result,
        curve.Outcome,
    ),
    "Callbacks": (Tracker, Watcher, Listener),
    "Tests of your own stage or objective": (
        testing.StageConformance,
        testing.FakeSession,
        testing.execute,
        testing.replay,
    ),
}
SECTIONS = ("Args", "Attributes", "Returns", "Raises")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):\n((?:(?: .*)?\n)+)", re.M)
_DOCTEST = re.compile(r"(?:^>>> (?:.+\n?)+)", re.M)


class _Plain(str):
    """An annotation that a signature prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def page() -> str:
    """Return the whole text of api.md."""
    groups = (f"## {title}\n\n" + "".join(map(_entry, names)) for title, names in GROUPS.items())
    return "\n".join([HEAD, *groups]).rstrip() + "\n"


def sections(thing: Any) -> dict[str, str]:
    """Return the text of a docstring by section, "" for the text before and between them."""
    text = inspect.cleandoc(thing.__doc__ or "") + "\n"
    found = {name: inspect.cleandoc(body) for name, body in _SECTION.findall(text)}
    return {"": _SECTION.sub("", text), **found}


def items(section: str) -> dict[str, str]:
    """Return the entries `name: text` of a section."""
    found = re.findall(r"^([\w.]+): (.*(?:\n .*)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in found}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class defines, also `__call__`."""
    for name, value in vars(cls).items():
        thing = getattr(value, "__func__", value)  # of a classmethod
        public = not name.startswith(("_", "test_")) or name == "__call__"
        if public and thing.__doc__ and (inspect.isfunction(thing) or isinstance(thing, property)):
            yield name, thing


def _entry(thing: Any) -> str:
    lines = [f"### `{thing.__name__}`\n"]
    parts = sections(thing)
    attributes = items(parts.get("Attributes", "")) or _declared(thing)
    if inspect.isfunction(thing) or "Args" in parts:
        module = "orchestrator" if hasattr(orchestrator, thing.__name__) else thing.__module__
        lines.append(_signature(f"{module}.{thing.__name__}", thing))
    lines.append(_text(parts, attributes, getattr(thing, "__annotations__", {})))
    if inspect.isclass(thing):
        for name, member in members(thing):
            lines += [f"#### `{thing.__name__}.{name}`\n"]
            lines += [_signature(name, member)] if inspect.isfunction(member) else []
            lines += [_text(sections(member), {}, {})]
    return "\n".join(lines) + "\n"


def _declared(thing: Any) -> dict[str, str]:
    """Return the help of options that are declared by `stages.stage.option`."""
    declared = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    return {f.name: f"{f.metadata['doc']} (default {f.default})" for f in declared if f.metadata}


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Return the signature as a block of code, a parameter per line if it is long."""
    found = inspect.signature(function)
    parameters = [
        p.replace(annotation=_Plain(p.annotation)) if isinstance(p.annotation, str) else p
        for p in found.parameters.values()
        if p.name not in ("self", "cls")
    ]
    returns = found.return_annotation
    none = inspect.isclass(function) or returns is found.empty
    returns = found.empty if none else _Plain(returns)
    text = f"{name}{found.replace(parameters=parameters, return_annotation=returns)}"
    if len(text) > 88:
        names: list[str] = []
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY and "*" not in names:
                names.append("*")
            names.append(str(p))
        end = "" if none else f" -> {returns}"
        text = "\n".join([f"{name}(", *(f"    {line}," for line in names), f"){end}"])
    return f"<!-- not run: a signature -->\n```python\n{text}\n```\n"


def _text(parts: Mapping[str, str], attributes: Mapping[str, str], types: Mapping[str, Any]) -> str:
    """Return the sections of a docstring as Markdown."""
    examples = _DOCTEST.findall(parts[""])
    lines = [_DOCTEST.sub("", parts[""]).strip(), ""]
    if entries := items(parts.get("Args", "")):
        lines += ["**Args**", "", *(_item(n, t, {}) for n, t in entries.items()), ""]
    if attributes:
        lines += ["**Attributes**", "", *(_item(n, t, types) for n, t in attributes.items()), ""]
    if "Returns" in parts:
        lines += ["**Returns**", "", parts["Returns"], ""]
    if entries := items(parts.get("Raises", "")):
        lines += ["**Raises**", "", *(_item(n, t, {}) for n, t in entries.items()), ""]
    for example in examples:
        lines += ["```pycon", example.strip(), "```", ""]
    return "\n".join(lines)


def _item(name: str, text: str, types: Mapping[str, Any]) -> str:
    kind = f" (`{types[name]}`)" if isinstance(types.get(name), str) else ""
    return f"- `{name}`{kind}: {text}"
