"""What changed between two configs or two runs, and whether it changes results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST = 60  # characters of a value
FEW = 8  # lines that are listed one by one
# Settings that change no result: display, restart, place and budget of a study.
UNIMPORTANT = ("fresh", "quiet", "runs", "executor", "dry_run", "budget")
BESIDE = ("tracking", "storage")  # settings that change only where records are kept
HASHES = {
    "train_hash": "the training data changed",
    "held_out_hash": "the held-out data changed",
    "test_hash": "the test data changed",
}
DEFAULTS = {"loss": "cross_entropy"}  # the value where a context has no such key
_HASH = r'("\w{16}"|-)'
_CODE = re.compile(
    rf"(?P<part>\w+)\.(_?source_?: {_HASH} -> {_HASH}|_modules_(\.(?P<module>[\w.]+))?: .*)"
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Return a line such as `model.width: 1.0 -> 2.0` for each leaf that differs, in `new`'s order.

    A key that only one of them has is shown as `-` for the other.
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


def surroundings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `differences` of two contexts (see `Objective.context`), with hashes in words."""
    told, hashes = [], HASHES
    lines = differences(old, new)
    if any(line.startswith(("loss: ", "loss.")) for line in lines):  # it may take other targets
        hashes = dict.fromkeys(HASHES, "the data or the type of their targets changed")
    for line in lines:
        code = _CODE.fullmatch(line)
        told.append(hashes.get(line.partition(":")[0]) or (_code_changed(code) if code else line))
    return list(dict.fromkeys(told))


def _code_changed(line: re.Match[str]) -> str:
    module = f" (module {line['module']})" if line["module"] else ""
    return f"the code of {line['part']} changed{module}"


def of_data(told: Sequence[str]) -> bool:
    """Whether the data are among the lines of `surroundings`."""
    return not set(told).isdisjoint(HASHES.values())


def kept(file: Path) -> dict[str, Any]:
    """Return the config that an earlier command wrote to `file`; {} without one, or if damaged."""
    import yaml  # comes with Hydra

    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def since(old: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return how `config` differs from that of an earlier command; {}: there was none."""
    return differences(_important(old), _important(config)) if old else []


def some(lines: Sequence[str]) -> str:
    """Return the first `FEW` lines, joined by commas."""
    rest = f", and {len(lines) - FEW} more" if len(lines) > FEW else ""
    return ", ".join(lines[:FEW]) + rest


def of_training(lines: Sequence[str]) -> list[str]:
    """Return the lines of `since` about settings that can change what is trained."""
    return [line for line in lines if line.partition(":")[0].split(".")[0] not in BESIDE]


def digest(config: Mapping[str, Any]) -> str:
    """Return a hash of the settings that can change a result."""
    text = json.dumps(_important(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _important(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in UNIMPORTANT}


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return DEFAULTS.get(key, "-")
    if isinstance(values[key], Mapping) and isinstance(name := values[key].get("name"), str):
        return name  # of one group for another, as it is chosen on the command line
    text = json.dumps(values[key], default=str)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."
