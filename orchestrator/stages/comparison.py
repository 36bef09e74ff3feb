"""How the candidates of a stage compare with the incumbent, at each length of run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import geometric_mean, mean
from typing import Any

from orchestrator.stages.noise import LEAST_SEEDS, Difference, Losses, differences

Table = Mapping[float, Losses]  # value -> replicate -> held-out loss at the end, inf if lost


@dataclass(frozen=True)
class Comparison:
    """The end losses of a stage's values; `tables` by the length of the runs in steps."""

    incumbent: float
    tables: Mapping[int, Table]

    @property
    def longest(self) -> int:
        """The length of the longest runs in steps, 0 if there are none."""
        return max(self.tables, default=0)

    def at(self, steps: int) -> dict[float, Difference]:
        """Return each candidate against the incumbent, {} where the incumbent was lost.

        Shorter runs help to measure the noise.
        """
        return self._differences.get(steps, {})

    def seeds(self, steps: int, value: float) -> int:
        """Return how many seeds of a value ran for so many steps."""
        return len(self.tables.get(steps, {}).get(value, {}))

    def lost(self, value: float) -> int:
        """Return on how many seeds a value was lost, in runs of any length."""
        own = (table.get(value, {}) for table in self.tables.values())
        return sum(not math.isfinite(loss) for by in own for loss in by.values())

    def sound(self, steps: int) -> list[float]:
        """Return the values of one table that were never lost, the best first.

        Means are taken over the replicates that all of them have.
        """
        table = {v: by for v, by in self.tables.get(steps, {}).items() if not self.lost(v)}
        shared = set.intersection(*(set(by) for by in table.values())) if table else set()
        means = {v: mean(by[r] for r in shared) if shared else math.inf for v, by in table.items()}
        return sorted(means, key=lambda v: means[v])

    def answers(self) -> bool:
        """Whether some value was never lost, or the incumbent not always."""
        own = [t.get(self.incumbent, {}).values() for t in self.tables.values()]
        return any(map(self.sound, self.tables)) or any(map(math.isfinite, chain(*own)))

    def rows(self, field: str) -> list[dict[str, Any]]:
        """Return the evidence as a table for the report, shorter runs first.

        Losses are geometric means, since they are compared by their ratios.
        """
        return [
            self._row(field, steps, value)
            for steps in sorted(self.tables)
            for value in self.tables[steps]
        ]

    def _row(self, field: str, steps: int, value: float) -> dict[str, Any]:
        diff = self.at(steps).get(value)
        losses = self.tables[steps][value].values()
        finished = [x for x in losses if math.isfinite(x) and x > 0]
        return {
            field: value,
            "steps": steps,
            "seeds": len(losses),
            "held_out_loss": geometric_mean(finished) if finished else None,
            "against incumbent": _against(diff, value == self.incumbent),
            "noise": noise(diff.bound) if diff and diff.mean < math.inf else None,
        }

    @cached_property
    def _differences(self) -> dict[int, dict[float, Difference]]:
        # As many comparisons as the stage ever made: who came to the longer runs was chosen.
        most = max((len(t) - 1 for t in self.tables.values()), default=0)
        made = {}
        for steps, table in self.tables.items():
            also = [t for s, t in sorted(self.tables.items()) if s < steps]
            made[steps] = differences(table, self.incumbent, also=also, comparisons=most)
        return made


def _against(diff: Difference | None, is_incumbent: bool) -> str:
    if is_incumbent:
        return "incumbent"
    if diff is None:
        return "incumbent lost"
    return percent(diff.mean) if diff.mean < math.inf else "lost"


def ties(diffs: Mapping[float, Difference], margin: float) -> tuple[set[float], tuple[float, ...]]:
    """Return the values that are close to the incumbent, and all that are tied with it.

    Close means within `margin`, a share: what the paper's rule of ties goes by. A value whose noise
    was not measured is tied if it is close, or no further off than one that the noise ties.
    """
    near = {v for v, d in diffs.items() if d.mean < -math.log1p(-margin)}
    within = {v for v, d in diffs.items() if math.isfinite(d.bound) and not d.worse_by(0)}
    reach = max((diffs[v].mean for v in within), default=-math.inf)
    unclear = {v for v, d in diffs.items() if math.isinf(d.bound) and d.mean <= reach}
    return near, tuple(v for v in diffs if v in near | within | unclear)


def needed(diff: Difference, margin: float) -> str:
    """Return in words what a difference had to be for a win."""
    if math.isinf(diff.bound):
        return "noise not measured"
    if diff.mean < diff.needed(margin):
        return f"a win needs {LEAST_SEEDS} seeds"
    return f"a win needs {percent(diff.needed(margin))}"


def percent(log_ratio: float) -> str:
    """Return a log ratio of losses as a share with its sign."""
    return f"{100 * math.expm1(log_ratio):+.1f} %"


def spread(mean: float, std: float) -> str:
    """Return mean ± std over seeds, the mean with the decimals that the spread allows."""
    if std == 0:
        return f"{mean:.4g} ± 0"
    decimals = min(6, max(0, 1 - math.floor(math.log10(std))))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def noise(bound: float) -> str:
    """Return the half width of an interval of log ratios as a share, or as a factor above 2."""
    if not math.isfinite(bound):
        return "not measured"
    share = 100 * math.expm1(min(bound, 1))
    return f"± {share:.1f} %" if share < 100 else f"a factor of {math.exp(min(bound, 50)):.2g}"
