"""The command line with a pinned clock, and checkpoints twice a second: what is killed here."""

from __future__ import annotations

from typing import Any

from orchestrator.__main__ import main
from orchestrator.curve import Result
from orchestrator.recipe import Run


def pin() -> None:
    """Let a calibration give the same seconds per step always, and every trial be on time."""
    from orchestrator.stages.timed import TimedTrials
    from orchestrator.training import checkpoint
    from orchestrator.training import objective as training

    def calibrate(setup: Any, run: Run, session: Any) -> Result:
        seconds = {str(b): 1e-3 + 1e-5 * b for b in run.batch_sizes}
        return Result(measured={"seconds_per_step": seconds, "spread": dict.fromkeys(seconds, 0.0)})

    training.DO["calibrate"] = calibrate
    TimedTrials.on_time = lambda *_: True  # type: ignore[method-assign]
    checkpoint.INTERVAL_SECONDS = 0.5


if __name__ == "__main__":
    pin()
    main()
