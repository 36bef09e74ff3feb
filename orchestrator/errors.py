"""What goes wrong because of the request, not because of us: the command line prints it plainly.

Exception
└── ConfigError    the config asks for what cannot be done; every problem one line
"""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(Exception):
    """The request is wrong, nothing has run. `lines`: one problem each, each with its way out."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))
