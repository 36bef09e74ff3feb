"""The typed schema of the whole configuration: Hydra composes it, pydantic checks it.

Every mistake is reported at once, one line each, with its path, its value and what is allowed.
Stage options are declared once, in the stages' own dataclasses (`stages.stage.option`); their
pydantic models are made from there (`options.options_of`). Nothing here imports torch, MLflow or
Optuna until it is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SerializeAsAny,
    create_model,
)

from orchestrator import checks, own
from orchestrator.errors import ConfigError
from orchestrator.fitting import (
    AdamWConfig,
    LossConfig,
    MetricConfig,
    OptimizerConfig,
    OwnMetricConfig,
    OwnOptimizerConfig,
)
from orchestrator.options import (
    Options,
    OwnConfig,
    Real,
    Section,
    Whole,
    choose,
    options_of,
    read,
    shown,
    signature_of,
)
from orchestrator.recipe import Facts, Recipe
from orchestrator.redact import hidden_in

if TYPE_CHECKING:
    from orchestrator.objectives import Objective
    from orchestrator.pruners import CluePruner
    from orchestrator.stages.stage import Stage

__all__ = ["Config", "ConfigError", "DataConfig", "ModelConfig", "OptimizerConfig", "OwnConfig"]

Positive = Annotated[Real, Field(gt=0)]
Momentum = Annotated[Real, Field(ge=0, lt=1)]
Count = Annotated[Whole, Field(ge=1)]
ScheduleName = Literal["paper", "author", "fastai", "torch", "linear", "constant"]

PLAN = ("lr_range", "momentum", "weight_decay", "batch_size", "lr_check", "final")


class RecipeConfig(Section):
    """Starting values; what no stage decides stays as it is here."""

    max_lr: Positive | None = None
    """Learning rate at the top of the schedule; null: the range test finds it."""
    min_lr: Positive | None = None
    """Where the schedule's legs start and end; null: a tenth of max_lr."""
    max_momentum: Momentum = 0.9
    """Momentum while the learning rate is low (all the time if the schedule does not cycle it)."""
    min_momentum: Momentum = 0.85
    """Momentum at the top of the learning rate, at most max_momentum."""
    weight_decay: Annotated[Real, Field(ge=0, lt=1)] = 5e-4
    """Coefficient of the L2 penalty, constant over the run."""
    batch_size: Count = 64
    """Training examples in a step."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] | None = None
    """Probability; null: as the model has it."""


class DataConfig(Section):
    """Which data, and how much of it. Splits are stratified."""

    name: Literal["digits", "cifar10", "arrays", "folder", "torchvision"] = "digits"
    """Digits of scikit-learn, CIFAR-10, arrays of an .npz file, image folders, or torchvision's."""
    path: str | None = None
    """The .npz file of `arrays`; the folder with train/ and test/; a file or folder of CIFAR-10."""
    dataset: str | None = None
    """The class in torchvision.datasets, such as MNIST."""
    folder: str = "data"
    """Where CIFAR-10 and torchvision's data are looked for and downloaded to."""
    download: bool = True
    """Whether they may be downloaded if they are not there."""
    train_examples: Count | None = None
    """Training examples; null: all there is."""
    held_out_examples: Count | None = None
    """Examples that choices are made on; null: a sixth of the training data."""
    test_examples: Count | None = None
    """Sealed examples that the last runs are tested on; null: all there is."""
    image_size: Annotated[Whole, Field(ge=4)] | None = None
    """Pixels of a side that images are mean-pooled (files: resized) to; null: as they are."""
    scale: Positive = 1.0
    """Multiplies the normalised inputs, to see what badly scaled ones do to the learning rate."""
    augment: bool = False
    """Random horizontal flips and crops of training images."""
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    """Decides the splits, and nothing else."""


class ModelConfig(Section):
    """Which network."""

    name: Literal["mlp", "conv3", "resnet9", "resnet18", "resnet56"] = "mlp"
    """One of ours; your own has `_target_`."""
    width: Positive = 1.0
    """Multiplies the channels."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Probability before the last layer."""


class ScheduleConfig(Section):
    """The schedule of the final run and of every short cycle."""

    name: ScheduleName = "paper"
    """The 1cycle policy of the paper, of the author's code, of fastai, of torch; or a plain one."""


class TrainingConfig(Section):
    """The training objective: how it computes what `data`, `model` and `optimizer` say."""

    name: Literal["training"] = "training"
    """Training with PyTorch."""
    micro_batch_size: Count | None = None
    """Gradients of a larger batch are added up over pieces of this size; null: in one piece."""
    deterministic: bool = True
    """false lets a GPU choose faster kernels that do not repeat bit for bit."""
    compile: bool | Literal["auto"] = False
    """torch.compile, once for each batch size; auto: where a probe says that it pays."""
    resident: bool | Literal["auto"] = "auto"
    """Whether all data lie on the device, or are streamed; auto: if they fit into half of what is
    free. The results are the same."""

    @property
    def changing(self) -> dict[str, Any]:
        """What is switched on of that which changes results, if only in their last bits."""
        return self.model_dump(mode="json", exclude={"name", "resident"}, exclude_defaults=True)


class NoPruner(Section):
    """Every run goes to its end."""

    name: Literal["none"] = "none"
    """No pruner."""


class ExecutorConfig(Section):
    """Runs run in this process, one after the other."""

    name: Literal["inline"] = "inline"
    """This process."""


class ProcessesConfig(Section):
    """Runs that are not timed run side by side, each in a process with `threads` threads (1).

    For processors: a GPU has room for one.
    """

    name: Literal["processes"] = "processes"
    """Worker processes on this machine."""
    workers: Count | None = None
    """How many; null: as many as there are physical cores for."""


class StorageConfig(Section):
    """Where Optuna keeps its trials."""

    name: Literal["journal", "memory", "url"] = "journal"
    """A journal file in the run folder, memory (nothing is kept), or a database."""
    url: str | None = None
    """The database as SQLAlchemy writes it, such as sqlite:///trials.db."""


class TrackingConfig(Section):
    """Who is told."""

    name: Literal["mlflow", "none"] = "mlflow"
    """MLflow or nobody."""
    uri: str | None = None
    """MLflow's tracking server or database; null: MLFLOW_TRACKING_URI, else ./mlflow.db."""
    model: bool = True
    """Whether the trained network is kept there too, ready to be loaded and served."""


class BudgetConfig(Section):
    """What a study may cost."""

    max_seconds: Positive | None = None
    """Seconds of all its commands together; null: what it takes."""


def _folder_name(name: str) -> str:
    if name.startswith("."):  # also keeps `..` out
        raise ValueError("must not start with a dot")
    if len(name) > 80 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise ValueError("must be 1 to 80 letters, digits, '.', '_' or '-'")
    return name


def _digits_are_a_name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


StudyName = Annotated[
    str,
    BeforeValidator(_digits_are_a_name),
    Field(min_length=1),
    AfterValidator(_folder_name),
]


def _device(name: str) -> str:
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and index.isdecimal()):
        raise ValueError("must be auto, cpu, cuda, cuda:0 (1, 2, ...) or mps")
    return name


class Config(Section):
    """The whole configuration, checked. Make one with `from_mapping`."""

    study_name: StudyName = "study"
    """Results go to runs/<study_name>/."""
    plan: Annotated[tuple[str, ...], Field(min_length=1)] = PLAN
    """The stages, in this order: names under `stages`."""
    stages: dict[str, SerializeAsAny[BaseModel]]
    recipe: RecipeConfig
    data: DataConfig | OwnConfig
    model: ModelConfig | OwnConfig
    loss: LossConfig | OwnConfig
    metric: MetricConfig | OwnMetricConfig
    optimizer: OptimizerConfig | AdamWConfig | OwnOptimizerConfig
    schedule: ScheduleConfig
    pruner: SerializeAsAny[BaseModel]
    objective: SerializeAsAny[BaseModel]
    executor: ExecutorConfig | ProcessesConfig
    storage: StorageConfig
    tracking: TrackingConfig
    budget: BudgetConfig
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:0 (1, 2, ...) or mps."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """CPU threads to train with; null: torch's default."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: by autocast; weights and their updates stay float32."""
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    """Weights and data order; the same seed gives the same numbers (but for measured times)."""
    fresh: bool = False
    """Start over; what is there is renamed aside."""
    dry_run: bool = False
    """Say what would run and how long it takes, from a few steps, and stop."""
    quiet: bool = False
    """Plain lines, one for each decision, instead of a live display."""
    runs: Annotated[str, Field(min_length=1)] = "runs"
    """The folder of all results."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Config:
        """Check `mapping` (what Hydra composed, or plain Python) and fill in the defaults.

        Raises ConfigError with a line for every problem.
        """
        lines: list[str] = []
        mapping = checks.refuse(mapping, lines)
        parts = {key: _section(key, mapping.get(key), lines) for key in SECTIONS}
        stages = _stages(mapping.get("stages"), lines)
        # A wrong part has told its own lines: here an empty one of its type stands in for it.
        filled = {k: v or SECTIONS[k].model_construct() for k, v in parts.items()}
        filled_stages = {k: v or Section() for k, v in stages.items()}
        config = read(cls, {**mapping, **filled, "stages": filled_stages}, "", lines)
        lines += checks.recipe_lines(parts["recipe"])
        lines += checks.data_lines(parts["data"])
        lines += checks.loss_lines(parts["loss"], parts["metric"], parts["optimizer"])
        lines += checks.storage_lines(parts["storage"])
        if isinstance(parts["executor"], ProcessesConfig):
            lines += checks.processor_lines(mapping.get("device"))
        lines += checks.size_lines(
            parts["recipe"], stages, checks.examples(parts["data"], parts["objective"])
        )
        plan = mapping.get("plan", PLAN)
        if isinstance(plan, list | tuple):
            lines += checks.plan_lines(plan, stages, parts["recipe"])
        if config is not None and not lines:  # last, for it imports the user's modules
            lines += checks.own_lines({k: filled[k] for k in OWN_ALLOWED})
        if config is None or lines:
            raise ConfigError(lines)
        return _settled(config)

    def public(self) -> dict[str, Any]:
        """Return plain values without passwords, to be kept and shown."""
        shown: dict[str, Any] = hidden_in(self.as_mapping())
        return shown

    def as_mapping(self) -> dict[str, Any]:
        """Return plain values; `from_mapping` makes the same config of them."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def final_epochs(self) -> float:
        """Length of the final run in epochs: the horizon that short runs are a fraction of."""
        for name in (*self.plan, *self.stages):  # a planned final stage before an unused one
            entry = self.stages[name]
            if getattr(checks.class_of(entry), "kind", None) == "final" and hasattr(
                entry, "epochs"
            ):
                return float(entry.epochs)
        raise ConfigError("stages: no stage of kind final says how many epochs a final run has")

    def build_stages(self, facts: Facts) -> list[Stage]:
        """Return the stages in the order of `plan`.

        Raises ConfigError for a batch larger than the data, and for dropout without such a module.
        """
        lines = checks.size_lines(self.recipe, self.stages, facts.train_examples)
        lines += checks.dropout_lines(self.recipe, facts)
        stages = []
        for name in self.plan:
            try:
                stages.append(_build(self.stages[name], name=name, facts=facts))
            except ValueError as error:  # a stage that these facts leave nothing to do
                lines.append(f"stages.{name}: {error}")
        if lines:
            raise ConfigError(lines)
        return stages

    def build_recipe(self) -> Recipe:
        """Return the recipe that the first stage gets."""
        return Recipe(
            **dict(self.recipe),
            schedule=self.schedule.name,
            optimizer=self.optimizer.name,
            nesterov=self.optimizer.nesterov,
            optimizer_options=self.optimizer.options,
        )

    def build_objective(self, cache: Path) -> Objective:
        """Return the objective; `cache` is the folder where it may keep decoded data."""
        made: Objective
        if isinstance(self.objective, TrainingConfig):
            from orchestrator.objectives import training

            made = training.from_config(self, cache)
            return made
        told: dict[str, Any] = {"seed": self.seed, "final_epochs": self.final_epochs}
        if isinstance(self.objective, OwnConfig):
            made = own.build(self.objective, **told, config=self, cache=cache)
            if not (callable(made) and hasattr(made, "facts") and hasattr(made, "context")):
                raise ConfigError(
                    f"objective._target_: {self.objective.target} is no objective: it needs facts,"
                    " context(run) and a call with (run, session)"
                )
            return made
        from orchestrator.objectives.quadratic import QuadraticObjective

        return QuadraticObjective(_build(self.objective), **told)

    def build_pruner(self, chance_loss: float) -> CluePruner | None:
        """Return the pruner, None if every run is to go to its end."""
        if not self.prunes:
            return None
        from orchestrator.pruners import CluePruner

        also = getattr(self.pruner, "also", None)
        return CluePruner(
            _build(self.pruner), _optunas_pruner(also) if also else None, chance_loss=chance_loss
        )

    @property
    def prunes(self) -> bool:
        """Whether lost runs are stopped."""
        return not isinstance(self.pruner, NoPruner)

    @property
    def audit(self) -> float:
        """Share of the pruned runs that are let to their end all the same."""
        return float(getattr(self.pruner, "audit", 0.0))


def _settled(config: Config) -> Config:
    """Fill in what side by side means: one thread for each run, on the processor."""
    if not isinstance(config.executor, ProcessesConfig):
        return config
    device = "cpu" if config.device == "auto" else config.device
    return config.model_copy(update={"threads": config.threads or 1, "device": device})


def _build(entry: BaseModel, **offered: Any) -> Any:
    """Make what an entry describes: ours, or the user's own."""
    if isinstance(entry, OwnConfig):
        return own.build(entry, **offered)
    assert isinstance(entry, Options)
    return entry.builds(**offered, **entry.as_arguments())


SECTIONS: dict[str, type[BaseModel]] = {
    "recipe": RecipeConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "metric": MetricConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "pruner": NoPruner,
    "objective": TrainingConfig,
    "executor": ExecutorConfig,
    "storage": StorageConfig,
    "tracking": TrackingConfig,
    "budget": BudgetConfig,
}
# Sections that may be the user's own, by `_target_`, and how that is read.
OWN_ALLOWED: dict[str, type[OwnConfig]] = {
    "data": OwnConfig,
    "model": OwnConfig,
    "objective": OwnConfig,
    "loss": OwnConfig,
    "metric": OwnMetricConfig,
    "optimizer": OwnOptimizerConfig,
}


def _variants(key: str) -> dict[str, Callable[[], type[BaseModel]]]:
    """Return the models of a section whose keys depend on its `name`; the first is the default."""

    def quadratic() -> type[BaseModel]:
        from orchestrator.objectives.quadratic import Quadratic

        return options_of(Quadratic, "name")

    if key == "objective":
        return {"training": lambda: TrainingConfig, "quadratic": quadratic}
    if key == "optimizer":
        return {"sgd": lambda: OptimizerConfig, "adamw": lambda: AdamWConfig}
    if key == "executor":
        return {"inline": lambda: ExecutorConfig, "processes": lambda: ProcessesConfig}
    return {"clue": _clue_options, "none": lambda: NoPruner} if key == "pruner" else {}


ALSO = "a pruner of Optuna's beside it: `name`, and its own arguments; null: none"
AUDIT = "share of the pruned runs that are let to their end all the same"


@cache
def _clue_options() -> type[Options]:
    """Return the model of the clue pruner: its rules, and what is not a rule."""
    from orchestrator.pruners import ClueRules

    made: type[Options] = create_model(
        "ClueOptions",
        __base__=options_of(ClueRules, "name"),
        also=(SerializeAsAny[BaseModel] | None, Field(None, description=ALSO)),
        audit=(Annotated[Real, Field(ge=0, le=1)], Field(0.0, description=AUDIT)),
    )
    return made


def _also(given: Any, path: str, lines: list[str], inner: bool = False) -> BaseModel | None:
    """Check one of Optuna's pruners: its name, its own arguments, and that it works."""
    from orchestrator.pruners.optunas import OPTUNAS, WRAPPED

    if given is None or isinstance(given, BaseModel):
        return given
    if not isinstance(given, Mapping):
        return read(Section, given, path, lines)
    known = len(lines)
    cls = choose(WRAPPED if inner else OPTUNAS, {"name": None, **given}, "name", path, lines)
    if cls is None:
        return None
    nested = ("wrapped_pruner",) if cls is OPTUNAS["patient"] else ()
    inners = {n: _also(given.get(n), f"{path}.{n}", lines, inner=True) for n in nested}
    made = read(signature_of(cls, "name", nested), {**given, **inners}, path, lines)
    if made is not None and len(lines) == known:
        try:
            _optunas_pruner(made)
        except ValueError as error:
            lines.append(f"{path}: {error}")
    return made


def _optunas_pruner(entry: BaseModel) -> Any:
    """Make the pruner of Optuna's that an entry describes."""
    from orchestrator.pruners import optunas

    assert isinstance(entry, Options)
    arguments = entry.as_arguments()
    inner = arguments.get("wrapped_pruner")
    if inner is not None:
        arguments["wrapped_pruner"] = _optunas_pruner(inner)
    return optunas.build(entry.builds, arguments)


def _without_our_name(key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the `name` of the default that Hydra merges into what a study says of its own."""
    ours = _variants(key) or get_args(SECTIONS[key].model_fields["name"].annotation)
    return {k: v for k, v in given.items() if k != "name" or v not in ours}


def _section(key: str, given: Any, lines: list[str]) -> BaseModel | None:
    if key in OWN_ALLOWED and isinstance(given, Mapping) and "_target_" in given:
        return read(OWN_ALLOWED[key], _without_our_name(key, given), key, lines)
    variants = _variants(key)
    if not variants or not isinstance(given, Mapping | None):
        return read(SECTIONS[key], given, key, lines)
    given = {"name": next(iter(variants)), **(given or {})}
    model = choose(variants, given, "name", key, lines)
    if "also" in given:
        given["also"] = _also(given["also"], f"{key}.also", lines)
    return read(model(), given, key, lines) if model else None


def _stages(given: Any, lines: list[str]) -> dict[str, BaseModel | None]:
    """Return the entries by name, None for a wrong one; one of each kind is there unasked."""
    from orchestrator.stages import STAGES

    if not isinstance(given, Mapping | None):
        lines.append(
            f"stages: {shown(given)} is not allowed: must be a mapping of names to options"
        )
        given = {}
    entries = {**dict.fromkeys(STAGES), **(given or {})}
    return {name: _stage(str(name), entry, lines) for name, entry in entries.items()}


def _stage(name: str, given: Any, lines: list[str]) -> BaseModel | None:
    from orchestrator.stages import STAGES

    path = f"stages.{name}"
    if not isinstance(given, Mapping | None):
        return read(Section, given, path, lines)
    if given and "_target_" in given:
        return _own_stage(path, given, lines)
    given = {"kind": name, **(given or {})}
    cls = choose(STAGES, given, "kind", path, lines)
    return read(options_of(cls, "kind"), given, path, lines) if cls else None


def _own_stage(path: str, given: Mapping[str, Any], lines: list[str]) -> BaseModel | None:
    """Check the user's own stage; if it is a dataclass, its options as ours are."""
    entry = read(OwnConfig, given, path, lines)
    if entry is None:
        return None
    try:
        cls = own.resolve(entry.target)
        if not isinstance(cls, type) or not (hasattr(cls, "propose") and hasattr(cls, "decide")):
            raise ConfigError(f"{entry.target} is no stage: it needs propose and decide")
        if dataclasses.is_dataclass(cls):
            return read(options_of(cls, "target"), given, path, lines)
        own.check(entry)
    except ConfigError as error:
        lines += [f"{path}._target_: {line}" for line in error.lines]
        return None
    return entry
