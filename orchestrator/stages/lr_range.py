"""The LR range test: which max_lr?

Source: Smith 2018 (arXiv 1803.09820), section 4, and 2015 (arXiv 1506.01186), section 3.3. One
exponential ramp brackets the useful rates, then short linear ramps with different seeds measure;
each is read on held-out loss, and the median counts. Ours: the rule (`suggest.within_drop`), the
hand-off between the ramps, and that no answer is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar, Literal

import numpy as np

from orchestrator.curve import Floats, Outcome
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.schedules import CYCLED, Schedule
from orchestrator.stages import suggest
from orchestrator.stages.stage import Stage, held_out_share, option

# Why a bracket is no good: it broke before it had three points; it neither fell nor broke; it fell
# too little; it did not break.
Problem = Literal["at once", "flat", "too little", "open"]
POINTS = 40
COST = 0.4  # of all evaluations of a ramp, as a share of its training: half is too much
# Of the last good lr, measured (benchmarks/lr_rules.py): twice the best rate loses everything, half
# of it costs little, and `lr_check` finds what was left on the table.
MARGIN = 0.4
FLAT = 0.02  # a ramp that falls by less than this share of chance loss has not moved
ROUNDS = 6  # of Adam's ramps at most, each further, after a bracket that hardly learnt
LEARNT = 0.5  # of chance loss: a ramp that fell so far has learnt, and its minimum says something
HAND_OFF = 3  # x the bracket's mark: where the linear ramps end
LONGER = 4  # no ramp is made more than so many times as long as planned: twice two
STOP = 1.3  # x the loss at the start: above this a ramp has nothing more to say


@dataclass(frozen=True)
class Reading:
    """What one ramp says: its usable points (smoothed), its mark and how far it fell.

    `drop` is a share of chance loss; `broke`: it ended above chance or not finite; `at_end`: the
    mark is the last point, so the ramp ended too soon.
    """

    lr: Floats
    loss: Floats
    max_lr: float
    drop: float
    broke: bool
    at_end: bool


def ramp(
    recipe: Recipe, facts: Facts, name: str, start: float, end: float, steps: int, replicate: int
) -> Run:
    """Return a ramp of lr from `start` to `end`, at the momentum of the schedule's peak."""
    momentum = recipe.max_momentum
    if recipe.schedule in CYCLED:
        momentum = min(recipe.min_momentum, recipe.max_momentum)
    points, held_out = held_out_share(steps * recipe.batch_size, POINTS, cost=COST)
    return Run(
        kind="ramp",
        schedule=Schedule(name, start, end, momentum, momentum),
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        steps=steps,
        replicate=replicate,
        points=points,
        held_out_examples=held_out,
        stop_loss=STOP * facts.start_loss,
        dropout=recipe.dropout,
        prunable=False,
        label=f"{'ramp' if name == 'range_test' else 'bracket'} to {end:.2g} seed {replicate}",
    )


def read(outcome: Outcome, chance_loss: float) -> Reading | None:
    """Return what a ramp says, None if it has no three finite points or never fell below chance.

    `chance_loss`: the loss at the start, `Facts.start_loss`, where that is above chance.
    """
    lr, loss = _usable(outcome)
    if len(lr) < 3 or loss.min() >= chance_loss:
        return None
    broke = _stopped(outcome) or bool(loss[-1] > chance_loss)
    max_lr = suggest.within_drop(lr, loss, chance_loss) or float(lr[0])
    return Reading(
        lr=lr,
        loss=loss,
        max_lr=max_lr,
        drop=1 - float(loss.min()) / chance_loss,
        broke=broke,
        at_end=max_lr >= lr[-1] and not broke,
    )


def _usable(outcome: Outcome) -> tuple[Floats, Floats]:
    """Return lr and smoothed held-out loss of the points before the first that is not finite."""
    curve = outcome.curve
    fine = np.isfinite(curve.held_out_loss) & (curve.held_out_loss > 0)
    count = len(curve) if fine.all() else int(np.argmin(fine))
    return curve.lr[:count], suggest.smooth(curve.held_out_loss[:count])


def _stopped(outcome: Outcome) -> bool:
    """Whether a ramp ended before its time: by its stop rule, or because the loss was lost."""
    return outcome.reason != "" or len(_usable(outcome)[0]) < len(outcome.curve)


@dataclass(frozen=True, kw_only=True)
class LRRange(Stage):
    """Finds max_lr (and min_lr, a tenth of it)."""

    kind: ClassVar[str] = "lr_range"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")
    more_steps: ClassVar[str] = "most_steps, share"  # what the user sets for longer ramps

    start_lr: float = option(1e-5, "first lr of the bracket", gt=0)
    end_lr: float = option(10.0, "last lr of the bracket", gt=0)
    share: float = option(0.15, "length of a ramp as a share of the final run", gt=0, le=1)
    least_steps: int = option(80, "a ramp has at least so many steps", ge=10)
    most_steps: int = option(400, "and at most so many", ge=10)
    ramps: int = option(3, "linear ramps, each with its own seed", ge=1, le=10)
    margin: float = option(MARGIN, "max_lr as a share of the last good lr of the ramps", gt=0, le=1)
    least_drop: float = option(0.1, "a ramp must fall by this share of chance loss", ge=0, lt=1)

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Bracket; lengthen or widen it once if it says too little; then the linear ramps."""
        brackets = [o for o in outcomes if o.run.schedule.name == "exponential_ramp"]
        linear = [o for o in outcomes if o.run.schedule.name == "range_test"]
        if not brackets:
            return [self._bracket(recipe)]
        if not linear:
            return self._after_bracket(recipe, brackets)
        if len(linear) == self.ramps:
            return self._after_linear(recipe, linear)
        return self._yet_further(recipe, linear, brackets[-1])

    def _after_bracket(self, recipe: Recipe, brackets: Sequence[Outcome]) -> list[Run]:
        last = brackets[-1]
        problem = self._problem(last)
        if problem and len(brackets) == 1:
            return [self._again(last.run, problem)]
        if problem in ("at once", "flat", "open"):
            return []
        return self._linear(recipe, self._hand_off(last), last.run.steps)

    def _has_learnt(self, bracket: Outcome) -> bool:
        reading = read(bracket, self.facts.start_loss)
        return reading is not None and reading.drop >= LEARNT

    def _yet_further(
        self, recipe: Recipe, linear: Sequence[Outcome], bracket: Outcome
    ) -> list[Run]:
        """Widen ramps of Adam again where the bracket had learnt too little to say where to end."""
        last = linear[-self.ramps :]
        readings = [read(o, self.facts.start_loss) for o in last]
        at_end = _most(r is not None and r.at_end for r in readings)
        again = recipe.optimizer != "sgd" and len(linear) < ROUNDS * self.ramps
        if not at_end or not again or self._has_learnt(bracket):
            return []
        schedule = last[0].run.schedule
        return self._linear(recipe, round_to(HAND_OFF * schedule.max_lr), last[0].run.steps)

    def _after_linear(self, recipe: Recipe, linear: Sequence[Outcome]) -> list[Run]:
        """Look once more, further, nearer or longer, if most of the ramps say too little."""
        end, steps = linear[0].run.schedule.max_lr, linear[0].run.steps
        readings = [read(o, self.facts.start_loss) for o in linear]
        if _most(r is not None and r.at_end for r in readings):
            return self._linear(recipe, HAND_OFF * end, steps)
        if _most(self._problem(o) == "at once" for o in linear):
            return self._linear(recipe, end / 10, steps)
        if _most(self._weak(r) for r in readings):
            return self._linear(recipe, end, 2 * steps)
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the median of the linear ramps' readings, or why there is none."""
        ramps = [o for o in outcomes if o.curve.lr.size]
        last = [o for o in outcomes if o.run.schedule.name == "range_test"][-self.ramps :]
        linear = [o for o in last if o.curve.lr.size]
        readings = [read(o, self.facts.start_loss) for o in linear]
        good = [r for r in readings if r is not None and not self._fault(r)]
        evidence = self._evidence(ramps, [r for r in readings if r is not None])
        if len(good) * 2 <= self.ramps:
            if recipe.optimizer != "sgd" and _most(r is not None and r.at_end for r in readings):
                return self._by_bracket(ramps, linear, evidence)
            reason = f"no answer: {self._why_not(ramps, linear)}"
            return Decision(self.name, self.kind, reason, answered=False, evidence=evidence)
        marks = sorted(round_to(self.margin * r.max_lr) for r in good)
        max_lr = round_to(median(marks))
        said = self._median_of(readings, marks)
        return self._found(max_lr, (marks[0], marks[-1]), said, evidence)

    def _median_of(self, readings: Sequence[Reading | None], marks: Sequence[float]) -> str:
        """Say which ramps count and their range, and of those that do not why."""
        faults = [fault for r in readings if (fault := self._fault(r))]
        faults += ["failed"] * (self.ramps - len(readings))
        counted = str(self.ramps) if not faults else f"{len(marks)} of {self.ramps}"
        told = [f"{marks[0]:.3g} to {marks[-1]:.3g}" if len(marks) > 1 else "one ramp"]
        told += [f"{faults.count(f)} {f}" for f in dict.fromkeys(faults)]
        return f", median of {counted} ramps ({'; '.join(told)})"

    def _fault(self, reading: Reading | None) -> str:
        """Return why a linear ramp does not count, "" if it does."""
        if reading is None:
            return "learnt nothing"
        if reading.at_end:
            return "broke nowhere"
        return "fell too little" if self._weak(reading) else ""

    def _by_bracket(
        self, ramps: Sequence[Outcome], linear: Sequence[Outcome], evidence: dict[str, Any]
    ) -> Decision:
        """Return the bracket's answer where the linear ramps broke nowhere, far beyond its mark.

        The steps of Adam and its kin are bounded by lr: a slow ramp over a network with batch norm
        may follow to any rate. Digits, small ResNet, AdamW: ramps to .43 broke nowhere, the
        bracket said .02, best were .01 to .03.
        """
        bracket = [o for o in ramps if o.run.schedule.name == "exponential_ramp"][-1]
        reading, end = read(bracket, self.facts.start_loss), linear[0].run.schedule.max_lr
        if reading is None or reading.at_end or not self._has_learnt(bracket):
            reason = f"no answer: {self._nothing_broke(end)}"
            return Decision(self.name, self.kind, reason, answered=False, evidence=evidence)
        max_lr = round_to(self.margin * reading.max_lr)
        said = f" in the exponential ramp; the linear ones broke nowhere up to lr {end:.2g}"
        return self._found(max_lr, (max_lr, round_to(self.margin * end)), said, evidence)

    def _found(
        self, max_lr: float, interval: tuple[float, float], said: str, evidence: dict[str, Any]
    ) -> Decision:
        reason = (
            f"max_lr {max_lr:.3g}: {self.margin:g} x the last rate at which held-out loss stays"
            f" near its minimum{said}"
        )
        values = {"max_lr": max_lr, "min_lr": round_to(max_lr / 10)}
        return Decision(self.name, self.kind, reason, values, interval=interval, evidence=evidence)

    def _steps(self, batch_size: int) -> int:
        steps = self.facts.steps(self.share, batch_size)
        return min(max(steps, self.least_steps), self.most_steps)

    def _bracket(self, recipe: Recipe) -> Run:
        return ramp(
            recipe,
            self.facts,
            "exponential_ramp",
            self.start_lr,
            self.end_lr,
            self._steps(recipe.batch_size),
            replicate=0,
        )

    def _linear(self, recipe: Recipe, end: float, steps: int) -> list[Run]:
        return [
            ramp(recipe, self.facts, "range_test", end / 100, end, steps, replicate)
            for replicate in range(self.ramps)
        ]

    def _again(self, run: Run, problem: Problem) -> Run:
        """Return the bracket once more, longer; lower if it broke at once, higher if never."""
        low, high = run.schedule.min_lr, run.schedule.max_lr
        schedule = replace(run.schedule, max_lr=high * (100 if problem in ("flat", "open") else 1))
        if problem == "at once":
            schedule = replace(schedule, min_lr=low / 1000, max_lr=min(high, 100 * low))
        return replace(run, schedule=schedule, steps=2 * run.steps, label=run.label + " again")

    def _hand_off(self, bracket: Outcome) -> float:
        """Return the end of the linear ramps: 3 x the bracket's mark.

        A linear ramp spends most of its steps at high rates; one that ends much too high has not
        learnt anything when it comes to the rates that matter, and reads too high. A bracket that
        never fell below chance is read where it breaks.
        """
        reading = read(bracket, self.facts.start_loss)
        mark = (reading and reading.max_lr) or suggest.within_drop(*_usable(bracket), math.inf)
        return round_to(HAND_OFF * (mark or bracket.run.schedule.min_lr))

    def _weak(self, reading: Reading | None) -> bool:
        return reading is None or reading.drop < self.least_drop

    def _problem(self, outcome: Outcome) -> Problem | None:
        """Return why a ramp says too little about where the edge is, None if it says enough."""
        reading = read(outcome, self.facts.start_loss)
        if len(_usable(outcome)[0]) < 3:
            return "at once"
        if not _stopped(outcome) and (reading is None or reading.drop < FLAT):
            return "flat"
        if reading is not None and reading.at_end:
            return "open"
        return "too little" if self._weak(reading) else None

    def _why_not(self, outcomes: Sequence[Outcome], linear: Sequence[Outcome]) -> str:
        """Return why there is no answer, with numbers and a way out."""
        if not outcomes or all(o.state == "failed" for o in outcomes):
            return "every ramp failed"
        if not linear:
            return self._why_no_bracket(outcomes[-1])
        readings = [read(o, self.facts.start_loss) for o in linear]
        fell = sorted(
            (0.0 if r is None else 100 * max(0.0, r.drop) for r in readings), reverse=True
        )
        if _most(r is not None and r.at_end for r in readings):
            return self._nothing_broke(linear[0].run.schedule.max_lr)
        if _most(self._weak(r) for r in readings):
            return (
                f"the ramps fell too little, by {fell[0]:.0f} % of chance loss at most where"
                f" {100 * self.least_drop:.0f} % are needed: allow more steps ({self.more_steps})"
            )
        return (
            "the ramps disagree: they fell by "
            + ", ".join(f"{share:.0f} %" for share in fell)
            + f" of chance loss, {sum(r is not None and r.at_end for r in readings)} of them did"
            f" not break: allow more steps ({self.more_steps}) or more ramps"
        )

    def _why_no_bracket(self, bracket: Outcome) -> str:
        curve, problem = bracket.curve, self._problem(bracket)
        if problem == "open":
            return self._nothing_broke(float(curve.lr[-1]))
        if problem == "flat":
            return (
                f"held-out loss is flat: from lr {curve.lr[0]:.2g} to {curve.lr[-1]:.2g} it stayed"
                f" between {curve.held_out_loss.min():.4g} and {curve.held_out_loss.max():.4g}"
                f" ({self._known}): does this model learn from these data at all?"
            )
        loss = curve.held_out_loss[0]
        found = f"{loss:.3g}" if math.isfinite(loss) else "not finite"
        return (
            f"it diverges at once: at lr {curve.lr[0]:.2g} held-out loss was {found}"
            f" ({self._known}): scale the inputs (in a regression the"
            " targets too), or lower start_lr"
        )

    @property
    def _known(self) -> str:
        """What the ramps' losses are to be compared with."""
        chance, start = self.facts.chance_loss, self.facts.start_loss
        return f"chance: {chance:.4g}" + (f", untrained: {start:.3g}" if start > chance else "")

    def _nothing_broke(self, lr: float) -> str:
        return f"it never diverges, nothing broke up to lr {lr:.2g}: raise end_lr"

    def _evidence(self, outcomes: Sequence[Outcome], linear: Sequence[Reading]) -> dict[str, Any]:
        chance = self.facts.start_loss
        names = {"exponential_ramp": "exponential", "range_test": "linear"}
        rules: dict[str, float | None] = {}
        for name, rule in suggest.RULES.items():
            marks = [m for r in linear if (m := rule(r.lr, r.loss, chance)) is not None]
            rules[name] = float(f"{median(marks):.4g}") if marks else None
        return {
            "ramps": [
                {
                    "shape": names[o.run.schedule.name],
                    "lr": o.curve.lr.tolist(),
                    "held_out_loss": o.curve.held_out_loss.tolist(),
                    "smoothed": suggest.smooth(o.curve.held_out_loss).tolist(),
                    "train_loss": o.curve.train_loss.tolist(),
                }
                for o in outcomes
            ],
            "rules": rules,
            "rows": [
                {
                    "rule": name,
                    "lr, median of the ramps": lr,
                    "used": f"max_lr is {self.margin:g} of it" if name == "within_drop" else "",
                }
                for name, lr in rules.items()
            ],
        }


def _most(said: Iterable[bool]) -> bool:
    answers = list(said)
    return 2 * sum(answers) > len(answers)


def round_to(value: float, digits: int = 3) -> float:
    """Return `value` with so many significant digits: more are noise."""
    return float(f"{value:.{digits}g}")
