"""Where linear ramps are to end that fell too little: ends are compared, at one length.

A ramp that runs through rates too high for a net that has hardly begun to learn falls less than
one that stays below them, and breaks nowhere. So the end whose ramp falls furthest is the best,
though none shows an edge. Measured on a small vision transformer with AdamW: ramps of 160 steps to
lr .039, .013, .0043 and .0014 fell by 8, 9, 11 and 11 %, complete runs were best with .002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.curve import Outcome
from orchestrator.stages.ramps import fall

STEP = 3.0  # from one end to the next
FURTHER = 1.1  # x as far: less is noise, and a needlessly low end costs as well
MOST = 6  # ends


def further(fall: float, other: float) -> bool:
    """Whether a ramp fell clearly further than the other, both in logarithms."""
    return fall > FURTHER * other


def best(falls: Mapping[float, float]) -> float:
    """Return the end that lies lowest of those that, from the highest down, each fell further.

    `falls`: by end, highest first, how far the loss fell, in logarithms. An end whose ramp fell not
    at all is worse than any below it.
    """
    here, *lower = falls
    for end in lower:
        if falls[here] > 0 and not further(falls[end], falls[here]):
            break
        here = end
    return here


def another(falls: Mapping[float, float]) -> float | None:
    """Return the next end to try, None once the one below the best is known, or after `MOST`."""
    last = min(falls)
    return last / STEP if best(falls) == last and len(falls) < MOST else None


@dataclass(frozen=True)
class Search:
    """Linear ramps among which the best end is to be found, in the order made.

    Ends are compared at the length of the first, of SGD (`longer_first`) at twice that, since its
    ramps break where rates are much too high. `longest`: the steps that no ramp exceeds.
    """

    ramps: Sequence[Outcome]
    start_loss: float
    longer_first: bool
    longest: int

    @property
    def steps(self) -> int:
        """Length of the last ramps."""
        return self.ramps[-1].run.steps

    @property
    def longer(self) -> int | None:
        """The next length, None if it would be too long."""
        return 2 * self.steps if 2 * self.steps <= self.longest else None

    @property
    def compared(self) -> int:
        """The length at which ends are compared."""
        steps = self.ramps[0].run.steps
        return 2 * steps if self.longer_first and 2 * steps <= self.longest else steps

    @property
    def falls(self) -> dict[float, float]:
        """How far the first ramp to each end fell, highest end first; seeds are paired."""
        first = [o for o in self.ramps if o.run.steps == self.compared and o.run.replicate == 0]
        first.sort(key=lambda o: -o.run.schedule.max_lr)
        return {o.run.schedule.max_lr: fall(o, self.start_loss) for o in first}

    @property
    def lower(self) -> bool:
        """Whether ramps to a higher end fell less than those to the best: these need not break."""
        return bool(self.falls) and best(self.falls) < max(self.falls)

    @property
    def counted(self) -> list[Outcome]:
        """The longest ramps to the best end."""
        end = best(self.falls) if self.falls else self.ramps[0].run.schedule.max_lr
        return [o for o in self.ramps if (o.run.schedule.max_lr, o.run.steps) == (end, self.steps)]

    def told(self) -> str:
        """Say which ends lost against the best, "" if none did."""
        if not self.lower:
            return ""
        end = best(self.falls)
        higher = " and ".join(f"{other:.2g}" for other in self.falls if other > end)
        return f"; ramps to lr {end:.2g} fell further than to {higher}"
