"""What a run may be compared with: the runs of its stage's earlier rounds that are like it."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from orchestrator.curve import Outcome
from orchestrator.recipe import Run

Shape = tuple[object, ...]


class Peers:
    """The outcomes of a stage's earlier rounds, in the order proposed.

    Completed rounds only: what a run is compared with then depends neither on which run of its own
    round ended first nor on an interruption. Same seed only: a stage compares candidates seed by
    seed, and one that loses a run is lost, so a bad seed must not be held against a good one
    (measured on digits: across seeds, half of the runs that were pruned belonged to candidates
    within 10 % of the best).
    """

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        # Asked at every report: looked up, so that a stage of thousands of runs costs no more each.
        self._alike: dict[Shape, list[Outcome]] = defaultdict(list)
        self._same: dict[tuple[Shape, int], list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            self._alike[_shape(outcome.run)].append(outcome)
            self._same[_shape(outcome.run), outcome.run.replicate].append(outcome)
        self._digests: dict[Shape, str] = {}

    def of(self, run: Run) -> list[Outcome]:
        """Return those that `run` may be compared with: same schedule, length and seed."""
        return self._same.get((_shape(run), run.replicate), [])

    def of_all_seeds(self, run: Run) -> list[Outcome]:
        """Return those of the same schedule, steps and reports."""
        return self._alike.get(_shape(run), [])

    def best(self, run: Run, step: int) -> float:
        """Return the lowest loss up to `step` of the finished one that ended lowest, else NaN."""
        ends = [o for o in self.of(run) if math.isfinite(o.held_out_loss)]
        best = min(ends, key=lambda o: o.held_out_loss, default=None)
        losses = best.curve.held_out_loss[best.curve.step <= step] if best else ()
        return float(min(losses, default=math.nan))

    def digest(self, run: Run) -> str:
        """Return a hash that names what `run` would be compared with, "" for nothing."""
        shape = _shape(run)
        if shape not in self._digests:
            seen = [(o.key, o.state, len(o.curve)) for o in self.of_all_seeds(run)]
            digest = hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
            self._digests[shape] = digest if seen else ""
        return self._digests[shape]


def _shape(run: Run) -> Shape:
    return run.kind, run.schedule.name, run.steps, run.points
