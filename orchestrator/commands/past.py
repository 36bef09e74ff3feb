"""Past studies, from their summary.json: all of them, one again, two side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator.changes import differences, kept
from orchestrator.errors import ConfigError, nearest, one_line
from orchestrator.record import SCHEMA
from orchestrator.report.ending import cost
from orchestrator.report.terminal import Terminal
from orchestrator.report.text import DASH, duration, measure, rate, results, status
from orchestrator.study.results import CONFIG, SUMMARY

Summary = Mapping[str, Any]
# What a summary.json that somebody has changed makes the code below raise.
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
HEAD = ("study", "status", "when", "test result", "time", "answer")
WIDEST = 60  # characters of a column in `compare`
SHORT = {"max_lr": "lr", "max_momentum": "momentum", "weight_decay": "wd", "batch_size": "batch"}


class Unreadable(Exception):
    """A study's summary.json cannot be used; the text says why."""


def show_all(runs: Path) -> None:
    """Print a line for each study in `runs`, the latest last."""
    folders = [f for f in _studies(runs) if f.is_dir()]
    if not folders:
        print(f"no studies in {runs}/")
        return
    print_rows([HEAD, *map(row, sorted(folders, key=_when))])


def show(runs: Path, name: str) -> None:
    """Print the closing lines of a study again."""
    folder = _find(runs, name)
    summary = _of(folder)
    try:
        Terminal().ending(summary, folder)
    except DAMAGED as error:
        raise ConfigError(
            f"{folder / 'summary.json'}: damaged ({one_line(error, named=True)})"
        ) from None


def compare(runs: Path, a: str, b: str) -> None:
    """Print two studies side by side; a * marks what differs."""
    folders = [_find(runs, name) for name in (a, b)]
    summaries = [_of(folder) for folder in folders]
    try:
        columns = [_facts(summary) for summary in summaries]
    except DAMAGED as error:
        raise ConfigError(
            f"{a} and {b}: a summary.json is damaged ({one_line(error, named=True)})"
        ) from None
    keys = list(dict.fromkeys(key for column in columns for key in column))
    print_rows([("", *(f.name for f in folders)), *(_beside(key, *columns) for key in keys)])
    changed = differences(_config(folders[0]), _config(folders[1]))
    print("\nchanged settings" if changed else "\nthe settings are the same")
    for line in changed:
        print(f"  {line}")


def row(folder: Path) -> tuple[str, ...]:
    """Return a study's line in `list`; one that cannot be read says so in it."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(_when(folder)))
    try:
        summary = _read(folder)
        scores = results(summary)
        result = f"{measure(summary).removeprefix('test ')} {scores[0][1]}" if scores else DASH
        known = {short: summary["recipe"][key] for key, short in SHORT.items()}
        answer = ", ".join(f"{k} {rate(v)}" for k, v in known.items() if v is not None)
        spent = duration(summary["cost"]["total_seconds"])
        return (folder.name, status(summary), when, result, spent, answer)
    except Unreadable as error:
        return (folder.name, str(error), when, DASH, DASH, DASH)
    except DAMAGED:
        return (folder.name, "damaged", when, DASH, DASH, DASH)


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose columns are as wide as they need; cells may have several lines."""
    widths = [max(map(len, "\n".join(column).split("\n"))) for column in zip(*rows, strict=True)]
    for cells in rows:
        for line in zip_longest(*(cell.split("\n") for cell in cells), fillvalue=""):
            text = "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True))
            print(text.rstrip())


def _studies(runs: Path) -> list[Path]:
    """Return the folders of studies: they hold what a study writes first."""
    folders = sorted(runs.iterdir()) if runs.is_dir() else []
    return [f for f in folders if any((f / name).is_file() for name in (SUMMARY, CONFIG))]


def _when(folder: Path) -> float:
    file = folder / SUMMARY
    return (file if file.exists() else folder).stat().st_mtime


def _find(runs: Path, name: str) -> Path:
    folder = runs / name
    known = {found.name: found for found in _studies(runs)}
    if name in known:
        return folder
    if not known:
        raise ConfigError(f"{name}: no such study: there is none in {runs}/ yet")
    hint = nearest(name, known) or "`list` names them"
    raise ConfigError(f"{name}: no such study in {runs}/; {hint}")


def _of(folder: Path) -> Summary:
    try:
        return _read(folder)
    except Unreadable as error:
        raise ConfigError(f"{folder / 'summary.json'}: {error}") from None


def _read(folder: Path) -> Summary:
    """Return a study's summary. Raises Unreadable: not there, damaged, of another version."""
    try:
        found = json.loads((folder / SUMMARY).read_text("utf-8"))
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
    """Return what there is to compare, by its name."""
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


def _config(folder: Path) -> Mapping[str, Any]:
    return {k: v for k, v in kept(folder / CONFIG).items() if k != "study_name"}
