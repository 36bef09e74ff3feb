"""The typed schema of the whole configuration: Hydra composes it, pydantic checks it.

All mistakes are reported at once, one line each, with path, value and what is allowed. The settings
are declared in `sections.py` and `optimizer.py`, and those of stages, pruner and fake objective as
dataclass fields (`stages.stage.option`). `choices.py` finds the model that a mapping chooses.
Nothing here imports torch, MLflow or Optuna before it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny

from orchestrator.config import checks, choices, presets
from orchestrator.config.optimizer import (
    AdamWConfig,
    MuonConfig,
    OptimizerConfig,
    OwnOptimizerConfig,
)
from orchestrator.config.options import OwnConfig, Positive, Section, Seed, Whole
from orchestrator.config.presets import Effort
from orchestrator.config.problems import read
from orchestrator.config.sections import (
    BudgetConfig,
    DataConfig,
    Device,
    ExecutorConfig,
    LossConfig,
    MetricConfig,
    ModelConfig,
    NoPruner,
    OwnDataConfig,
    OwnMetricConfig,
    ProcessesConfig,
    RayConfig,
    RecipeConfig,
    ScheduleConfig,
    StorageConfig,
    StudyName,
    TrackingConfig,
)
from orchestrator.errors import ConfigError
from orchestrator.redact import hidden_in


class Config(Section):
    """The whole configuration, checked. Make one with `from_mapping`."""

    study_name: StudyName = "study"
    """Results go to runs/<study_name>/."""
    effort: Effort = "standard"
    """What a study costs and how it decides: quick (2.8 final runs) and standard (6) by expected
    loss, thorough (20 to 40) each setting by its significance over several seeds."""
    plan: Annotated[tuple[str, ...], Field(min_length=1)]
    """The stages, in this order: names under `stages`; null: those of `effort`."""
    rate: Positive = 0.01
    """Expected gain, as a share of the loss, that is worth the price of one final run."""
    stages: dict[str, SerializeAsAny[BaseModel]]
    recipe: RecipeConfig
    data: DataConfig | OwnDataConfig
    model: ModelConfig | OwnConfig
    loss: LossConfig | OwnConfig
    metric: MetricConfig | OwnMetricConfig
    optimizer: OptimizerConfig | AdamWConfig | MuonConfig | OwnOptimizerConfig
    schedule: ScheduleConfig
    pruner: SerializeAsAny[BaseModel]
    objective: SerializeAsAny[BaseModel]
    executor: ExecutorConfig | ProcessesConfig | RayConfig
    storage: StorageConfig
    tracking: TrackingConfig
    budget: BudgetConfig
    device: Device = "auto"
    """auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:0 (1, 2, ...) or mps."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """CPU threads to train with; null: torch's default."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: by autocast; weights and their updates stay float32."""
    seed: Seed = 0
    """Weights and data order; the same seed gives the same numbers (except measured times)."""
    fresh: bool = False
    """Start over; the existing folder is renamed."""
    dry_run: bool = False
    """Estimate runs and time from a few steps, print them, and stop."""
    quiet: bool = False
    """Print only the closing lines."""
    runs: Annotated[str, Field(min_length=1)] = "runs"
    """The folder of all results."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Config:
        """Check `mapping` (what Hydra composed, or plain Python) and fill in the defaults.

        Raises ConfigError with a line for every problem.
        """
        lines: list[str] = []
        mapping = checks.refuse(presets.with_presets(mapping), lines)
        parts = {key: choices.section(key, mapping.get(key), lines) for key in choices.SECTIONS}
        stages = choices.stages(mapping.get("stages"), lines)
        # A wrong section has its own lines: here an empty one of its type replaces it.
        filled = {k: v or choices.SECTIONS[k].model_construct() for k, v in parts.items()}
        filled_stages = {k: v or Section() for k, v in stages.items()}
        config = read(cls, {**mapping, **filled, "stages": filled_stages}, "", lines)
        lines += checks.recipe_lines(parts["recipe"])
        lines += checks.data_lines(parts["data"])
        lines += checks.loss_lines(parts["loss"], parts["metric"], parts["optimizer"])
        lines += checks.storage_lines(parts["storage"])
        if isinstance(parts["executor"], ProcessesConfig):
            lines += checks.processor_lines(mapping.get("device"))
        if isinstance(parts["executor"], RayConfig):
            lines += checks.ray_lines(parts["executor"], mapping.get("device"))
        lines += checks.size_lines(
            parts["recipe"], stages, checks.examples(parts["data"], parts["objective"])
        )
        plan = mapping.get("plan")
        if isinstance(plan, list | tuple):
            lines += checks.plan_lines(plan, stages, parts["recipe"])
        lines += [] if lines else presets.lines(mapping)
        if config is not None and not lines:  # last, for it imports the user's modules
            lines += checks.own_lines({k: filled[k] for k in choices.OWN_ALLOWED})
        if config is None or lines:
            raise ConfigError(lines)
        return _settled(config)

    def public(self) -> dict[str, Any]:
        """Return plain values without passwords, to be stored and shown."""
        shown: dict[str, Any] = hidden_in(self.as_mapping())
        return shown

    def as_mapping(self) -> dict[str, Any]:
        """Return plain values; `from_mapping` makes the same config from them."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def final_epochs(self) -> float:
        """Length of the final run in epochs; short runs are a fraction of it."""
        for name in (*self.plan, *self.stages):  # a planned final stage before an unused one
            entry = self.stages[name]
            if getattr(checks.class_of(entry), "kind", None) == "final" and hasattr(
                entry, "epochs"
            ):
                return float(entry.epochs)
        raise ConfigError("stages: no stage of kind final, whose epochs are needed: add one")

    @property
    def prunes(self) -> bool:
        """Whether runs are pruned."""
        return not isinstance(self.pruner, NoPruner)

    @property
    def audit(self) -> float:
        """Share of the pruned runs that are trained to their end, to check the pruner."""
        return float(getattr(self.pruner, "audit", 0.0))


def _settled(config: Config) -> Config:
    """Fill in device and threads of workers: run keys depend on them."""
    executor = config.executor
    if isinstance(executor, ExecutorConfig):
        return config
    device, threads = "cpu", 1
    if isinstance(executor, RayConfig):
        device = "cuda" if executor.gpus_per_trial else "cpu"
        threads = max(1, int(executor.cpus_per_trial))
    device = device if config.device == "auto" else config.device
    return config.model_copy(update={"threads": config.threads or threads, "device": device})
