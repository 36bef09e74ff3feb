"""The training objective: trains runs with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from orchestrator.config.optimizer import AnyOptimizer, OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import (
    AnyData,
    AnyLoss,
    AnyMetric,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OwnDataConfig,
    TrainingConfig,
)
from orchestrator.curve import Result
from orchestrator.objectives import Description, Session
from orchestrator.recipe import Facts, Run, RunKind
from orchestrator.training import advice, compatibility, compiled, diagnose, first_step, models
from orchestrator.training import device as torch_device
from orchestrator.training.calibration import calibrate
from orchestrator.training.chance import chance_loss, largest_share, remarks
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import Data
from orchestrator.training.doubts import doubts
from orchestrator.training.evaluate import RESOLUTION
from orchestrator.training.identity import asides, described, edited, named, preprocessing
from orchestrator.training.loop import train
from orchestrator.training.memory import place, probe
from orchestrator.training.optimizer import freeze
from orchestrator.training.randomness import restoring_randomness
from orchestrator.training.task import Task
from orchestrator.training.trainer import Setup
from orchestrator.training.untrained import untrained_loss

# Increase it with every change to training that changes losses, so that older results are not
# reused. tests/test_training.py fails when the losses change.
TRAINING_VERSION = 2
DO: dict[RunKind, Callable[[Setup, Run, Session], Result]] = {
    "train": train,
    "ramp": train,
    "probe": lambda setup, run, _: probe(setup, run),
    "calibrate": lambda setup, run, _: calibrate(setup, run),
}
DEFAULTS = (LossConfig(), MetricConfig())


@dataclass(frozen=True)
class TrainingSettings:
    """The sections of the config that training needs, under their names there.

    `objective`: how to compute. `device`: "auto" is CUDA if there is one, else the CPU. `threads`
    None: torch's default. `precision`: "float32", or "bfloat16" by autocast. `seed`: the study's
    seed; with a run's replicate it determines weights, data order, crops and dropout.
    `final_epochs`: length of a final run. `batch_size`: for the probe of torch.compile.
    """

    data: AnyData
    model: ModelConfig | OwnConfig
    optimizer: AnyOptimizer = field(default_factory=OptimizerConfig)
    loss: AnyLoss = field(default_factory=LossConfig)
    metric: AnyMetric = field(default_factory=MetricConfig)
    objective: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "auto"
    threads: int | None = None
    precision: str = "float32"
    seed: int = 0
    final_epochs: float = 10
    batch_size: int = 64

    def determining(self) -> dict[str, BaseModel]:
        """Return the sections that determine results, by their names in run keys."""
        # Loss and metric are left out at their defaults, so that older run keys stay valid.
        chosen = {"loss": self.loss, "metric": self.metric}
        more = {name: section for name, section in chosen.items() if section not in DEFAULTS}
        return {"data": self.data, "model": self.model, "optimizer": self.optimizer, **more}


class TrainingObjective:
    """Trains a model on data (see `objectives.Objective`), in this process.

    `cache`: the folder for decoded images. Cross-entropies are in nats, accuracy is a fraction.
    Raises ConfigError (DataError, ModelError), one line, before any training.
    """

    def __init__(self, settings: TrainingSettings, cache: Path) -> None:
        how, optimizer = settings.objective, settings.optimizer
        where = torch_device.find(settings.device, how.deterministic)
        sections = settings.determining()
        # Now, and not at each run: a file may be edited while the imported code trains.
        self._how, self._sections = how, {k: described(part) for k, part in sections.items()}
        self._threads_given = settings.threads is not None
        self._threads = torch_device.use_threads(settings.threads)
        self._device = torch_device.describe(where, self._threads)
        task = Task(settings.loss, settings.metric)
        found = load(settings.data, cache, task)
        make_model = partial(_network, settings.model, found, optimizer.frozen)
        inputs = place(found, where, how.resident)
        with restoring_randomness(where):
            tried = make_model()
            inputs.channels_last &= models.check(tried, found, task)
            scores = _scores(tried, found)
        classes, counted = compatibility.classes_of(task, scores, found.sample().y, found.classes)
        chance = chance_loss(task, found.train.y, classes, scores)
        code = {**task.as_code(scores, found.sample().y), "examples": len(found.train)}
        task.to(where)
        self._setup = Setup(
            make_model,
            found,
            inputs,
            optimizer,
            settings.precision,
            settings.seed,
            how.micro_batch_size,
            task=task,
            min_loss=RESOLUTION * chance,
        )
        with self._at_work():
            first_step.check(self._setup)
            doubted = doubts(self._setup)
        self.facts = self._facts(chance, classes, settings.final_epochs, tried)
        with self._at_work():  # first, to avoid compiling for its batch size
            warning = advice.on_hours(self._setup, self.facts.final_examples, self._device)
        compiling = self._compile(settings.batch_size, cache)
        said = remarks(task, found.train.y, chance, scores)
        told = (*asides(found, settings.model), *edited(sections.values()))
        self._description = Description(
            device=self._device,
            continues=True,
            notes=(
                *(found.source, *found.notes, *counted, *told),
                *(*doubted, *said, *compiling, *warning),
            ),
            datasets=named(settings.data, found),
            versions={name: version(name) for name in ("torch", "torchvision")},
            formats={"training": TRAINING_VERSION},
            inputs=preprocessing(found),
            task=code,
            test_examples=found.test_examples,
            advice=self._advice,
            export=self._export,
            diagnose=self._diagnose,
            recheck=partial(_recheck, settings, cache, found),
        )

    def describe(self) -> Description:
        """Return its description."""
        return self._description

    def _facts(self, chance: float, classes: int, final_epochs: float, model: nn.Module) -> Facts:
        data, task = self._setup.data, self._setup.task
        with self._at_work():
            untrained = untrained_loss(self._setup, chance, classes)
            # Only AdamW's weight decay goes by it: a large network is not made twice for nothing.
            from_scratch = self._setup.optimizer.name == "adamw" and models.is_random(
                self._setup.network(0), self._setup.network(1)
            )
        share = largest_share(task, data.train.y) if task.metric_name == "accuracy" else None
        return Facts(
            train_examples=len(data.train),
            held_out_examples=len(data.held_out),
            chance_loss=chance,
            final_epochs=final_epochs,
            metric=task.metric_name,
            larger_is_better=task.larger_is_better,
            dropout=models.dropout_of(model),
            untrained_loss=untrained,
            normalised=models.is_normalised(model),
            batch_norm=models.has_batch_norm(model),
            from_scratch=from_scratch,
            chance_metric=share,
        )

    def _compile(self, batch_size: int, cache: Path) -> list[str]:
        """Compile the forward pass if set or if it saves time; return a note with the reason."""
        changing = self._how.changing
        asked = changing.pop("compile", False)
        self._changing = changing
        if not asked:
            return []
        choice = compiled.Choice(True, "compiled, as set")
        if asked == "auto":
            size = min(batch_size, self.facts.train_examples)
            examples = self.facts.final_examples * advice.RUNS_PER_STUDY
            key = [*self._sections.values(), self._setup.precision, self._device]
            with self._at_work():
                choice = compiled.choose(self._setup, size, examples, cache, key)
        if choice.on:
            self._changing["compile"] = True
            self._setup = replace(self._setup, forward=compiled.compiled(), _warm=set())
        return [f"The network is {choice.reason}."]

    def _advice(self, batch_size: int) -> list[str]:
        """Return advice on how to train faster here, measured by a few steps."""
        if self._threads_given or self._threads == 1:
            return []
        with self._at_work():
            return advice.on_threads(self._setup, batch_size, self._threads)

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return all that determines a result besides the run."""
        found = self._setup.data
        context = {
            "objective": "training",
            "version": TRAINING_VERSION,
            **self._sections,
            "train_hash": found.train_hash,
            "held_out_hash": found.held_out_hash,
            "device": self._setup.device.type if self._setup.device.type == "cpu" else self._device,
            "threads": self._threads,
            "precision": self._setup.precision,
            "seed": self._setup.seed,
            **self._changing,
        }
        return {**context, "test_hash": found.test_hash()} if run.opens_test else context

    def _export(self, weights: Path, to: Path) -> dict[str, Any]:
        """Write the network with `weights` (model.pt) to `to` as a torch.export program.

        It takes inputs as the data source gives them. Returns shapes and type of one example.
        """
        from orchestrator.training.export import export

        data = self._setup.data
        with restoring_randomness(self._setup.device):
            network = self._setup.make_model()
        shape = export(network, data, weights, to)
        return {
            "input_shape": list(data.input_shape),
            "input_type": str(data.source_type).removeprefix("torch."),
            "output_shape": list(shape),
        }

    def _diagnose(self, way_out: str) -> str:
        """Return why the network does not learn, "" if that is not clear (see `diagnose`)."""
        with self._at_work():
            return diagnose.finding(diagnose.patient_of(self._setup), way_out)

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run. Raises ValueError if its batch is larger than the training data."""
        torch_device.use_threads(self._threads)  # another objective may have changed it
        with self._at_work():
            return DO[run.kind](self._setup, run, session)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Return a context that restores random states and ends background threads."""
        with restoring_randomness(self._setup.device), closing(self._setup.inputs):
            yield


def _recheck(settings: TrainingSettings, cache: Path, found: Data) -> str:
    """Load the data again; return why they differ this time, "" if they are the same."""
    if not isinstance(settings.data, OwnDataConfig):
        return ""
    again = load(settings.data, cache, Task(settings.loss, settings.metric))
    if (again.train_hash, again.held_out_hash) == (found.train_hash, found.held_out_hash):
        return ""
    return (
        f"data {settings.data.target}: returns other examples at every call, so that runs could not"
        " be compared: seed what is random in it, as numpy.random.default_rng(0) does"
    )


@torch.no_grad()
def _scores(model: nn.Module, data: Data) -> Tensor:
    """Return the scores of two examples, on the CPU."""
    scores: Tensor = model.eval()(data.sample().x)
    return scores


def _network(model: ModelConfig | OwnConfig, data: Data, frozen: Sequence[str]) -> nn.Module:
    """Return the network with fresh weights, those of `frozen` frozen. Raises ModelError."""
    made = models.build(model, data)
    freeze(made, frozen)
    return made
