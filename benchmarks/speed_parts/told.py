"""One command of the orchestrator in a process of its own, and what it told of its time.

    python -m speed_parts.told RESULT.json OVERRIDES...

RESULT.json holds the plan's ranges after a dry run, else what was left after each stage.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_parts.measured import in_process


def tell(folder: Path, overrides: Sequence[str], *, timeout: float = 3600) -> dict[str, Any]:
    """Run `python -m orchestrator OVERRIDES` in `folder`, return what it told.

    `plan`: the ranges of a dry run. `left`: stage, low, high, and the seconds that it really took
    from then on. `wall`: seconds of the whole command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    found = in_process("speed_parts.told", folder, overrides, timeout)
    ended = time.time()
    left = [{"took": ended - row.pop("at"), **row} for row in found["left"]]
    return {**found, "left": left, "wall": ended - started}


def main() -> None:
    """Run the command of this process."""
    file, *overrides = sys.argv[1:]
    from orchestrator.__main__ import leave, run
    from orchestrator.report.terminal import Terminal

    found: dict[str, Any] = {"plan": None, "left": []}
    planned, decided = Terminal.planned, Terminal.decided

    def keep_plan(terminal: Terminal, plan: Any) -> None:
        found["plan"] = {
            "low": plan.seconds.low,
            "high": plan.seconds.high,
            "likely": plan.likely,
            "least": plan.extremes.low,
            "most": plan.extremes.high,
        }
        planned(terminal, plan)

    def keep_left(terminal: Terminal, decision: Any, left: Any = None) -> None:
        if left and left.high:
            row = {"stage": decision.stage, "low": left.low, "high": left.high}
            found["left"].append({**row, "at": time.time()})
        decided(terminal, decision, left)

    Terminal.planned, Terminal.decided = keep_plan, keep_left  # type: ignore[method-assign]
    code = run(overrides)
    Path(file).write_text(json.dumps(found))
    leave(code)


if __name__ == "__main__":
    main()
