"""A claim of the paper against paired measurements: agree, differ or tie, with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from orchestrator.stages.noise import t_quantile

LEVEL = 0.05  # two-sided, for each claim by itself: of many ties one in twenty looks like more


@dataclass(frozen=True)
class Claim:
    """What the paper says about `a` - `b`, and the paired measurements of both.

    `expected`: the sign of the difference, 0 where the paper finds none. `unit` is the unit of the
    values. `near`: where none is expected, what counts as none.
    Verdict: "agree" if the interval of the difference lies on the paper's side of 0 (where none is
    expected: between -`near` and `near`), "differ" if it lies on the other side (where none is
    expected: does not hold 0, and its middle is beyond `near`), else "tie".
    """

    where: str
    what: str
    expected: int
    a: Sequence[float]
    b: Sequence[float]
    unit: str
    note: str = ""
    near: float = 0.0

    def row(self) -> dict[str, object]:
        """Return the claim with its numbers as JSON-able values."""
        gaps = [x - y for x, y in zip(self.a, self.b, strict=True)]
        middle, n = mean(gaps), len(gaps)
        error = stdev(gaps) / math.sqrt(n)
        bound = t_quantile(1 - LEVEL / 2, n - 1) * error
        return {
            **asdict(self),
            "mean_a": mean(self.a),
            "mean_b": mean(self.b),
            "difference": middle,
            "standard_error": error,
            "bound": bound,
            "n": n,
            "verdict": self._verdict(middle, bound),
        }

    def _verdict(self, middle: float, bound: float) -> str:
        if self.expected == 0:
            if abs(middle) + bound <= self.near:
                return "agree"
            return "differ" if abs(middle) > max(bound, self.near) else "tie"
        if abs(middle) <= bound:
            return "tie"
        return "agree" if middle * self.expected > 0 else "differ"


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as Markdown."""
    lines = [
        "| workload | the paper says | measured | difference (se, n) | verdict |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        note = f"; {r['note']}" if r["note"] else ""
        lines.append(
            f"| {r['where']} | {r['what']} | {r['mean_a']:.3g} against {r['mean_b']:.3g}"
            f" {r['unit']}{note} | {r['difference']:+.2g} ({r['standard_error']:.1g}, {r['n']})"
            f" | {r['verdict']} |"
        )
    return "\n".join(lines)
