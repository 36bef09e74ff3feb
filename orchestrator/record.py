"""The record of a study when it ends: one entry per stage, from which `summary.json` is made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.audit import Audit
from orchestrator.clues import Clue
from orchestrator.curve import Outcome
from orchestrator.recipe import Decision, Recipe

Status = Literal["complete", "undecided", "interrupted", "failed"]
SCHEMA = 1


@dataclass(frozen=True)
class StageRecord:
    """A stage that has decided.

    Attributes:
        decision: What the stage decided.
        recipe: The recipe after the stage.
        outcomes: Its runs, in the order proposed.
        clues: What the curves of its training runs show, by the outcome's key.
        audits: Its pruned runs that were trained to the end after the decision.
    """

    decision: Decision
    recipe: Recipe
    outcomes: tuple[Outcome, ...]
    clues: Mapping[str, Clue] = field(default_factory=dict)
    audits: tuple[Audit, ...] = ()

    @property
    def seconds(self) -> float:
        """Training seconds of all its runs."""
        return sum(o.result.seconds for o in self.outcomes)

    @property
    def tested(self) -> list[Outcome]:
        """Its outcomes that have a result on the sealed test data."""
        return [o for o in self.outcomes if o.run.opens_test and o.state == "finished"]

    @property
    def examples(self) -> int:
        """Training examples that all its runs saw."""
        return sum(o.result.examples for o in self.outcomes)

    def without_answer(self) -> tuple[Status, str]:
        """Return status and reason of a study that ends with this stage, which gave no answer.

        The reason includes why its first failed run failed. The stage's own reason does not: to a
        stage a crash is an infinite loss.
        """
        reason, failed = self.decision.reason, [o for o in self.outcomes if o.state == "failed"]
        if failed:
            cure = " (a smaller recipe.batch_size may fit)" if failed[0].out_of_memory else ""
            reason += f"; {len(failed)} runs failed: {failed[0].reason}{cure}"
        return "failed" if len(failed) == len(self.outcomes) > 0 else "undecided", reason

    def summary(self) -> dict[str, Any]:
        """Return this stage's entry of summary.json."""
        d = self.decision
        states = Counter(o.state for o in self.outcomes)
        return {
            "name": d.stage,
            "kind": d.kind,
            "decision": dict(d.values),
            "answered": d.answered,
            "incumbent_kept": d.incumbent_kept,
            "interval": list(d.interval) if d.interval else None,
            "tied_with": list(d.tied_with),
            "reason": d.reason,
            "clues": dict(Counter(clue.label for clue in self.clues.values())),
            "trials": {s: states[s] for s in ("finished", "pruned", "failed")},
            "pruned": [
                {"run": o.run.label, "progress": _share(o), "reason": o.reason}
                for o in self.outcomes
                if o.state == "pruned"
            ],
            "examples": self.examples,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class StudyRecord:
    """A study, complete or not: its recipe, decisions, runs and cost.

    Attributes:
        study: Name of the study.
        status: "complete" (a recipe was found), "undecided", "interrupted" or "failed".
        recipe: The recipe after the last stage that has decided.
        stages: One record per stage that has decided, in their order.
        device: What it trained on, such as "cpu (2 threads)".
        machine: Processor, cores and operating system.
        versions: Versions of Python and of the libraries.
        metric: Name of the metric beside the loss, None without one.
        larger_is_better: Direction of the metric.
        total_seconds: Wall-clock seconds of all commands of the study.
        notes: Sentences on data and network for the report.
        reason: Why the study has no result; "" if it has one.
        model_dropout: The model's own dropout, None if it has none.
        budget: `max_seconds`, the seconds spent by all commands, whether the budget cut anything
            off, and what. None without a budget.
        first_test_seconds: Seconds of study time until the first result on the test data, None
            before that. Time between two commands does not count.
        overrides: The overrides of the command line, as typed.
        folder: The study's folder.
        inputs: How inputs were normalised (see `training.identity.preprocessing`), None if they
            were not.
        task: The loss as code (see `training.task.Task.as_code`) and the number of training
            `examples`, None where nothing is trained.
        final_epochs: Length of a final run in epochs.
        final_runs: Price of the runs of each stage in final runs, by its name.
        own_loop: Whether the user's own code trains (see `objectives.Description`).
    """

    study: str
    status: Status
    recipe: Recipe
    stages: Sequence[StageRecord]
    device: str
    machine: str
    versions: Mapping[str, str]
    metric: str | None
    larger_is_better: bool
    total_seconds: float
    notes: tuple[str, ...] = ()
    reason: str = ""
    model_dropout: float | None = None
    budget: Mapping[str, Any] | None = None
    first_test_seconds: float | None = None
    overrides: tuple[str, ...] = ()
    folder: Path | None = None
    inputs: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None
    final_epochs: float | None = None
    final_runs: Mapping[str, float] = field(default_factory=dict)
    own_loop: bool = False

    @property
    def decisions(self) -> list[Decision]:
        """What the stages decided, in their order."""
        return [stage.decision for stage in self.stages]

    @property
    def outcomes(self) -> list[Outcome]:
        """All outcomes; a run that two stages share counts once."""
        return list({o.key: o for s in self.stages for o in s.outcomes}.values())

    @property
    def trained(self) -> list[Outcome]:
        """The outcomes without those of runs that only went on from the end of another one."""
        runs = {o.run for o in self.outcomes}
        return [o for o in self.outcomes if o.run.goes_on_from not in runs]

    @property
    def doubling(self) -> float | None:
        """Change of the log held-out loss that twice the epochs are expected to bring the answer.

        By its tested run and its longest cycle of an eighth to a half of that length, as if the
        loss were a power of the length. None without such runs.
        """
        r = self.recipe
        same = [
            o
            for o in self.outcomes
            if o.state == "finished" and o.run.kind == "train" and 0 < o.held_out_loss < math.inf
            if (o.run.schedule.max_lr, o.run.schedule.max_momentum) == (r.max_lr, r.max_momentum)
            if (o.run.weight_decay, o.run.batch_size) == (r.weight_decay, r.batch_size)
            if o.run.dropout == r.dropout and o.run.replicate == 0
        ]
        full = next((o for o in same if o.run.opens_test), None)
        if full is None:
            return None
        shorter = [o for o in same if full.run.steps / 8 <= o.run.steps <= full.run.steps / 2]
        if not shorter:
            return None
        last = max(shorter, key=lambda o: o.run.steps)
        doublings = math.log2(full.run.steps / last.run.steps)
        return math.log(full.held_out_loss / last.held_out_loss) / doublings

    @property
    def audits(self) -> list[Audit]:
        """All audits; a run that two stages share counts once."""
        return list({a.pruned.key: a for s in self.stages for a in s.audits}.values())

    @property
    def final(self) -> StageRecord | None:
        """The record of the final stage, None if it did not run."""
        return next((s for s in self.stages if s.decision.kind == "final"), None)

    def summary(self) -> dict[str, Any]:
        """Return summary.json (schema 1), plain values only; numbers that do not exist are null."""
        recipe, states = self.recipe.values(), Counter(o.state for o in self.outcomes)
        return {
            "schema": SCHEMA,
            "study": self.study,
            "status": self.status,
            "reason": self.reason,
            "device": self.device,
            "machine": self.machine,
            "versions": dict(self.versions),
            "notes": list(self.notes),
            "overrides": list(self.overrides),
            "recipe": recipe,
            "model_dropout": self.model_dropout,
            "inputs": dict(self.inputs) if self.inputs else None,
            "stages": [
                {**s.summary(), "final_runs": self.final_runs.get(s.decision.stage)}
                for s in self.stages
            ],
            "final": self._final(),
            "budget": dict(self.budget) if self.budget else None,
            "cost": {
                "runs": {s: states[s] for s in ("finished", "pruned", "failed")},
                "examples": self._examples(),
                "final_runs": round(sum(self.final_runs.values()), 2) if self.final_runs else None,
                **self._spent(),
                "first_test_seconds": _rounded(self.first_test_seconds),
                "pruned_saving": self._pruned_saving(),
                "audit": self._audit(),
            },
        }

    def _final(self) -> dict[str, Any] | None:
        if self.final is None:
            return None
        evidence = self.final.decision.evidence
        tested = {k: (evidence.get(k) or {}).get("mean") for k in ("test_metric", "test_loss")}
        loss_alone = tested["test_metric"] is None and tested["test_loss"] is not None
        return {
            "metric": {
                "name": None if loss_alone else self.metric,
                "direction": "maximize" if self.larger_is_better else "minimize",
            },
            **{k: evidence.get(k) for k in ("test_metric", "test_loss", "epochs", "seconds")},
            "baselines": evidence.get("baselines", []),
            "doubling": self.doubling,
        }

    def _examples(self) -> int:
        """Training examples of all runs, audits included."""
        audits = sum(a.examples for a in self.audits)
        return audits + sum(o.result.examples for o in self.trained)

    def _spent(self) -> dict[str, float | None]:
        """Seconds of training and evaluation of all runs, audits included, and of all else.

        All else is null where runs were trained in parallel: training and evaluation then add up
        to more than the total.
        """
        training = sum(a.seconds for a in self.audits)
        training += sum(o.result.seconds for o in self.trained)
        evaluation = sum(a.evaluation_seconds for a in self.audits)
        evaluation += sum(o.result.evaluation_seconds for o in self.trained)
        other = self.total_seconds - training - evaluation
        return {
            "training_seconds": round(training, 3),
            "evaluation_seconds": round(evaluation, 3),
            "other_seconds": round(other, 3) if other >= 0 else None,
            "total_seconds": round(self.total_seconds, 3),
        }

    def _audit(self) -> dict[str, Any]:
        """How many runs were pruned, how many of these were audited, how many wrongly pruned."""
        audits = self.audits
        return {
            "pruned": sum(o.state == "pruned" for o in self.outcomes),
            "audited": len(audits),
            "wrong": sum(a.wrong for a in audits),
            "within_margin": sum(a.near for a in audits),
            "examples": sum(a.examples for a in audits),
            "training_seconds": round(sum(a.seconds for a in audits), 3),
        }

    def _pruned_saving(self) -> float:
        """Share of all planned training examples that pruned runs did not use.

        Audits are not subtracted: their cost is reported beside it.
        """
        planned = saved = 0
        for outcome in self.outcomes:
            planned += outcome.run.examples
            if outcome.state == "pruned":
                saved += outcome.run.examples - outcome.result.examples
        return round(saved / planned, 4) if planned else 0.0


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _share(outcome: Outcome) -> float | None:
    """Return the fraction of its steps that a run made."""
    return round(float(outcome.curve.progress[-1]), 4) if len(outcome.curve) else None
