"""What differs between two configs, or between two runs, and whether it matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST = 60  # characters of a value
# Settings that change no result: how a study is shown, restarted, placed and cut short.
UNIMPORTANT = ("fresh", "quiet", "runs", "executor", "dry_run", "budget")


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


def kept(file: Path) -> dict[str, Any]:
    """Return the config that an earlier command wrote to `file`; {} without one, or if damaged."""
    import yaml  # comes with Hydra

    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def since(file: Path, config: Mapping[str, Any]) -> list[str]:
    """Return in what `config` differs from the one that an earlier command wrote to `file`."""
    old = kept(file)
    return differences(_important(old), _important(config)) if old else []


def digest(config: Mapping[str, Any]) -> str:
    """Return a hash of the settings that can change a result."""
    text = json.dumps(_important(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _important(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in UNIMPORTANT}


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "-"
    text = json.dumps(values[key], default=str)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."
