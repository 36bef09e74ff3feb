"""The final stage: is the tuned recipe really better, and what does it reach on sealed test data?

Round 1 trains the recipe and `range_test_only` (the recipe as the range test left it) with fresh
seeds and compares them on held-out data. The simpler one is the answer unless the tuned one is
better there too: beyond noise, or by less and so only in the direction of what its stages found
beyond theirs (ours, measured: docs/design.md). Round 2 trains the answer and the baselines with
other fresh seeds and opens the sealed test data, once. All runs get the same training time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages import tested as sealed
from orchestrator.stages.measure import equal_time_steps, measure
from orchestrator.stages.noise import Difference, differences
from orchestrator.stages.stage import Seen, Stage, cycle, option

# Replicates that no other stage uses: the first round chooses, the second one reports.
CONFIRM, SEALED = 1000, 2000


@dataclass(frozen=True, kw_only=True)
class Final(Stage):
    """Confirms the answer on fresh seeds and measures it, once, on the sealed test data."""

    kind: ClassVar[str] = "final"
    gives: ClassVar[tuple[str, ...]] = tuple(Recipe().values())  # it may go back as a whole

    epochs: float = option(10.0, "length of a final run in epochs", gt=0)
    seeds: int = option(3, "seeds of each final recipe", ge=1)
    baselines: bool = option(True, "train range_test_only and untuned too (lr 0.1, batch 128)")

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Calibration where batch sizes differ, then the confirming round, then the sealed one."""
        seen = Seen(recipe, outcomes)
        known = seen.known
        sizes = {r.batch_size for r in self._recipes(recipe).values()}
        calibrate = measure("calibrate", recipe, sorted(sizes))
        if len(sizes) > 1 and calibrate not in known:
            return [calibrate]
        confirm = self._confirming(seen)
        if missing := [run for run in confirm if run not in known]:
            return missing
        sealed = dict.fromkeys(self._sealed(seen))  # recipes may be the same
        return [run for run in sealed if run not in known]

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return the answer with its test results, or that it did not train."""
        seen = Seen(recipe, outcomes)
        answer, why = self._answer(seen)
        tested = {
            name: [o for o in outcomes if o.run in self._cycles(seen, name, r, SEALED)]
            for name, r in self._named(recipe, answer).items()
        }
        recipes = self._named(recipe, answer)
        evidence = sealed.evidence(self.facts, recipes, tested, self._rows(seen, answer))
        return sealed.decision(self, recipe, answer, evidence, why)

    def _recipes(self, recipe: Recipe) -> dict[str, Recipe]:
        """Return the recipes of the final stage by name; two of them may be the same."""
        recipes = {"answer": recipe}
        first = recipe.after("lr_range")
        if self.baselines and first is not None:
            recipes["range_test_only"] = first
        if self.baselines:
            recipes["untuned"] = sealed.untuned(recipe, self.facts)
        return recipes

    def _named(self, recipe: Recipe, answer: Recipe) -> dict[str, Recipe]:
        """Return the recipes of the sealed round by name: the answer and the baselines."""
        return {**self._recipes(recipe), "answer": answer}

    def _confirming(self, seen: Seen) -> list[Run]:
        recipes = self._recipes(seen.recipe)
        if recipes.get("range_test_only", seen.recipe) == seen.recipe:  # nothing to choose between
            return []
        names = ("answer", "range_test_only")
        by_name = [self._cycles(seen, n, recipes[n], CONFIRM) for n in names]
        return [run for pair in zip(*by_name, strict=True) for run in pair]

    def _sealed(self, seen: Seen) -> list[Run]:
        answer, _ = self._answer(seen)
        by_name = [
            self._cycles(seen, n, r, SEALED) for n, r in self._named(seen.recipe, answer).items()
        ]
        return [run for group in zip(*by_name, strict=True) for run in group]

    def _cycles(self, seen: Seen, name: str, own: Recipe, first: int) -> list[Run]:
        """Return the runs of one recipe: as long as the incoming recipe's final run takes."""
        sizes = seen.recipe.batch_size, own.batch_size
        steps = equal_time_steps(self.facts, seen.outcomes, *sizes)
        role = "confirms" if first == CONFIRM else "tests"
        return [
            cycle(
                own,
                steps,
                first + i,
                f"{name} {role} seed {i}",
                prunable=False,
                opens_test=first == SEALED,
            )
            for i in range(self.seeds)
        ]

    def _answer(self, seen: Seen) -> tuple[Recipe, str]:
        """Return the better of the recipe and `range_test_only` on held-out data, and why."""
        recipes = self._recipes(seen.recipe)
        if seen.recipe.after("lr_range") is None:
            return seen.recipe, "no range test in this plan to compare with"
        if "range_test_only" not in recipes:
            return (
                seen.recipe,
                "not compared with the range test's recipe, as there are no baselines",
            )
        simple = recipes["range_test_only"]
        if simple == seen.recipe:
            return seen.recipe, "no later stage changed the range test's recipe"
        losses: dict[float, dict[int, float]] = {}
        for number, name in enumerate(("range_test_only", "answer")):
            runs = self._cycles(seen, name, recipes[name], CONFIRM)
            losses[number] = {
                o.run.replicate: self.end_loss(o) for o in seen.outcomes if o.run in runs
            }
        diff = differences(losses, 0).get(1)
        if diff is not None:
            wins, why = _verdict(diff)
            return seen.recipe if wins else simple, why
        if losses[1] and all(math.isfinite(x) for x in losses[1].values()):
            return seen.recipe, "the range test's recipe alone did not train"
        return simple, "neither recipe trained on fresh seeds"

    def _rows(self, seen: Seen, answer: Recipe) -> list[dict[str, Any]]:
        rows = []
        rounds = ((CONFIRM, self._recipes(seen.recipe)), (SEALED, self._named(seen.recipe, answer)))
        for first, recipes in rounds:
            for name, own in recipes.items():
                runs = self._cycles(seen, name, own, first)
                done = [o for o in seen.outcomes if o.run in runs]
                if not done:
                    continue
                which = "confirm" if first == CONFIRM else "sealed test"
                rows.append(sealed.row(self.facts, name, which, own, done))
        return rows


def _verdict(tuned: Difference) -> tuple[bool, str]:
    """Return whether the tuned recipe is the answer and why; `tuned`: it against the simple one."""
    if not math.isfinite(tuned.mean):
        return False, "the tuned recipe failed on a fresh seed: range test and defaults stand"
    change = f"{100 * math.expm1(tuned.mean):+.1f} %"
    noise = f"noise ± {100 * math.expm1(tuned.bound):.0f} %" if math.isfinite(tuned.bound) else ""
    if tuned.better_by(0):
        return True, f"held-out loss {change} against range test and defaults, {noise}"
    if tuned.mean < 0:
        return True, (
            f"held-out loss {change} against range test and defaults on fresh seeds, as in the"
            f" stages, though within {noise or 'noise that was not measured'}: a tie by"
            " itself, so what they chose stands"
        )
    return False, (
        f"no stage beat range test and defaults on fresh seeds (held-out loss {change},"
        f" {noise or 'noise not measured'}), so the simpler recipe stands"
    )
