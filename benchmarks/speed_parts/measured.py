"""One command of the orchestrator in a process of its own, with its seconds taken by room.

    python -m speed_parts.measured RESULT.json [--first-step] [--] OVERRIDES...

RESULT.json holds seconds and calls by room, and the moments of the first call of each function.
`--first-step`: the process ends just before the first training step of the first run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from subprocess import PIPE, STDOUT
from subprocess import run as run_process
from typing import Any

from speed_parts.rooms import Rooms

HOME = Path(__file__).resolve().parents[1]


def measure(
    folder: Path, overrides: Sequence[str], *, first_step: bool = False, timeout: float = 3600
) -> dict[str, Any]:
    """Run `python -m orchestrator OVERRIDES` in `folder`, return what it measured.

    `wall` are the seconds from the start of the process to its end, `since_start` those to the
    first call of each function. A study without an answer is no failure. Raises RuntimeError with
    the last lines if the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flag = ["--first-step"] if first_step else []
    started = time.time()
    found = in_process("speed_parts.measured", folder, [*flag, "--", *overrides], timeout)
    wall = time.time() - started
    return {
        **found,
        "wall": wall,
        "since_start": {name: at - started for name, at in found["first"].items()},
    }


def in_process(
    module: str, folder: Path, arguments: Sequence[str], timeout: float
) -> dict[str, Any]:
    """Run `python -m MODULE FILE ARGUMENTS` in `folder`, return what it wrote to the file.

    Raises RuntimeError with the last lines if the command fails.
    """
    file = folder / "measured.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, str(file), *arguments]
    given = filter(None, [os.environ.get("PYTHONPATH")])
    paths = [str(HOME), *given, str(HOME.parent)]  # last the checkout: it may not be installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = run_process(
        command, cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT, text=True, timeout=timeout
    )
    if done.returncode not in (0, 1) or not file.exists():
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise RuntimeError(f"orchestrator {' '.join(arguments)}: exit {done.returncode}\n{tail}")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    """Run the command of this process."""
    file, *rest = sys.argv[1:]
    where = rest.index("--")
    flags, overrides = rest[:where], rest[where + 1 :]
    rooms = Rooms()
    rooms.first["python"] = time.time()
    rooms.install()

    def write() -> None:
        Path(file).write_text(json.dumps(_result(rooms)))

    if "--first-step" in flags:
        _stop_at_first_step(rooms, write)
    sys.argv = ["orchestrator", *overrides]
    from orchestrator.__main__ import leave, run

    code = run(overrides)
    rooms.first["end"] = time.time()
    write()
    leave(code)


def _stop_at_first_step(rooms: Rooms, write: Any) -> None:
    """End the process before the first step of a run, the first after its warm-up."""

    def stop() -> None:
        rooms.first["step"] = time.time()
        write()
        os._exit(0)  # nothing is to be waited for, least of all the tracking thread

    # Steps before the first report are a warm-up, or those of trying the network.
    rooms.install({"orchestrator.training.loop": {"Trainer.to": "the loop"}})
    rooms.before["Trainer.to"] = stop


def _result(rooms: Rooms) -> dict[str, Any]:
    calls = {
        room: {"count": len(c), "mean_ms": 1e3 * mean(c), "median_ms": 1e3 * median(c)}
        for room, c in rooms.calls.items()
        if len(c)
    }
    return {
        "seconds": dict(rooms.seconds),
        "calls": calls,
        "first": rooms.first,
        "missing": rooms.missing,
    }


if __name__ == "__main__":
    main()
