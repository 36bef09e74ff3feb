"""The final stage of a cheap study: the best of its full runs, tested once.

The first recipe was trained at full length before anything else. A recipe that the stages have
changed is trained at full length too. The one with the lower held-out loss is the answer; how much
of the difference is expected to last, its noise says. Its network is tested on the sealed data,
beside an untuned recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages import tested as sealed
from orchestrator.stages.comparison import percent
from orchestrator.stages.expected.effects import Estimate, block_noise, noise
from orchestrator.stages.expected.first_run import full_run, lowered
from orchestrator.stages.measure import equal_time_steps, measure
from orchestrator.stages.stage import Seen, Stage

CHANGES = Estimate(0.0, 0.15)  # of the stages together, on the log of the final loss
LOWER, TRIES = 0.25, 3  # as `lower` and `tries` of the first run


@dataclass(frozen=True, kw_only=True)
class Answer(Stage):
    """Chooses among full runs and opens the sealed test.

    `seeds`: sealed runs of the answer; the first goes on from the full run that is there already.
    `only`: recipes whose full runs are there; no other is trained (None: what is missing is).
    """

    kind: ClassVar[str] = "final"
    gives: ClassVar[tuple[str, ...]] = tuple(Recipe().values())  # it may go back as a whole

    seeds: int = 1
    baselines: bool = True
    only: tuple[Recipe, ...] | None = None

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Full runs that are missing, then the sealed ones."""
        seen = Seen(recipe, outcomes)
        held_out = [full_run(r, self.facts) for r in self._trained(seen)]
        if missing := [run for run in dict.fromkeys(held_out) if run not in seen.known]:
            return missing
        if all(math.isinf(self.end_loss(o)) for o in outcomes if o.run in held_out):
            return []  # nothing to test
        answer, _ = self._answer(seen)
        recipes = self._tested(recipe, answer)
        sizes = {tested.batch_size for tested in recipes.values()}
        calibrate = measure("calibrate", answer, sorted(sizes))
        if len(sizes) > 1 and calibrate not in seen.known:
            return [calibrate]
        tests = [run for name in recipes for run in self._sealed(name, recipes, seen)]
        return [run for run in dict.fromkeys(tests) if run not in seen.known]

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the answer with its test result, or that it did not train."""
        seen = Seen(recipe, outcomes)
        answer, why = self._answer(seen)
        recipes = self._tested(recipe, answer)
        tested = {
            name: [
                seen.by_run[run] for run in self._sealed(name, recipes, seen) if run in seen.by_run
            ]
            for name in recipes
        }
        evidence = sealed.evidence(self.facts, recipes, tested, self._rows(seen, recipes, tested))
        for baseline in evidence["baselines"]:
            baseline["test_loss_change"] = self._change(tested["answer"], tested[baseline["name"]])
        trained = seen.by_run.get(full_run(answer, self.facts)) if evidence["model"] else None
        if trained and math.isinf(self.end_loss(trained)):
            reason = f"no answer: {self.guessing(trained)}"
            return Decision(self.name, self.kind, reason, answered=False, evidence=evidence)
        if trained and (guessing := self.guessing(trained)):
            evidence["warning"] = guessing
            why = f"{guessing}; {why}"
        return sealed.decision(self, recipe, answer, evidence, why)

    def full_runs(self, recipe: Recipe) -> list[Run]:
        """Return the runs that are to be trained, if they are not there."""
        runs = [full_run(r, self.facts) for r in self.rivals(recipe)]
        return [*runs, *(full_run(recipe, self.facts, 1 + n) for n in range(self.more))]

    @property
    def more(self) -> int:
        """Further runs that are as long as the answer's: its other seeds, and untuned training."""
        return self.seeds - 1 + (self.baselines and self.only is None)

    def rivals(self, recipe: Recipe) -> list[Recipe]:
        """Return the recipes with a claim to be the answer, the first full run's first."""
        first = recipe.after("first_run")
        rivals = [first, recipe] if first is not None and first != recipe else [recipe]
        if self.only is None:
            return rivals
        return [r for r in rivals if r in self.only] or rivals[:1]

    def _trained(self, seen: Seen) -> list[Recipe]:
        """Return the rivals, and lower learning rates where all of them were lost."""
        recipes = self.rivals(seen.recipe)
        for number in range(1, TRIES):
            ends = [seen.by_run.get(full_run(r, self.facts)) for r in recipes]
            lost = all(o and o.state != "failed" and math.isinf(self.end_loss(o)) for o in ends)
            if not lost or self.only is not None or seen.recipe.max_lr is None:
                break
            recipes.append(lowered(seen.recipe, LOWER**number))
        return recipes

    def _answer(self, seen: Seen) -> tuple[Recipe, str]:
        """Return the recipe with the lowest expected loss, and why."""
        rivals = self._trained(seen)
        if len(rivals) > len(self.rivals(seen.recipe)):
            return rivals[-1], "at higher rates the full run was lost"
        if len(rivals) == 1:
            same = seen.recipe.after("first_run") == rivals[0] and self.only is None
            return rivals[0], "no later stage changed the first recipe" if same else "the recipe"
        ends = [seen.by_run.get(full_run(r, self.facts)) for r in rivals]
        losses = [self.end_loss(o) if o else math.inf for o in ends]
        first, tuned = rivals
        if not math.isfinite(losses[1]):
            return (
                first,
                "the changed recipe did not train at full length, so the first one stands",
            )
        if not math.isfinite(losses[0]) or ends[0] is None:
            return tuned, "the first recipe did not train at full length"
        change = math.log(losses[1] / losses[0])
        found = CHANGES.updated(change, noise(self.facts, ends[0], ends[1]))
        low, high = found.interval()
        told = (
            f"held-out loss of the full runs {percent(change)}, expected final loss"
            f" {percent(found.mean)} (80 %: {percent(low)} to {percent(high)})"
        )
        if change < 0:
            return tuned, f"against the first recipe: {told}"
        return first, f"the first recipe stands: what the stages changed has {told}"

    def _tested(self, recipe: Recipe, answer: Recipe) -> dict[str, Recipe]:
        """Return the recipes of the sealed round by name, the answer first."""
        found: dict[str, Recipe] = {"answer": answer}
        first = recipe.after("first_run")
        if self.baselines and first is not None and self.only is None:
            found["range_test_only"] = first  # its full run is there: a test costs next to nothing
        if self.baselines and self.only is None:
            found["untuned"] = sealed.untuned(recipe, self.facts)
        return found

    def _sealed(self, name: str, recipes: Mapping[str, Recipe], seen: Seen) -> list[Run]:
        """Return the sealed runs of a recipe; untuned training gets the time of the answer's."""
        own, answer = recipes[name], recipes["answer"]
        runs = [
            full_run(own, self.facts, seed, opens_test=True, label=f"{name} tests seed {seed}")
            for seed in range(self.seeds if name == "answer" else 1)
        ]
        if name != "untuned":
            return runs
        sizes = answer.batch_size, own.batch_size
        steps = equal_time_steps(self.facts, seen.outcomes, *sizes)
        return [replace(run, steps=steps) for run in runs]

    def _change(self, own: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, float] | None:
        """Return the log ratio of test losses, the answer's over a baseline's, and its noise.

        None for several seeds, whose spread says more, and for a loss that is not above 0.
        """
        losses = [o.result.test_loss for o in (*own, *other)]
        if len(losses) != 2 or not all(0 < loss < math.inf for loss in losses):
            return None
        unsure = block_noise(own[0], other[0], "test_blocks")
        change = {"log_ratio": math.log(losses[0] / losses[1]), "noise": unsure}
        return change if math.isfinite(unsure) else None

    def _rows(
        self,
        seen: Seen,
        recipes: Mapping[str, Recipe],
        tested: Mapping[str, Sequence[Outcome]],
    ) -> list[dict[str, Any]]:
        rows = []
        for own in self.rivals(seen.recipe):
            if done := seen.by_run.get(full_run(own, self.facts)):
                name = "first" if own == seen.recipe.after("first_run") else "changed"
                rows.append(sealed.row(self.facts, name, "held out", own, [done]))
        for name, own in recipes.items():
            if tested[name]:
                rows.append(sealed.row(self.facts, name, "sealed test", own, tested[name]))
        return rows
