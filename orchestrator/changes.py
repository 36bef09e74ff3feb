"""What differs between two configs, or between two runs: for people to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST = 60  # characters of a value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Return a line such as `model.width: 1.0 -> 2.0` for each leaf that differs, in `new`'s order.

    A key that is in one of the two only shows as `-` in the other.
    """
    lines: list[str] = []
    for key in dict.fromkeys((*new, *old)):
        where = f"{path}.{key}" if path else str(key)
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, where)
        elif a != b or (key in old) != (key in new):
            lines.append(f"{where}: {_shown(old, key)} -> {_shown(new, key)}")
    return lines


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "-"
    text = json.dumps(values[key], default=str)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."
