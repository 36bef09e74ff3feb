"""What is shown to nobody: passwords in addresses, and characters that hide what a text says."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

# Greedy up to the last @ of the word: a password may hold any sign but white space.
USER = re.compile(r"//\S*@")
QUERY = re.compile(r"(?i)([?&;](?:\w*password|passwd|pwd|\w*token|\w*secret|\w*key)=)[^&;\s'\"]*")

# Marks that turn the direction of text, and control characters: they make a page show another text
# than it holds.
TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNSEEN = dict.fromkeys((*range(9), *range(14, 32), 127, *TURNING), "?")


def hidden(text: str) -> str:
    """Return `text` with stars for user and password of every address in it."""
    return QUERY.sub(r"\1***", USER.sub("//***@", text))


def clean(text: str) -> str:
    """Return `text` without passwords and without marks that cannot be seen; markup stays."""
    return hidden(text).translate(UNSEEN)


def hidden_in(tree: Any) -> Any:
    """Return nested mappings and lists with every text in them `hidden`."""
    if isinstance(tree, str):
        return hidden(tree)
    if isinstance(tree, Mapping):
        return {key: hidden_in(value) for key, value in tree.items()}
    return [hidden_in(value) for value in tree] if isinstance(tree, list | tuple) else tree


class Formatter(logging.Formatter):
    """Formats log records, also what third parties raised, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return hidden(super().format(record))
