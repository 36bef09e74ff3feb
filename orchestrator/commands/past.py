"""The commands `list`, `show` and `compare`: past studies, from their summary.json."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator.changes import differences, kept
from orchestrator.errors import ConfigError, nearest, one_line
from orchestrator.figures.numbers import DASH, duration, rate
from orchestrator.record import SCHEMA
from orchestrator.report.ending import cost
from orchestrator.report.terminal import Terminal
from orchestrator.report.text import measure, results, status
from orchestrator.storage.paths import StudyPaths

Summary = Mapping[str, Any]
# What the code below raises for an edited summary.json.
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
HEAD = ("study", "status", "when", "test result", "time", "answer")
WIDEST = 60  # characters of a column in `compare`
SHORT = {"max_lr": "lr", "max_momentum": "momentum", "weight_decay": "wd", "batch_size": "batch"}


class Unreadable(Exception):
    """A study's summary.json cannot be used; the message is the reason."""


def show_all(runs: Path) -> None:
    """Print a line for each study in `runs`, the latest last."""
    found = _studies(runs)
    if not found:
        print(f"no studies in {runs}/")
        return
    print_rows([HEAD, *map(row, sorted(found, key=_when))])


def show(runs: Path, name: str) -> None:
    """Print the closing lines of a study again."""
    paths = _find(runs, name)
    summary = _of(paths)
    try:
        Terminal().ending(summary, paths.folder)
    except DAMAGED as error:
        raise ConfigError(f"{paths.summary}: damaged ({one_line(error, named=True)})") from None


def compare(runs: Path, a: str, b: str) -> None:
    """Print two studies side by side; a * marks what differs."""
    both = [_find(runs, name) for name in (a, b)]
    summaries = [_of(paths) for paths in both]
    try:
        columns = [_facts(summary) for summary in summaries]
    except DAMAGED as error:
        raise ConfigError(
            f"{a} and {b}: a summary.json is damaged ({one_line(error, named=True)})"
        ) from None
    keys = list(dict.fromkeys(key for column in columns for key in column))
    names = (paths.folder.name for paths in both)
    print_rows([("", *names), *(_beside(key, *columns) for key in keys)])
    changed = differences(_config(both[0]), _config(both[1]))
    print("\nchanged settings" if changed else "\nthe settings are the same")
    for line in changed:
        print(f"  {line}")


def row(paths: StudyPaths) -> tuple[str, ...]:
    """Return a study's line in `list`; if its summary cannot be read, the reason is in it."""
    name = paths.folder.name
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(_when(paths)))
    try:
        summary = _read(paths)
        scores = results(summary)
        result = f"{measure(summary).removeprefix('test ')} {scores[0][1]}" if scores else DASH
        known = {short: summary["recipe"][key] for key, short in SHORT.items()}
        answer = ", ".join(f"{k} {rate(v)}" for k, v in known.items() if v is not None)
        spent = duration(summary["cost"]["total_seconds"])
        return (name, status(summary), when, result, spent, answer)
    except Unreadable as error:
        return (name, str(error), when, DASH, DASH, DASH)
    except DAMAGED:
        return (name, "damaged", when, DASH, DASH, DASH)


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print a table with columns as wide as their cells, which may have several lines."""
    widths = [max(map(len, "\n".join(column).split("\n"))) for column in zip(*rows, strict=True)]
    for cells in rows:
        for line in zip_longest(*(cell.split("\n") for cell in cells), fillvalue=""):
            text = "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True))
            print(text.rstrip())


def _studies(runs: Path) -> list[StudyPaths]:
    """Return the studies in `runs`: folders with a config.yaml."""
    found = map(StudyPaths, sorted(runs.iterdir()) if runs.is_dir() else [])
    return [paths for paths in found if paths.summary.is_file() or paths.config.is_file()]


def _when(paths: StudyPaths) -> float:
    return (paths.summary if paths.summary.exists() else paths.folder).stat().st_mtime


def _find(runs: Path, name: str) -> StudyPaths:
    known = {paths.folder.name: paths for paths in _studies(runs)}
    if name in known:
        return known[name]
    if not known:
        raise ConfigError(f"{name}: no such study: there is none in {runs}/ yet")
    hint = nearest(name, known) or "`list` names them"
    raise ConfigError(f"{name}: no such study in {runs}/; {hint}")


def _of(paths: StudyPaths) -> Summary:
    try:
        return _read(paths)
    except Unreadable as error:
        raise ConfigError(f"{paths.summary}: {error}") from None


def _read(paths: StudyPaths) -> Summary:
    """Return a study's summary. Raises Unreadable: not there, damaged, of another version."""
    try:
        found = json.loads(paths.summary.read_text("utf-8"))
    except FileNotFoundError:
        raise Unreadable("not finished") from None
    except (OSError, ValueError):
        raise Unreadable("damaged") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise Unreadable("damaged")
    if found["schema"] != SCHEMA:
        raise Unreadable(f"of another version (schema {found['schema']}, not {SCHEMA})")
    return found


def _facts(summary: Summary) -> dict[str, str]:
    """Return the rows of `compare`, by name."""
    facts = {"status": summary["status"]}
    facts |= {name: f"{measure(summary)} {score}" for name, score, _ in results(summary)}
    facts["cost"] = cost(summary)
    facts |= {k: rate(v) for k, v in summary["recipe"].items()}
    facts |= {f"stage {s['name']}": _wrapped(s["reason"]) for s in summary["stages"]}
    return facts


def _beside(key: str, a: Mapping[str, str], b: Mapping[str, str]) -> tuple[str, ...]:
    mark = "" if a.get(key) == b.get(key) else " *"
    return (key + mark, a.get(key, DASH), b.get(key, DASH))


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, WIDEST)) or DASH


def _config(paths: StudyPaths) -> Mapping[str, Any]:
    return {k: v for k, v in kept(paths.config).items() if k != "study_name"}
