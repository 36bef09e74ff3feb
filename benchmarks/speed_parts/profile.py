"""Where the seconds of a whole digits study go, from the command to the prompt."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import bench

from speed_parts.measured import measure
from speed_parts.rooms import HELD_OUT, TRAINING

SHORT = ("plan=[lr_range,final]", "stages.final.epochs=1", "stages.final.seeds=1")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the digits study."""
    overrides = ["+study=digits", *(SHORT if options.quick else ())]
    with tempfile.TemporaryDirectory() as folder:
        return {"overrides": overrides, **split(measure(Path(folder), overrides))}


def split(found: dict[str, Any]) -> dict[str, Any]:
    """Return the wall-clock seconds of a command by room; what no room has is a room too."""
    first, seconds = found["since_start"], dict(found["seconds"])
    seconds["start of Python"] = first["python"]
    seconds["end of Python"] = found["wall"] - first["end"]
    seconds["the rest"] = found["wall"] - sum(seconds.values())
    return {
        "wall": found["wall"],
        "rooms": dict(sorted(seconds.items(), key=lambda item: -item[1])),
        "calls": found["calls"],
        "missing": found["missing"],
    }


def table(result: dict[str, Any]) -> str:
    """Return the rooms, the longest first."""
    wall, calls = result["wall"], result["calls"]
    rows = [
        (
            room,
            seconds,
            f"{100 * seconds / wall:.1f} %",
            calls.get(room, {}).get("count"),
            calls.get(room, {}).get("mean_ms"),
        )
        for room, seconds in result["rooms"].items()
    ]
    work = sum(result["rooms"].get(room, 0.0) for room in (TRAINING, HELD_OUT))
    lines = [
        f"`python -m orchestrator {' '.join(result['overrides'])}`: {wall:.1f} s, {work:.1f} s of"
        " them training steps and held-out evaluation. Seconds of the main thread.",
        "",
        bench.markdown(("room", "seconds", "share", "calls", "ms a call"), rows),
    ]
    if result["missing"]:
        lines += ["", f"Not found, so not timed: {', '.join(result['missing'])}."]
    return "\n".join(lines)
