"""What is decided (`Recipe`, `Decision`) and what is to be run (`Run`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from orchestrator.schedules import Schedule

RunKind = Literal["train", "ramp", "probe", "calibrate"]


@dataclass(frozen=True)
class Facts:
    """What is known of the task before anything has run; every stage plans with these.

    `train_examples`, `held_out_examples`: sizes of the two splits. `chance_loss`: held-out loss of
    a model that knows nothing (ln C for C classes), in the loss's own unit. `final_epochs`: length
    of the final run in epochs, the horizon that short runs are a fraction of. `untrained_loss`:
    held-out loss of a network before any training where that is above chance (0: it is not, or not
    known), as in a regression whose targets are far from 0. `metric` is the name of the measure
    shown beside the loss (None: there is none), `larger_is_better` its direction. `dropout` is the
    model's own probability of dropping a unit, the largest where its dropout modules differ; None
    where it has no such module. `optimizer`, `nesterov`: as a recipe has them, where what trains
    has its own optimiser; "": those of the config.
    """

    train_examples: int
    held_out_examples: int
    chance_loss: float
    final_epochs: float
    metric: str | None = None
    larger_is_better: bool = True
    dropout: float | None = None
    untrained_loss: float = 0.0
    optimizer: str = ""
    nesterov: bool = False

    @property
    def start_loss(self) -> float:
        """Held-out loss where a run starts, at least chance: what is far above it has diverged."""
        return max(self.chance_loss, self.untrained_loss)

    @property
    def final_examples(self) -> float:
        """Examples that the final run sees: the horizon H of the stages."""
        return self.final_epochs * self.train_examples

    def steps(self, share: float, batch_size: int) -> int:
        """Steps of `batch_size` in a run of `share` of the final run's examples, at least 10."""
        return max(10, round(share * self.final_examples / batch_size))


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters to train with. lr and momentum per step; `max_lr` None: not known yet.

    `weight_decay` is that of the optimiser: coupled L2 in `torch.optim.SGD`, decoupled in AdamW.
    `dropout` is the probability of all of the model's dropout modules, None: they stay as they are.
    `optimizer_options`: what of the config's `optimizer` is switched on (label smoothing, ...); no
    stage changes it. `history` holds the recipe after each stage, oldest first; it takes no part in
    comparisons.
    """

    max_lr: float | None = None
    min_lr: float | None = None
    max_momentum: float = 0.9
    min_momentum: float = 0.85
    weight_decay: float = 5e-4
    batch_size: int = 64
    schedule: str = "paper"
    optimizer: str = "sgd"
    nesterov: bool = True
    dropout: float | None = None
    optimizer_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    history: tuple[tuple[str, Recipe], ...] = field(default=(), compare=False, repr=False)

    @property
    def adaptive(self) -> bool:
        """Whether a step is bounded by lr, however large the gradient: all but SGD, as Adam's."""
        return self.optimizer.rpartition(".")[2].lower() != "sgd"

    def with_(self, decision: Decision) -> Recipe:
        """Return the recipe with the fields that `decision` sets, its history one stage longer."""
        changed = replace(self, **decision.values)
        return replace(changed, history=(*self.history, (decision.kind, changed)))

    def after(self, kind: str) -> Recipe | None:
        """Return the recipe as the first stage of `kind` left it, None without such a stage."""
        return next((recipe for k, recipe in self.history if k == kind), None)

    def values(self) -> dict[str, Any]:
        """Return the fields and values, without the history, and without options if all are off."""
        left_out = {"history"} if self.optimizer_options else {"history", "optimizer_options"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

    def at_lr(self, max_lr: float) -> Recipe:
        """Return the recipe at another `max_lr`, `min_lr` a tenth of it (Smith 2018, section 4)."""
        return replace(self, max_lr=max_lr, min_lr=max_lr / 10)


@dataclass(frozen=True)
class Run:
    """One piece of work for the objective: everything that determines its result, and a label.

    `steps` is the budget; `points` how often the objective reports, the last time at the end;
    `held_out_examples` how many examples of the frozen stratified subset each report but the last
    uses (0: all; the last report always uses all). `replicate` picks the seeds, so that candidates
    of one stage are paired. `stop_loss`: a ramp ends as soon as the held-out loss is above it or is
    not finite, and counts as finished. `timed`: the clock matters, nothing may run beside it;
    `attempt` counts repeats of a rejected timing. `opens_test`: measure on the sealed test data at
    the end. `batch_sizes`: what a probe or a calibration measures. `dropout`: that of all dropout
    modules of the model, None: its own.
    """

    kind: RunKind
    schedule: Schedule
    weight_decay: float
    batch_size: int
    steps: int
    replicate: int
    points: int = 20
    held_out_examples: int = 0
    stop_loss: float | None = None
    timed: bool = False
    prunable: bool = True
    opens_test: bool = False
    batch_sizes: tuple[int, ...] = ()
    attempt: int = 0
    dropout: float | None = None
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What people are told: its label, its kind where it has none."""
        return self.label or self.kind

    @property
    def examples(self) -> int:
        """Training examples that the whole run sees."""
        return self.steps * self.batch_size

    def report_steps(self) -> list[int]:
        """Return the steps (1-based, increasing, the last is `steps`) after which to report."""
        points = min(self.points, self.steps)
        return [round(self.steps * (i + 1) / points) for i in range(points)]

    def stopped_by(self, held_out_loss: float) -> bool:
        """Whether the run's own rule, `stop_loss`, ends it at a report of this loss."""
        # This way round, so that NaN stops it too.
        return self.stop_loss is not None and not held_out_loss <= self.stop_loss

    def spec(self) -> dict[str, Any]:
        """Return what determines the result as plain JSON values (the label does not)."""
        spec = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "label"}
        if self.dropout is None:  # so were all runs before there was a choice: same keys
            del spec["dropout"]
        return {**spec, "schedule": self.schedule.spec(), "batch_sizes": list(self.batch_sizes)}

    def key(self, context: Mapping[str, Any]) -> str:
        """Return the run key, a hash of `spec()` and of the objective's `context`.

        Where both are the same, so is the result: the run need not be trained again.
        """
        # `prunable` only says who may stop the run, not what it computes.
        spec = {k: v for k, v in self.spec().items() if k != "prunable"}
        text = json.dumps([spec, context], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def params(self) -> dict[str, float | int]:
        """Return the hyper-parameters under the field's standard names, for Optuna and MLflow."""
        s = self.schedule
        dropout = {} if self.dropout is None else {"dropout": self.dropout}
        return {
            "max_lr": s.max_lr,
            "min_lr": s.min_lr,
            "max_momentum": s.max_momentum,
            "min_momentum": s.min_momentum,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            **dropout,
            "steps": self.steps,
            "replicate": self.replicate,
        }


def run_seed(study_seed: int, replicate: int, purpose: str) -> int:
    """Return the seed (31 bits) of one replicate for one purpose ("weights", "order", ...).

    It depends on nothing else, least of all on the run's key, so that the candidates of a stage
    start from the same weights and see the same data order.
    """
    digest = hashlib.sha256(f"{study_seed}/{replicate}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Decision:
    """What a stage decided and why.

    `values`: the recipe fields it sets (none: all stay). `reason`: one sentence with its numbers.
    `answered` False: the data gave no answer. `interval`: range of the decided value that the data
    do not tell apart. `tied_with`: candidates that are within the noise of the chosen one.
    `evidence`: JSON-able numbers behind it, for the report.
    """

    stage: str
    kind: str
    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)
    answered: bool = True
    incumbent_kept: bool = False
    interval: tuple[float, float] | None = None
    tied_with: tuple[float, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def explained(self, finding: str, instead_of: str = "") -> Decision:
        """Return it with what is behind its reason, in place of a way out that does not help."""
        if not finding:
            return self
        return replace(self, reason=f"{self.reason.removesuffix(f': {instead_of}')}: {finding}")
