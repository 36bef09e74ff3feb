"""Audits: pruned runs that are trained to their end to see whether pruning was right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.curve import Outcome

MARGIN = 0.03  # losses nearer than this are a tie, as in the stages


@dataclass(frozen=True)
class Audit:
    """A pruned run that was trained to its end.

    Attributes:
        pruned: The run as it was pruned.
        end: The run at its end.
        best: Lowest final loss of the finished runs of its stage and length, at most chance.
    """

    pruned: Outcome
    end: Outcome
    best: float

    @property
    def wrong(self) -> bool:
        """Whether the run would have been the winner of its stage and length."""
        return self.end.held_out_loss < self.best

    @property
    def near(self) -> bool:
        """Whether the run would have been within the margin of the winner, or better."""
        return self.end.held_out_loss < (1 + MARGIN) * self.best

    @property
    def verdict(self) -> str:
        """One sentence with its numbers."""
        loss, best = self.end.held_out_loss, self.best
        if self.wrong:
            return f"pruned wrongly: it ends at {loss:.4g}, the best of the rest at {best:.4g}"
        close = f" (within {100 * MARGIN:.0f} %)" if self.near else ""
        return f"pruned rightly{close}: it ends at {loss:.4g}, the best at {best:.4g}"

    @property
    def examples(self) -> int:
        """Training examples that the audit cost."""
        return self.end.result.examples - self.pruned.result.examples

    @property
    def seconds(self) -> float:
        """Training seconds that the audit cost."""
        return self.end.result.seconds - self.pruned.result.seconds

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of evaluation that the audit cost."""
        return self.end.result.evaluation_seconds - self.pruned.result.evaluation_seconds


def chosen(outcomes: Sequence[Outcome], share: float) -> list[Outcome]:
    """Return about `share` of the pruned outcomes, chosen by their keys: always the same ones."""
    return [o for o in outcomes if o.state == "pruned" and _draw(o.key) < share]


def best_loss(outcomes: Sequence[Outcome], steps: int, start_loss: float) -> float:
    """Return the lowest end loss of the runs of this length, at most `start_loss`."""
    return min((start_loss, *(o.held_out_loss for o in outcomes if o.run.steps == steps)))


def _draw(key: str) -> float:
    """Return a number in [0, 1) that depends on the key alone."""
    return int(hashlib.sha256(f"audit {key}".encode()).hexdigest()[:8], 16) / 2**32
