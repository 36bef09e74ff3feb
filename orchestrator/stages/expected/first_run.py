"""The first full run: the recipe of the range test, trained at full length on held-out data.

It is an answer that every later stage can only improve, and the curve whose clue says where to look
for improvements: what only long training shows, overfitting above all, no short cycle can show. A
second run, of a quarter of the length, shows what the curve alone hides: where it ends as low, the
other three quarters have only fitted the training data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from orchestrator import clues
from orchestrator.clues import Clue
from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages.expected.decay import is_weak
from orchestrator.stages.expected.effects import noise
from orchestrator.stages.ramps import round_to
from orchestrator.stages.stage import Seen, Stage, cycle, option

LEARNT = 0.99  # x chance: a run that ends above it has learnt nothing
STOP = 10.0  # x the untrained loss: a full run that goes beyond is given up
QUARTER = 0.25  # of the final length
# A full run that ends above this share of the loss of a run of a quarter of the length, and above
# so much of the noise, overfits: on the tuning workloads more regularisation then helps
# (docs/design.md).
NO_LOWER, UNSURE = 0.98, 0.5


def full_run(recipe: Recipe, facts: Facts, replicate: int = 0, **changes: Any) -> Run:
    """Return the recipe's final run, on held-out data; its network is kept (`Run.kept`).

    The same run with `opens_test` goes on from that network.
    """
    label = changes.pop("label", f"full run lr {recipe.max_lr:.3g} wd {recipe.weight_decay:g}")
    return cycle(
        recipe,
        facts.steps(1, recipe.batch_size),
        replicate,
        label,
        prunable=False,
        kept=True,
        stop_loss=STOP * facts.start_loss,
        **changes,
    )


def lowered(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe at `factor` times its max_lr; at 1, or while that is unset, as it is."""
    if factor == 1 or recipe.max_lr is None:
        return recipe
    return recipe.at_lr(round_to(recipe.max_lr * factor))


def quarter_run(recipe: Recipe, facts: Facts) -> Run:
    """Return a cycle of the recipe of a quarter of the final length, as the choices compare."""
    steps = facts.steps(QUARTER, recipe.batch_size)
    return cycle(recipe, steps, 0, "a quarter of the final length")


@dataclass(frozen=True)
class FirstClue(Seen):
    """The clue of the first full run; `recipe` is the one that it trained."""

    facts: Facts

    @property
    def run(self) -> Run:
        """The full run."""
        return full_run(self.recipe, self.facts)

    @property
    def outcome(self) -> Outcome | None:
        """Its outcome, None before it is trained."""
        return self.by_run.get(self.run)

    @property
    def missing(self) -> list[Run]:
        """The runs that it is read from and that are not there, one at a time; [] for none."""
        if self.outcome is None:
            return [self.run]
        shorter = quarter_run(self.recipe, self.facts)
        return [] if shorter in self.known or self.overfits else [shorter]

    @property
    def overfits(self) -> bool:
        """Whether it does, by the runs that are there."""
        return self.clue.label == "overfitting"

    @cached_property
    def clue(self) -> Clue:
        """Overfitting if either run shows it, else the most serious clue of the full run's curve.

        Overfitting counts more than an unstable stretch before it. Raises ValueError while the full
        run is not there.
        """
        if self.outcome is None:
            raise ValueError("the first full run is not there")
        curve, start_loss = self.outcome.curve, self.facts.start_loss
        found = clues.segments(curve, start_loss)
        if over := next((clue for clue in found if clue.label == "overfitting"), None):
            return over
        shorter = self.by_run.get(quarter_run(self.recipe, self.facts))
        if shorter is not None and shorter.state == "finished":
            loss, quarter = self.outcome.held_out_loss, shorter.held_out_loss
            unsure = UNSURE * noise(self.facts, shorter, self.outcome)
            if loss > NO_LOWER * quarter * math.exp(unsure):
                reason = (
                    f"a run of a quarter of the length ends at {quarter:.4g}, so the rest has only"
                    " fitted the training data"
                )
                return Clue("overfitting", shorter.run.steps, self.outcome.run.steps, reason)
        return clues.read(curve, start_loss)


@dataclass(frozen=True, kw_only=True)
class FirstRun(Stage):
    """Trains the recipe at full length; where that is no better than chance, at lower rates.

    Then, unless its curve shows overfitting, for a quarter of the length, for the clue.
    """

    kind: ClassVar[str] = "first_run"
    gives: ClassVar[tuple[str, ...]] = ("max_lr", "min_lr")

    lower: float = option(0.25, "factor on max_lr for the next try after a lost run", gt=0, lt=1)
    tries: int = option(3, "full runs at most", ge=1)

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """The full run, again at a lower rate while it is no better than chance."""
        for number in range(self.tries):
            tried = FirstClue(lowered(recipe, self.lower**number), outcomes, self.facts)
            done, enough = tried.outcome, LEARNT * self.facts.chance_loss
            if done is None or done.held_out_loss <= enough:
                return tried.missing
            if done.state == "failed":
                break
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Return what the run reached and what its curve shows."""
        full = [o for o in outcomes if o.run.kept]
        last = min(reversed(full), key=self.end_loss)  # the lowest rate, if all are lost
        found = lowered(recipe, self.lower ** full.index(last))
        clue = FirstClue(found, outcomes, self.facts).clue
        start_loss = self.facts.start_loss
        rows = [
            self._row(o, clue if o is last else clues.read(o.curve, start_loss)) for o in outcomes
        ]
        evidence: dict[str, Any] = {"rows": rows}
        if not math.isfinite(self.end_loss(last)):
            tried = ", ".join(f"{o.run.schedule.max_lr:.3g}" for o in full)
            chance = f"the best constant prediction ({self.facts.chance_loss:.3g})"
            reason = f"no answer: no full run at max_lr {tried} was better than {chance}"
            return Decision(self.name, self.kind, reason, answered=False, evidence=evidence)
        guessing = self.guessing(last)
        changed = {} if found == recipe else {"max_lr": found.max_lr, "min_lr": found.min_lr}
        higher = "after runs at higher rates were no better than guessing"
        lower = f" at max_lr {found.max_lr:.3g}, {higher}" if changed else ""
        metric = f", {self.facts.metric} {last.metric:.4g}" if self.facts.metric else ""
        reason = (
            f"held-out loss {last.held_out_loss:.4g}{metric} in {self.facts.final_epochs:g}"
            f" epochs{lower}{f'; {guessing}' if guessing else ''}; {clue.label}: {clue.reason};"
            f" {self._advice(found, clue, last)}"
        )
        return Decision(self.name, self.kind, reason, changed, evidence=evidence)

    def _advice(self, recipe: Recipe, clue: Clue, outcome: Outcome) -> str:
        """Return what the clue says about the next stages and about the length of training."""
        epochs = outcome.curve.progress * self.facts.final_epochs
        if clue.label == "overfitting":
            best = int(outcome.curve.held_out_loss.argmin())
            weak = is_weak(recipe, self.facts)
            what = "a lower learning rate" if weak else "more weight decay"
            if best == len(epochs) - 1:
                return f"{what} is tried at full length"
            return (
                f"{what} is tried at full length; without it the lowest held-out loss is"
                f" {outcome.curve.held_out_loss[best]:.4g} after {epochs[best]:.3g} of"
                f" {self.facts.final_epochs:g} epochs"
            )
        if clue.label == "underfitting":
            return "training for longer would help more than any other setting"
        if clue.label == "horizontal":
            return "little is left to gain, so only batch size and learning rate are tried"
        return "the stages below look for a better recipe in short cycles"

    def _row(self, outcome: Outcome, clue: Clue) -> dict[str, Any]:
        row = {
            "max_lr": outcome.run.schedule.max_lr,
            "steps": outcome.run.steps,
            "held_out_loss": outcome.held_out_loss,
            "clue": clue.label,
        }
        if self.facts.metric:
            row[self.facts.metric] = outcome.metric
        return {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in row.items()}
