"""What is decided (`Recipe`, `Decision`) and what is to be run (`Run`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from orchestrator.schedules import Schedule

RunKind = Literal["train", "ramp", "probe", "calibrate"]


@dataclass(frozen=True)
class Facts:
    """What is known of the task before any run.

    Attributes:
        train_examples: Size of the training split.
        held_out_examples: Size of the held-out split.
        chance_loss: Held-out loss of the best constant prediction (ln C for C classes), in the
            loss's own unit.
        final_epochs: Length of the final run in epochs; short runs are a fraction of it.
        metric: Name of the metric shown beside the loss, None without one.
        larger_is_better: Direction of the metric.
        dropout: The model's own dropout probability, the largest if its modules differ. None
            without a dropout module.
        untrained_loss: Held-out loss of an untrained network if it is above chance, as in a
            regression whose targets are far from 0; otherwise 0.
        normalised: Whether the network has normalisation layers (batch norm and the like): weight
            decay then acts through the learning rate.
        chance_metric: The metric of the best constant prediction, None if it is not known.
        optimizer: The optimiser of the recipe if what trains has its own; "": that of the config.
        nesterov: Whether that optimiser uses Nesterov momentum.
        batch_norm: Whether it has batch norm: its weights then only count by their direction, and
            training them for longer needs no lower rate.
        from_scratch: Whether the weights that it starts from are known to be random.
    """

    train_examples: int
    held_out_examples: int
    chance_loss: float
    final_epochs: float
    metric: str | None = None
    larger_is_better: bool = True
    dropout: float | None = None
    untrained_loss: float = 0.0
    normalised: bool = True
    chance_metric: float | None = None
    optimizer: str = ""
    nesterov: bool = False
    batch_norm: bool = False
    from_scratch: bool = False

    @property
    def start_loss(self) -> float:
        """Held-out loss where runs start, at least chance; a loss far above it has diverged."""
        return max(self.chance_loss, self.untrained_loss)

    @property
    def final_examples(self) -> float:
        """Examples that the final run sees: the horizon H of the stages."""
        return self.final_epochs * self.train_examples

    def steps(self, share: float, batch_size: int) -> int:
        """Return the steps of a short run, at least 10.

        Args:
            share: Its share of the final run's examples.
            batch_size: Examples in a step.
        """
        return max(10, round(share * self.final_examples / batch_size))


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters to train with.

    Attributes:
        max_lr: Highest learning rate of the schedule, per step. None: not known yet.
        min_lr: Lowest learning rate of the cycle. None: a tenth of `max_lr`.
        max_momentum: Momentum where lr is lowest.
        min_momentum: Momentum where lr is highest, if the schedule cycles it.
        weight_decay: Coupled L2 in `torch.optim.SGD`, decoupled in AdamW and Muon.
        batch_size: Examples in a step.
        schedule: Name of the schedule.
        optimizer: "sgd", "adamw", "muon" or the path of a class.
        nesterov: Whether SGD uses Nesterov momentum.
        dropout: Probability of all dropout modules of the model. None: not changed.
        optimizer_options: Options of the config's `optimizer` that are on (label smoothing, ...);
            no stage changes them.
        history: The recipe after each stage, oldest first; not part of comparisons.
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
        """Whether a step is bounded by lr whatever the gradient, as in Adam: all but SGD."""
        return self.optimizer.rpartition(".")[2].lower() != "sgd"

    def with_(self, decision: Decision) -> Recipe:
        """Return the recipe after a stage, which is also added to `history`.

        Args:
            decision: The decision of the stage.
        """
        changed = replace(self, **decision.values)
        return replace(changed, history=(*self.history, (decision.kind, changed)))

    def after(self, kind: str) -> Recipe | None:
        """Return the recipe after the first stage of a kind, None without such a stage.

        Args:
            kind: Kind of the stage.
        """
        return next((recipe for k, recipe in self.history if k == kind), None)

    def values(self) -> dict[str, Any]:
        """Return the fields and values, without the history, and without options if all are off."""
        left_out = {"history"} if self.optimizer_options else {"history", "optimizer_options"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

    def at_lr(self, max_lr: float) -> Recipe:
        """Return the recipe at another learning rate.

        Args:
            max_lr: The new `max_lr`; `min_lr` is a tenth of it (Smith 2018, section 4).
        """
        min_lr = float(f"{max_lr / 10:.12g}")  # 6.36e-4, not 6.360000000000001e-4
        return replace(self, max_lr=max_lr, min_lr=min_lr)


DECOUPLED = "adamw", "muon"  # optimisers of ours whose weight decay is not in the gradient


def usual_weight_decay(optimizer: str, facts: Facts) -> float:
    """Return the weight decay that a study begins with: larger for smaller data.

    5e-4 (AdamW, Muon: .01) for 50,000 examples, by the square root of their number for networks
    without normalisation, to one digit. Direction: Smith 2018, section 4.4; the size is ours
    (docs/design.md).
    """
    usual = 0.01 if optimizer in DECOUPLED else 5e-4
    if facts.normalised:
        return usual
    return float(f"{usual * math.sqrt(50_000 / facts.train_examples):.1g}")


@dataclass(frozen=True)
class Run:
    """One run for the objective: everything that determines its result, and a label.

    Attributes:
        kind: "train", "ramp", "probe" (memory) or "calibrate" (time).
        schedule: lr and momentum over the run.
        weight_decay: Weight decay of the optimiser.
        batch_size: Examples in a step.
        steps: Number of steps.
        replicate: Picks the seeds, so that the candidates of a stage are paired.
        points: How often the objective reports, the last time at the end.
        held_out_examples: Size of the fixed stratified subset that each report but the last uses;
            0: all. The last report always uses all.
        stop_loss: The run ends, as finished, once its held-out loss is above this or not finite.
        timed: The time is used for a decision: no other run may train in parallel.
        prunable: Whether a pruner may stop it.
        opens_test: Evaluate on the sealed test data at the end.
        batch_sizes: What a probe or a calibration measures.
        attempt: Number of repeats of a rejected timing.
        dropout: Probability of all dropout modules of the model. None: the model's own.
        kept: Whether its state is kept at its end, so that the same run with `opens_test`
            starts from there.
        label: Its name for people; not part of comparisons.
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
    kept: bool = False
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Its label, or its kind if it has none."""
        return self.label or self.kind

    @property
    def examples(self) -> int:
        """Training examples that the whole run sees."""
        return self.steps * self.batch_size

    @property
    def keeps_end(self) -> bool:
        """Whether its state at its end is kept for the same run with `opens_test`."""
        return self.kept and not self.opens_test

    @property
    def goes_on_from(self) -> Run | None:
        """The kept run from whose end it starts, if that has ended; None: it never does."""
        return replace(self, opens_test=False) if self.kept and self.opens_test else None

    def report_steps(self) -> list[int]:
        """Return the steps (1-based, increasing, the last is `steps`) after which to report."""
        points = min(self.points, self.steps)
        return [round(self.steps * (i + 1) / points) for i in range(points)]

    def stopped_by(self, held_out_loss: float) -> bool:
        """Return whether `stop_loss` ends the run.

        Args:
            held_out_loss: The loss that it reports.
        """
        # Written so that NaN stops it too.
        return self.stop_loss is not None and not held_out_loss <= self.stop_loss

    def spec(self) -> dict[str, Any]:
        """Return what determines the result as plain JSON values (the label does not)."""
        spec = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "label"}
        if self.dropout is None:  # left out, so that runs of older versions keep their keys
            del spec["dropout"]
        if not self.kept:
            del spec["kept"]
        return {**spec, "schedule": self.schedule.spec(), "batch_sizes": list(self.batch_sizes)}

    def key(self, context: Mapping[str, Any]) -> str:
        """Return the run key, a hash of `spec()` and of the context.

        Runs with equal keys have equal results, so the second is not trained.

        Args:
            context: What the objective's `context` returns for the run.
        """
        # `prunable` is about who may stop the run, not about what it computes.
        spec = {k: v for k, v in self.spec().items() if k != "prunable"}
        text = json.dumps([spec, context], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def params(self) -> dict[str, float | int]:
        """Return the hyper-parameters under their standard names, for Optuna and MLflow."""
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

    It does not depend on the run's key: the candidates of a stage start from the same weights and
    see the same data order.
    """
    digest = hashlib.sha256(f"{study_seed}/{replicate}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Decision:
    """What a stage decided and why.

    Attributes:
        stage: Name of the stage.
        kind: Kind of the stage.
        reason: One sentence with its numbers.
        values: The recipe fields that it sets; empty: none changes.
        answered: False if the data do not determine a value.
        incumbent_kept: Whether the value that came in stays.
        interval: The range of values that the data cannot distinguish.
        tied_with: Candidates within the noise of the chosen one.
        evidence: JSON values behind the decision, for the report.
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
        """Return the decision with a diagnosis in its reason.

        Args:
            finding: The diagnosis; "" changes nothing.
            instead_of: The advice at the end of the reason that it replaces.
        """
        if not finding:
            return self
        return replace(self, reason=f"{self.reason.removesuffix(f': {instead_of}')}: {finding}")
