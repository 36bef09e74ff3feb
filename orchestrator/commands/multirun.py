"""`--multirun`: a study for each combination of swept values, one after the other.

Each is a study of its own, named after the first one's name and its values, so that each can be
continued, shown and compared like any other.
"""

from __future__ import annotations

import hashlib
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.compose import compose, parse, sweep
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.redact import hidden
from orchestrator.storage.paths import StudyPaths

LONGEST = 80  # characters of a study's name


@dataclass(frozen=True)
class Job:
    """One study of a sweep: its arguments and its config."""

    arguments: tuple[str, ...]
    config: Config


def jobs(known: Namespace, arguments: Sequence[str]) -> list[Job]:
    """Return the jobs of a command; `known` is `arguments` as parsed.

    Raises ConfigError with the mistakes of all jobs.
    """
    found, lines = [], []
    for typed, values in sweep(known, arguments):
        try:
            base = Config.from_mapping(compose(parse(typed))).study_name
            found.append((typed, base, values))
        except ConfigError as error:
            lines += error.lines
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))
    names = [_name(base, values) for _, base, values in found]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ConfigError(f"--multirun: two studies would be named {twice[0]}: set study_name=...")
    return [_job(typed, name) for (typed, _, _), name in zip(found, names, strict=True)]


def run(todo: Sequence[Job], do: Callable[[Config, Sequence[str]], int]) -> int:
    """Run one job after the other, print a table of all, return the highest exit code.

    If a job raises ConfigError, its message is printed and the next job starts.
    """
    codes = []
    for job in todo:
        try:
            codes.append(do(job.config, job.arguments))
        except ConfigError as error:
            print(*map(hidden, error.lines), sep="\n", file=sys.stderr)
            codes.append(2)
        if codes[-1] > 2:  # interrupted: the other jobs are not started
            break
    _table(todo)
    return max(codes)


def _job(typed: Sequence[str], name: str) -> Job:
    named = [*(t for t in typed if not t.startswith("study_name=")), f"study_name={name}"]
    # Composed anew: other settings may refer to ${study_name}.
    return Job(tuple(named), Config.from_mapping(compose(parse(named))))


def _name(base: str, values: Mapping[str, str]) -> str:
    """Return a study's name: `digits`, seed=1 and model=conv3 make digits-seed1-conv3."""
    parts = [base]
    for key, value in values.items():
        last = key.lstrip("+~").split(".")[-1].split("/")[-1]
        if last not in ("study", "study_name"):  # these are in the name already
            plain = re.sub(r"[^A-Za-z0-9._-]+", "_", value).strip("_")
            parts.append(plain if value[:1].isalpha() else last + plain)
    name = "-".join(parts)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def _table(todo: Sequence[Job]) -> None:
    from orchestrator.commands.past import HEAD, print_rows, row

    print()
    studies = [StudyPaths.of(job.config.runs, job.config.study_name) for job in todo]
    print_rows([HEAD, *(row(paths) for paths in studies if paths.folder.is_dir())])
