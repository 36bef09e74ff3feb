"""The commands `list`, `show`, `compare` and `init`: a plain word as the first argument.

Nothing here imports torch, MLflow or Hydra, so these commands start at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.errors import ConfigError, nearest

WORD = re.compile(r"[A-Za-z][\w-]*")
USAGE = {"list": "list", "show": "show NAME", "compare": "compare A B", "init": "init NAME"}


def find(arguments: Sequence[str]) -> Callable[[], None] | None:
    """Return the function of the command `arguments[0]`, None if the arguments are overrides.

    Raises ConfigError for an unknown command and for wrong arguments.
    """
    word = arguments[0]
    if not WORD.fullmatch(word):
        return None
    if word not in USAGE:
        hint = nearest(word, USAGE)
        raise ConfigError(
            f"{word}: no such command: must be one of {', '.join(USAGE)}, or settings as KEY=VALUE"
            + (f"; {hint}" if hint else "")
        )
    runs, names = Path("runs"), []
    for argument in arguments[1:]:
        key, _, value = argument.partition("=")
        if key == "runs" and value:
            runs = Path(value)
        else:
            names.append(argument)
    if len(names) != len(USAGE[word].split()) - 1 or any(n.startswith("-") for n in names):
        more = "" if word == "init" else " [runs=FOLDER]"
        raise ConfigError(f"{word}: the command is: python -m orchestrator {USAGE[word]}{more}")
    return lambda: _do(word, names, runs)


def _do(word: str, names: Sequence[str], runs: Path) -> None:
    if word == "init":
        from orchestrator.commands.init import init

        init(names[0])
        return
    from orchestrator.commands import past

    if word == "list":
        past.show_all(runs)
    elif word == "show":
        past.show(runs, names[0])
    else:
        past.compare(runs, names[0], names[1])
