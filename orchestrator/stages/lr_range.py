"""The LR range test: which max_lr?

Source: Smith 2018 (arXiv 1803.09820), section 4, and 2015 (arXiv 1506.01186), section 3.3. One
exponential ramp brackets the useful rates, then short linear ramps with different seeds measure;
each is read on held-out loss, and the median counts. Ours: the rule (`suggest.within_drop`), the
hand-off between the ramps, and that no answer is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages import ends, suggest
from orchestrator.stages.no_answer import NoAnswer, nothing_broke
from orchestrator.stages.ramps import (
    Problem,
    Reading,
    fall,
    most,
    problem,
    ramp,
    read,
    round_to,
    usable,
)
from orchestrator.stages.stage import Stage, option

# Of the last good lr, measured (benchmarks/archive/lr_rules.py): twice the best rate loses
# everything, half of it costs little, and `lr_check` finds what was left on the table.
LR_FACTOR = 0.4
ROUNDS = 6  # of ramps at most, each further, while none breaks
LEARNT = 0.5  # of the untrained loss: a ramp that fell so far says something by its minimum
END_LR, END_LR_ADAPTIVE = 10.0, 0.1  # of the bracket: Adam's rates are lower
HAND_OFF = 3  # x the bracket's mark: where the linear ramps end
LONGER = 4  # no ramp is made more than so many times as long as planned: twice two


@dataclass(frozen=True, kw_only=True)
class LRRange(Stage):
    """Finds max_lr (and min_lr, a tenth of it)."""

    kind: ClassVar[str] = "lr_range"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")
    # What the user may do where ramps fall too little:
    way_out: ClassVar[str] = (
        "allow more steps (max_steps, share), accept less (min_drop), or set recipe.max_lr and"
        " leave lr_range out of the plan"
    )

    start_lr: float = option(1e-5, "first lr of the bracket", gt=0)
    end_lr: float | None = option(
        None, "last lr of the bracket; null: 10, for all optimisers but SGD 0.1", gt=0
    )
    share: float = option(0.15, "length of a ramp as a share of the final run", gt=0, le=1)
    min_steps: int = option(80, "a ramp has at least so many steps", ge=10)
    max_steps: int = option(400, "and at most so many", ge=10)
    ramps: int = option(3, "linear ramps, each with its own seed", ge=1, le=10)
    lr_factor: float = option(
        LR_FACTOR, "max_lr as a share of the last good lr of the ramps", gt=0, le=1
    )
    min_drop: float = option(
        0.1, "a ramp must fall by this share of the untrained loss", ge=0, lt=1
    )

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Bracket, again if it says too little; then linear ramps until most say something."""
        brackets = [o for o in outcomes if o.run.schedule.name == "exponential_ramp"]
        linear = [o for o in outcomes if o.run.schedule.name == "range_test"]
        if not brackets:
            return [self._bracket(recipe)]
        if not linear:
            return self._after_bracket(recipe, brackets)
        if len(linear) >= self.ramps and all(o.state == "failed" for o in outcomes):
            return []  # also at low rates: the rates are not why
        if search := self._search(recipe, linear):
            return self._searched(recipe, search)
        if len(linear) == self.ramps:
            return self._after_first(recipe, linear)
        return self._yet_further(recipe, linear, brackets[-1])

    def _after_bracket(self, recipe: Recipe, brackets: Sequence[Outcome]) -> list[Run]:
        last = brackets[-1]
        problem = self._problem(last)
        if problem == "open" and recipe.adaptive and self._drop(last) >= self.min_drop:
            problem = None  # ramps of Adam go further by themselves
        if problem and len(brackets) == 1:
            return [self._again(last.run, problem)]
        if problem in ("at once", "flat", "open"):
            return []
        return self._linear(recipe, self._hand_off(last), last.run.steps)

    def _drop(self, outcome: Outcome) -> float:
        reading = read(outcome, self.facts.start_loss)
        return 0.0 if reading is None else reading.drop

    def _has_learnt(self, bracket: Outcome) -> bool:
        return self._drop(bracket) >= LEARNT

    def _yet_further(
        self, recipe: Recipe, linear: Sequence[Outcome], bracket: Outcome
    ) -> list[Run]:
        """Widen the ramps again; those of Adam not if the bracket has learnt: it answers."""
        last = linear[-self.ramps :]
        answered = recipe.adaptive and self._has_learnt(bracket)
        if not self._open(last) or answered or len(linear) >= ROUNDS * self.ramps:
            return []
        schedule = last[0].run.schedule
        return self._linear(recipe, round_to(HAND_OFF * schedule.max_lr), last[0].run.steps)

    def _after_first(self, recipe: Recipe, linear: Sequence[Outcome]) -> list[Run]:
        """Look once more, further or nearer, if most of the ramps broke nowhere or at once."""
        end, steps = linear[0].run.schedule.max_lr, linear[0].run.steps
        if self._open(linear):
            return self._linear(recipe, HAND_OFF * end, steps)
        return self._linear(recipe, end / 10, steps) if self._at_once(linear) else []

    def _open(self, ramps: Sequence[Outcome]) -> bool:
        return most(r is not None and r.at_end for r in self._readings(ramps))

    def _at_once(self, ramps: Sequence[Outcome]) -> bool:
        return most(self._problem(o) == "at once" for o in ramps)

    # --- where ramps fell too little, disagree, or go too far: other ends, and longer ones

    def _search(self, recipe: Recipe, linear: Sequence[Outcome]) -> ends.Search | None:
        """Return the ramps of which the best end is to be found, None if rounds need no search.

        It begins after the first round of which most say nothing; with Adam, whose ramps need not
        break, also after one that went further than the last and fell less.
        """
        for at in range(0, len(linear), self.ramps):
            last = linear[at : at + self.ramps]
            if len(last) < self.ramps or self._at_once(last):
                continue
            first = [o for o in linear[: at + self.ramps] if o.run.replicate == 0]
            fell = [fall(o, self.facts.start_loss) for o in first]
            less = recipe.adaptive and at > 0 and ends.further(fell[-2], fell[-1])
            if less or not (self._open(last) or self._settled(last)):
                return ends.Search(
                    linear if recipe.adaptive else linear[at:],
                    self.facts.start_loss,
                    longer_first=not recipe.adaptive,
                    longest=LONGER * self._steps(recipe.batch_size),
                )
        return None

    def _searched(self, recipe: Recipe, search: ends.Search) -> list[Run]:
        """Compare ends at one length, then make the ramps to the best one longer."""
        steps, falls, counted = search.steps, search.falls, search.counted
        if steps < search.compared:
            return self._linear(recipe, search.ramps[0].run.schedule.max_lr, search.compared)
        settled = self._settled(counted, search.lower)
        if settled and search.longer_first:
            return []
        if steps == search.compared:
            open_ = len(counted) == self.ramps and self._open(counted) and not search.lower
            if open_ and len(falls) < ends.MOST:
                return self._linear(recipe, round_to(ends.STEP * max(falls)), steps)[:1]
            if lower := ends.another(falls):
                return self._linear(recipe, round_to(lower), steps)[:1]
            if len(counted) < self.ramps:
                return self._linear(recipe, ends.best(falls), steps)[len(counted) :]
        if settled or not search.longer:
            return []
        return self._linear(recipe, ends.best(falls), search.longer)

    def _settled(self, ramps: Sequence[Outcome], lower: bool = False) -> bool:
        """Whether most ramps of a whole round say something."""
        good = [not self._fault(r, lower) for r in self._readings(ramps)]
        return len(good) == self.ramps and most(good)

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the median of the linear ramps' readings, or why there is none."""
        ramps = [o for o in outcomes if o.curve.lr.size]
        linear = [o for o in outcomes if o.run.schedule.name == "range_test"]
        search = self._search(recipe, linear)
        linear = [o for o in self._last(linear, search) if o.curve.lr.size]
        lower = search is not None and search.lower
        readings = self._readings(linear)
        good = [r for r in readings if r is not None and not self._fault(r, lower)]
        evidence = self._evidence([r for r in readings if r is not None])
        if len(good) * 2 <= self.ramps:
            if recipe.adaptive and self._open(linear):
                return self._by_bracket(ramps, linear, evidence)
            return self._none(self.why_not(ramps, linear), evidence)
        marks = sorted(round_to(self.lr_factor * r.max_lr) for r in good)
        said = self._median_of(readings, marks, lower) + (search.told() if search else "")
        known = ends.STEP**0.5 if lower else 1.0  # half-way to the neighbours, or as read
        interval = round_to(marks[0] / known), round_to(marks[-1] * known)
        return self._found(round_to(median(marks)), interval, said, evidence)

    def _last(self, linear: Sequence[Outcome], search: ends.Search | None) -> Sequence[Outcome]:
        return search.counted if search else linear[-self.ramps :]

    def why_not(self, ramps: Sequence[Outcome], linear: Sequence[Outcome]) -> str:
        """Return why ramps say nothing; `linear`: those that were to give the answer."""
        return NoAnswer(self.facts, self.min_drop, self.way_out).why(ramps, linear)

    def _none(self, why: str, evidence: dict[str, Any]) -> Decision:
        return Decision(
            self.name, self.kind, f"no answer: {why}", answered=False, evidence=evidence
        )

    def _readings(self, ramps: Sequence[Outcome]) -> list[Reading | None]:
        return [read(o, self.facts.start_loss) for o in ramps]

    def _problem(self, outcome: Outcome) -> Problem | None:
        return problem(outcome, self.facts.start_loss, self.min_drop)

    def _median_of(
        self, readings: Sequence[Reading | None], marks: Sequence[float], lower: bool
    ) -> str:
        """Say which ramps count and their range, and of those that do not why."""
        faults = [fault for r in readings if (fault := self._fault(r, lower))]
        faults += ["failed"] * (self.ramps - len(readings))
        if self.ramps == 1:
            return f", in one ramp{f' ({faults[0]})' if faults else ''}"
        counted = str(self.ramps) if not faults else f"{len(marks)} of {self.ramps}"
        told = [f"{marks[0]:.3g} to {marks[-1]:.3g}" if len(marks) > 1 else "one ramp"]
        told += [f"{faults.count(f)} {f}" for f in dict.fromkeys(faults)]
        return f", median of {counted} ramps ({'; '.join(told)})"

    def _fault(self, reading: Reading | None, lower: bool = False) -> str:
        """Return why a linear ramp does not count, "" if it does.

        `lower`: ramps to a higher end fell less, so that these need not break.
        """
        if reading is None:
            return "learnt nothing"
        if reading.at_end and not lower:
            return "broke nowhere"
        return "fell too little" if reading.drop < self.min_drop else ""

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
            return self._none(f"{nothing_broke(end)}: {self.way_out}", evidence)
        max_lr = round_to(self.lr_factor * reading.max_lr)
        said = f" in the exponential ramp; the linear ones broke nowhere up to lr {end:.2g}"
        return self._found(max_lr, (max_lr, round_to(self.lr_factor * end)), said, evidence)

    def _found(
        self, max_lr: float, interval: tuple[float, float], said: str, evidence: dict[str, Any]
    ) -> Decision:
        reason = (
            f"max_lr {max_lr:.3g}: {self.lr_factor:g} x the last rate at which held-out loss stays"
            f" near its minimum{said}"
        )
        values = {"max_lr": max_lr, "min_lr": round_to(max_lr / 10)}
        return Decision(self.name, self.kind, reason, values, interval=interval, evidence=evidence)

    def _steps(self, batch_size: int) -> int:
        steps = self.facts.steps(self.share, batch_size)
        return min(max(steps, self.min_steps), self.max_steps)

    def _end_lr(self, recipe: Recipe) -> float:
        usual = END_LR_ADAPTIVE if recipe.adaptive else END_LR
        return self.end_lr or max(usual, 10 * self.start_lr)

    def _bracket(self, recipe: Recipe) -> Run:
        return ramp(
            recipe,
            self.facts,
            "exponential_ramp",
            self.start_lr,
            self._end_lr(recipe),
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
        never fell is read where it breaks.
        """
        reading = read(bracket, self.facts.start_loss)
        mark = (reading and reading.max_lr) or suggest.within_drop(*usable(bracket), math.inf)
        return round_to(HAND_OFF * (mark or bracket.run.schedule.min_lr))

    def rules(self, ramps: Sequence[Reading]) -> dict[str, float | None]:
        """Return for each suggestion rule the median of its rates in the ramps."""
        start = self.facts.start_loss
        rules: dict[str, float | None] = {}
        for name, rule in suggest.RULES.items():
            marks = [m for r in ramps if (m := rule(r.lr, r.loss, start)) is not None]
            rules[name] = float(f"{median(marks):.4g}") if marks else None
        return rules

    def _evidence(self, linear: Sequence[Reading]) -> dict[str, Any]:
        rules = self.rules(linear)
        return {
            "rules": rules,
            "rows": [
                {
                    "rule": name,
                    "lr, median of the ramps": lr,
                    "used": f"max_lr is {self.lr_factor:g} of it" if name == "within_drop" else "",
                }
                for name, lr in rules.items()
            ],
        }
