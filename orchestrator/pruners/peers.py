"""What a run may be compared with: the runs of its stage's earlier rounds that are like it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from orchestrator.curve import Outcome
from orchestrator.recipe import Run


class Peers:
    """The outcomes of a stage's earlier rounds, in the order proposed.

    Completed rounds only: what a run is compared with then depends neither on which run of its own
    round ended first nor on an interruption.
    """

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        self._outcomes = tuple(outcomes)

    def of(self, run: Run) -> list[Outcome]:
        """Return those that `run` may be compared with: same schedule, steps and reports."""
        return [o for o in self._outcomes if _shape(o.run) == _shape(run)]

    def best(self, run: Run) -> Outcome | None:
        """Return the finished one with the lowest loss at the end, None without one."""
        ends = [o for o in self.of(run) if math.isfinite(o.held_out_loss)]
        return min(ends, key=lambda o: o.held_out_loss, default=None)

    def digest(self, run: Run) -> str:
        """Return a hash that names what `run` would be compared with, "" for nothing."""
        seen = [(o.key, o.state, len(o.curve)) for o in self.of(run)]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:12] if seen else ""


def _shape(run: Run) -> tuple[object, ...]:
    return run.kind, run.schedule.name, run.steps, run.points
