"""A training function as an objective: what it does not say of itself is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from orchestrator.config.options import OwnConfig
from orchestrator.curve import Result
from orchestrator.errors import ConfigError
from orchestrator.objectives import Description, Session
from orchestrator.recipe import Facts, Run, run_seed
from orchestrator.training import device as torch_device
from orchestrator.training.evaluate import RESOLUTION
from orchestrator.training.function import measure
from orchestrator.training.function.rehearsal import Rehearsal, rehearse
from orchestrator.training.function.trial import Trial
from orchestrator.training.identity import described, edited
from orchestrator.training.randomness import restoring_randomness, seed_all

# Raise it with every change that changes what a training function is given.
FUNCTION_VERSION = 1


@dataclass(frozen=True)
class FunctionSettings:
    """What a study says of a training function.

    `steps`: of a final run with `batch_size`. `own`: the function's name and arguments. `seed`: the
    study's. `train_examples`: how many there are, None: not known; then a final run counts as one
    epoch. `larger_is_better`: of the metric that it reports, if any. `threads` None: torch's
    default. `opens_test`, `compares_sizes`: whether the plan does.
    """

    own: OwnConfig
    steps: int
    batch_size: int
    seed: int = 0
    train_examples: int | None = None
    larger_is_better: bool = True
    threads: int | None = None
    opens_test: bool = False
    compares_sizes: bool = False


class FunctionObjective:
    """Does runs by calling `function(trial, **arguments)` (see `Trial` and `objectives.Objective`).

    It is called for two steps, three times, before anything else: that gives the untrained loss,
    the optimiser and the device, and shows mistakes. Raises ConfigError, one line, for those.
    """

    def __init__(self, function: Callable[..., object], settings: FunctionSettings) -> None:
        self._function, self._settings = function, settings
        self._name = settings.own.target
        self._threads = torch_device.use_threads(settings.threads)
        sections = {"function": settings.own, **dict(_nested(settings.own.arguments))}
        self._code = {name: described(section) for name, section in sections.items()}
        found = rehearse(self._do, self._name, settings.batch_size, (self._seed(0), self._seed(1)))
        _check_plan(settings, found)
        self.found, self._device = found, found.device
        self._described = torch_device.describe(found.device, self._threads)
        examples = settings.steps * settings.batch_size
        self.facts = Facts(
            train_examples=settings.train_examples or examples,
            held_out_examples=1,
            chance_loss=found.start_loss,
            final_epochs=examples / (settings.train_examples or examples),
            metric=found.metric,
            larger_is_better=settings.larger_is_better,
            optimizer=found.optimizer,
            nesterov=found.nesterov,
        )
        notes = [f"{self._name} trains {settings.steps} steps in a final run."]
        if not found.uses_seed:
            notes.append(
                f"{self._name} trained alike with two seeds: what looks like no noise may be one"
                " seed only; let weights and data order depend on trial.seed."
            )
        self._notes = (*notes, *found.notes, *edited(sections.values()))

    def describe(self) -> Description:
        """Return what a study says of it."""
        return Description(
            device=self._described,
            continues=self.found.keeps_end,
            notes=self._notes,
            versions={"torch": version("torch")},
            formats={"function": FUNCTION_VERSION},
            own_loop=True,
        )

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return the function, its code and arguments, seed and device."""
        return {
            "objective": "function",
            "version": FUNCTION_VERSION,
            **self._code,
            "device": self._device.type if self._device.type == "cpu" else self._described,
            "threads": self._threads,
            "seed": self._settings.seed,
        }

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run."""
        torch_device.use_threads(self._threads)  # another objective may have changed it since
        if run.kind == "probe":
            return measure.probe(self._do, run, self._name, self._seed(0))
        if run.kind == "calibrate":
            return measure.calibrate(self._do, run, self._name, self._seed(0), self._steps)
        trial = Trial(run, session, self._name, self._seed(run.replicate))
        trial.min_loss = RESOLUTION * self.facts.chance_loss
        result = self._do(trial)
        if not isinstance(result, Result):
            raise trial.misuse(f"must return trial.result(...), got {type(result).__name__}")
        return result

    def _steps(self, batch_size: int) -> int:
        return self.facts.steps(1, batch_size)

    def _seed(self, replicate: int) -> int:
        return run_seed(self._settings.seed, replicate, "trial")

    def _do(self, trial: Trial) -> object:
        with restoring_randomness(torch_device.find("auto")):
            seed_all(trial.seed)
            return self._function(trial, **self._settings.own.arguments)


def _check_plan(settings: FunctionSettings, found: Rehearsal) -> None:
    """Raise ConfigError for stages that the function cannot serve."""
    name = settings.own.target
    if settings.opens_test and not found.has_test:
        raise ConfigError(
            f"{name} gives no test: return trial.result(test=...), or leave the final stage out of"
            " the plan"
        )
    if settings.compares_sizes and not found.uses_batch_size:
        raise ConfigError(
            f"{name} does not read trial.batch_size: leave the batch_size stage out of the plan"
        )


def _nested(arguments: Any, path: str = "") -> Iterator[tuple[str, OwnConfig]]:
    """Yield what among the arguments names code of the user's by `_target_`, and where."""
    if isinstance(arguments, Mapping):
        if "_target_" in arguments:
            yield path, OwnConfig.model_validate(arguments)
        for name, value in arguments.items():
            yield from _nested(value, f"{path}.{name}".lstrip("."))
