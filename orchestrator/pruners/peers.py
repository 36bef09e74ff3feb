"""The peers of a run, which it may be compared with: comparable runs of earlier rounds."""

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

    Only completed rounds: otherwise pruning would depend on which run of a round ends first, and
    on interruptions. Only the same seed: a stage compares candidates seed by seed, and a candidate
    with a pruned run is out, so runs of different seeds must not be compared (measured on digits:
    across seeds, half of the pruned runs belonged to candidates within 10 % of the best).
    """

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        # Called at every report: a lookup, so that its cost does not grow with the number of runs.
        self.outcomes: list[Outcome] = []
        self._alike: dict[Shape, list[Outcome]] = defaultdict(list)
        self._same: dict[tuple[Shape, int], list[Outcome]] = defaultdict(list)
        self._best: dict[tuple[Shape, int], Outcome] = {}
        self._names: dict[Shape, hashlib._Hash] = {}
        self.add(outcomes)

    def __reduce__(self) -> tuple[type[Peers], tuple[list[Outcome]]]:
        return Peers, (self.outcomes,)  # a hash object cannot be pickled

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes of one more round."""
        self.outcomes += outcomes
        for outcome in outcomes:
            shape = _shape(outcome.run)
            same = shape, outcome.run.replicate
            self._alike[shape].append(outcome)
            self._same[same].append(outcome)
            best, loss = self._best.get(same), outcome.held_out_loss
            if math.isfinite(loss) and (best is None or loss < best.held_out_loss):
                self._best[same] = outcome
            self._name(shape, outcome)

    def of(self, run: Run) -> list[Outcome]:
        """Return the outcomes comparable with `run`: same schedule, length and seed."""
        return self._same.get((_shape(run), run.replicate), [])

    def of_all_seeds(self, run: Run) -> list[Outcome]:
        """Return the outcomes with the same schedule, steps and number of reports."""
        return self._alike.get(_shape(run), [])

    def best(self, run: Run, step: int) -> float:
        """Return the lowest loss up to `step` of the peer that ended lowest, NaN without one."""
        best = self._best.get((_shape(run), run.replicate))
        losses = best.curve.held_out_loss[best.curve.step <= step] if best else ()
        return float(min(losses, default=math.nan))

    def digest(self, run: Run) -> str:
        """Return a hash of what `run` would be compared with, "" for nothing."""
        name = self._names.get(_shape(run))
        if name is None:
            return ""
        whole = name.copy()
        whole.update(b"]")
        return whole.hexdigest()[:12]

    def _name(self, shape: Shape, outcome: Outcome) -> None:
        """Add an outcome to the hash, which is that of Python's repr of the list of all."""
        lead = b", " if shape in self._names else b"["
        name = self._names.setdefault(shape, hashlib.sha256())
        name.update(lead + repr((outcome.key, outcome.state, len(outcome.curve))).encode())


def _shape(run: Run) -> Shape:
    return run.kind, run.schedule.name, run.steps, run.points
