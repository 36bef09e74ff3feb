"""Removes what must not be shown: passwords in addresses, and invisible control characters."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

# Greedy up to the last @ of the word: a password may contain any character but white space.
USER = re.compile(r"//\S*@")
QUERY = re.compile(r"(?i)([?&;](?:\w*password|passwd|pwd|\w*token|\w*secret|\w*key)=)[^&;\s'\"]*")

# Marks that change the direction of text, and control characters: with them a page shows another
# text than it contains.
TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNSEEN = dict.fromkeys((*range(9), *range(14, 32), 127, *TURNING), "?")


def hidden(text: str) -> str:
    """Return `text` with stars in place of user and password in every address."""
    return QUERY.sub(r"\1***", USER.sub("//***@", text))


def clean(text: str) -> str:
    """Return `text` without passwords and invisible characters; markup stays."""
    return hidden(text).translate(UNSEEN)


def hidden_in(tree: Any) -> Any:
    """Return nested mappings and lists with `hidden` applied to every text."""
    if isinstance(tree, str):
        return hidden(tree)
    if isinstance(tree, Mapping):
        return {key: hidden_in(value) for key, value in tree.items()}
    return [hidden_in(value) for value in tree] if isinstance(tree, list | tuple) else tree


class Formatter(logging.Formatter):
    """Formats log records without passwords, also in errors of other packages."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return hidden(super().format(record))
