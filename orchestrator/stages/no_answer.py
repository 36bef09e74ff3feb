"""Why a range test has no answer, in one sentence with numbers and a way out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.curve import Outcome
from orchestrator.recipe import Facts
from orchestrator.stages.ramps import most, problem, read


@dataclass(frozen=True)
class NoAnswer:
    """What the sentence needs: the task, how far ramps have to fall, what the user may do."""

    facts: Facts
    min_drop: float
    way_out: str

    def why(self, ramps: Sequence[Outcome], linear: Sequence[Outcome]) -> str:
        """Return why there is no answer. `linear`: those of all ramps that were to give it."""
        if not ramps or all(o.state == "failed" for o in ramps):
            return "every ramp failed"
        if not linear:
            return self._no_bracket(ramps[-1])
        readings = [read(o, self.facts.start_loss) for o in linear]
        fell = sorted(
            (0.0 if r is None else 100 * max(0.0, r.drop) for r in readings), reverse=True
        )
        open_ = [r is not None and r.at_end for r in readings]
        if most(r is None or r.drop < self.min_drop for r in readings):
            return (
                f"the ramps fell too little, by {fell[0]:.0f} % of the untrained loss at most"
                f" where {100 * self.min_drop:.0f} % are needed: {self.way_out}"
            )
        if most(open_):
            return f"{nothing_broke(linear[0].run.schedule.max_lr)}: {self.way_out}"
        return (
            "the ramps disagree: they fell by "
            + ", ".join(f"{share:.0f} %" for share in fell)
            + f" of the untrained loss, {sum(open_)} of them did not break: {self.way_out}"
        )

    def _no_bracket(self, bracket: Outcome) -> str:
        curve, why = bracket.curve, problem(bracket, self.facts.start_loss, self.min_drop)
        if why == "open":
            return f"{nothing_broke(float(curve.lr[-1]))}: raise end_lr"
        if why == "flat":
            return (
                f"held-out loss is flat: from lr {curve.lr[0]:.2g} to {curve.lr[-1]:.2g} it stayed"
                f" between {curve.held_out_loss.min():.4g} and {curve.held_out_loss.max():.4g}"
                f" ({self._known}): does this model learn from these data at all?"
            )
        loss = curve.held_out_loss[0]
        found = f"{loss:.3g}" if math.isfinite(loss) else "not finite"
        return (
            f"it diverges at once: at lr {curve.lr[0]:.2g} held-out loss was {found}"
            f" ({self._known}): scale the inputs (in a regression the targets too), or lower"
            " start_lr"
        )

    @property
    def _known(self) -> str:
        """What the losses of ramps are to be compared with."""
        return f"untrained: {self.facts.start_loss:.4g}"


def nothing_broke(lr: float) -> str:
    """Say that no ramp broke up to this lr."""
    return f"it never diverges, nothing broke up to lr {lr:.2g}"
