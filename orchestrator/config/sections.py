"""The sections of the config: their settings, with types, limits, defaults and meanings.

The section of the optimiser is in `optimizer.py`. The text after a field is its meaning in
docs/config.md.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from orchestrator.config.options import (
    Count,
    Fraction,
    NotNegative,
    OwnConfig,
    Positive,
    Real,
    Section,
    Seed,
    Whole,
)
from orchestrator.config.user_code import takes

ScheduleName = Literal["paper", "author", "fastai", "torch", "linear", "constant"]


class RecipeConfig(Section):
    """Starting values; a value that no stage decides stays as it is here."""

    max_lr: Positive | None = None
    """Highest learning rate of the schedule; null: found by the range test."""
    min_lr: Positive | None = None
    """Learning rate where the schedule's cycle starts and ends; null: a tenth of max_lr."""
    max_momentum: Fraction = 0.9
    """Momentum while the learning rate is low (all the time if the schedule does not cycle it)."""
    min_momentum: Fraction = 0.85
    """Momentum where the learning rate is highest, at most max_momentum."""
    weight_decay: Annotated[Real, Field(ge=0, lt=100)] | None = None
    """Coefficient of the L2 penalty, constant over the run; null: by the size of the data, and for
    AdamW on random weights set by the range test of quick and standard."""
    batch_size: Count = 64
    """Training examples in a step."""
    dropout: Fraction | None = None
    """Dropout probability of the model's dropout modules; null: not changed."""


class DataUse(Section):
    """How much of the data is used, and what is done to inputs. Splits are stratified."""

    later: ClassVar[frozenset[str]] = frozenset({"classes"})

    train_examples: Count | None = None
    """Training examples; null: all."""
    held_out_examples: Count | None = None
    """Examples that decisions are made on; null: a sixth of the training data."""
    test_examples: Count | None = None
    """Sealed test examples, used by the last runs only; null: all."""
    image_size: Annotated[Whole, Field(ge=4)] | None = None
    """Height and width that images are mean-pooled (files: resized) to; null: not changed."""
    scale: Positive = 1.0
    """Multiplies the normalised inputs, to test the effect of badly scaled inputs."""
    augment: bool = False
    """Random horizontal flips and crops of training images."""
    seed: Seed = 0
    """Seed of the splits, and of nothing else."""
    classes: Annotated[Whole, Field(ge=2)] | None = None
    """Number of classes, if it is not the largest label plus one; null: that label plus one."""


class DataConfig(DataUse):
    """Which data, and how much of it. Splits are stratified."""

    name: Literal["digits", "cifar10", "arrays", "folder", "torchvision"] = "digits"
    """Digits of scikit-learn, CIFAR-10, arrays of an .npz file, image folders, or torchvision's."""
    path: str | None = None
    """The .npz file of `arrays`; the folder with train/ and test/; a file or folder of CIFAR-10."""
    dataset: str | None = None
    """The class in torchvision.datasets, such as MNIST."""
    folder: str = "data"
    """The folder of CIFAR-10 and of torchvision's data, also for downloads."""
    download: bool = True
    """Whether data may be downloaded if they are not there."""


class OwnDataConfig(DataUse, OwnConfig):
    """The user's own data, by `_target_` and its arguments, used like ours.

    A setting of `DataUse` that is also an argument of the callable is passed to the callable only.
    """

    model_config = ConfigDict(extra="allow")

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out settings that are not set: the callable's own defaults apply."""
        unset = DataUse.model_fields.keys() - self.model_fields_set
        return {key: value for key, value in handler(self).items() if key not in unset}


class ModelConfig(Section):
    """Which network."""

    name: Literal["mlp", "conv3", "resnet9", "resnet18", "resnet56"] = "mlp"
    """One of ours; your own has `_target_`."""
    width: Positive = 1.0
    """Multiplies the channels."""
    dropout: Fraction = 0.0
    """Probability before the last layer."""


class LossConfig(Section):
    """The loss, a mean over examples; decisions are made by its held-out value."""

    later: ClassVar[frozenset[str]] = frozenset({"ignore_index"})

    name: Literal["cross_entropy", "mse", "l1", "huber", "bce_with_logits"] = "cross_entropy"
    """For classes; for numbers (mse, l1, huber); for labels that are 0 or 1 (bce_with_logits)."""
    delta: Positive = 1.0
    """Where the quadratic part of huber ends, in units of the targets."""
    ignore_index: Whole | None = None
    """Label of cross_entropy that marks targets without a label; left out of loss and accuracy."""


class MetricConfig(Section):
    """The metric that is shown beside the loss."""

    name: Literal["auto", "accuracy", "none"] = "auto"
    """Accuracy where the loss is for classes or labels, otherwise none."""


class OwnMetricConfig(OwnConfig):
    """The user's own metric: `_target_` is called with scores and targets of a whole data part."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_ -]{0,39}$")] | None = None
    larger_is_better: bool = True

    @property
    def shown(self) -> str:
        """Its name, or that of the function."""
        return self.name or self.target.rpartition(".")[2]


class OwnObjectiveConfig(OwnConfig):
    """What trains, by `_target_` and its arguments: a training function, or a whole objective.

    A training function has a first argument `trial`. The settings here are those of its study; of
    a whole objective they are its arguments.
    """

    steps: Count | None = None
    """Updates of a final run."""
    train_examples: Count | None = None
    """How many there are to train on, which tells epochs and bounds batch sizes; null: a final run
    counts as one epoch."""
    larger_is_better: bool = True
    """Of the metric that it reports, if any."""

    @property
    def is_function(self) -> bool:
        """Whether it is a training function."""
        return next(iter(takes(self.target)), "") == "trial"

    @property
    def call(self) -> OwnConfig:
        """The callable with its arguments alone."""
        given = self.model_dump(exclude_unset=True, by_alias=True)
        if self.is_function:
            given = {"_target_": self.target, **self.arguments}
        return OwnConfig.model_validate(given)

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set."""
        unset = OwnObjectiveConfig.model_fields.keys() - self.model_fields_set
        return {key: value for key, value in handler(self).items() if key not in unset}


AnyData = DataConfig | OwnDataConfig
AnyLoss = LossConfig | OwnConfig
AnyMetric = MetricConfig | OwnMetricConfig


class ScheduleConfig(Section):
    """The schedule of the final run and of every short cycle."""

    name: ScheduleName = "paper"
    """1cycle of the paper, of the author's code, of fastai or of torch; linear; constant."""


class TrainingConfig(Section):
    """The training objective: how it computes; `data`, `model` and `optimizer` define what."""

    name: Literal["training"] = "training"
    """Training with PyTorch."""
    micro_batch_size: Count | None = None
    """Gradient accumulation: larger batches are split into pieces of this size; null: no split."""
    deterministic: bool = True
    """false allows a GPU faster kernels that are not deterministic."""
    compile: bool | Literal["auto"] = False
    """torch.compile, once for each batch size; auto: if a probe measures a gain."""
    resident: bool | Literal["auto"] = "auto"
    """Whether all data are on the device, or streamed to it; auto: if they fit into half of its
    free memory. The results are the same."""

    @property
    def changing(self) -> dict[str, Any]:
        """The options that are on and change results, even if only in their last bits."""
        return self.model_dump(mode="json", exclude={"name", "resident"}, exclude_defaults=True)


class NoPruner(Section):
    """No run is pruned."""

    name: Literal["none"] = "none"
    """No pruner."""


class ExecutorConfig(Section):
    """Runs are trained in this process, one after the other."""

    name: Literal["inline"] = "inline"
    """This process."""
    wait_seconds: NotNegative = 30.0
    """Longest wait for an idle machine before a timed run is repeated; 0: never."""


class ProcessesConfig(Section):
    """Runs that are not timed are trained in parallel processes, `threads` threads each (1).

    For CPUs: several runs at once on one GPU have not been measured.
    """

    name: Literal["processes"] = "processes"
    """Worker processes on this machine."""
    workers: Count | None = None
    """Number of workers; null: as many as the physical cores allow."""
    ahead: Fraction = 0.25
    """Share of the budget that may be wasted on runs for later stages, while workers are idle."""
    wait_seconds: NotNegative = 30.0
    """Longest wait for an idle machine before a timed run is repeated; 0: never."""


class RayConfig(Section):
    """Runs are trained in parallel by the workers of a Ray cluster, on CPUs or on GPUs.

    Runs that measure time or memory get a whole device: a GPU, or all processors of a machine.
    """

    name: Literal["ray"] = "ray"
    """Workers of a Ray cluster."""
    address: str | None = None
    """null starts a cluster on this machine; auto: the one that runs here; or ray://host:port."""
    workers: Count | None = None
    """Number of workers; null: as many as the cluster has room for."""
    cpus_per_trial: Positive = 1
    """Processors of a worker; also its threads, unless `threads` is set."""
    gpus_per_trial: NotNegative = 0
    """GPUs of a worker; .5 puts two workers on each GPU."""
    ahead: Fraction = 0.25
    """Share of the budget that may be wasted on runs for later stages, while workers are idle."""
    lease_seconds: Positive = 30
    """A worker that is silent for as long is given up, and its run is trained again."""
    wait_seconds: NotNegative = 30.0
    """Longest wait for an idle machine before a timed run is repeated; 0: never."""


class StorageConfig(Section):
    """Where trials are stored, and the checkpoints of runs."""

    later = frozenset({"checkpoints", "retry_seconds", "lease_seconds"})

    name: Literal["journal", "memory", "url"] = "journal"
    """A journal file in the study's folder, memory (nothing is kept), or a database."""
    url: str | None = None
    """Address of the database, as for SQLAlchemy, such as sqlite:///trials.db."""
    checkpoints: str | None = None
    """A folder that all machines share, or an address of fsspec such as s3://bucket/folder; null:
    the study's own folder."""
    retry_seconds: NotNegative | None = None
    """How long a database that cannot be reached is tried again; null: 60."""
    lease_seconds: Positive | None = None
    """A command that did not renew its lease on the study for as long is dead; null: 30."""


class TrackingConfig(Section):
    """Where the study is recorded."""

    name: Literal["mlflow", "none"] = "mlflow"
    """MLflow, or none."""
    uri: str | None = None
    """MLflow's tracking server or database; null: MLFLOW_TRACKING_URI, else ./mlflow.db."""
    model: bool = True
    """Whether the trained network is recorded too, as a model that MLflow can load and serve."""


class BudgetConfig(Section):
    """Limits on the cost of a study; of the two the tighter one counts."""

    final_runs: Positive | None = None
    """In final runs, evaluations counted in; null: what it takes. Unless set, that of `effort`."""
    max_seconds: Positive | None = None
    """Seconds of all its commands together; null: no limit."""


NAME_HOLDS = "1 to 80 letters, digits, '.', '_' or '-' (letters a to z)"


def _folder_name(name: str) -> str:
    if name.startswith("."):  # also keeps `..` out
        raise ValueError("must not start with a dot")
    if len(name) > 80 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise ValueError(f"must be {NAME_HOLDS}")
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


Device = Annotated[str, AfterValidator(_device)]
