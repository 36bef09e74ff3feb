"""Find the hyper-parameters of a neural network in a few short runs.

The staged method of L. N. Smith, "A disciplined approach to neural network hyper-parameters"
(arXiv 1803.09820), as an Optuna study that a Hydra config describes and MLflow records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import run_study as run_study
    from orchestrator.api import tune as tune
    from orchestrator.errors import ConfigError as ConfigError
    from orchestrator.pruners import CluePruner as CluePruner
    from orchestrator.pruners import ClueRules as ClueRules
    from orchestrator.pruners import report_cycles as report_cycles
    from orchestrator.recipe import Recipe as Recipe
    from orchestrator.record import StudyRecord as StudyRecord
    from orchestrator.schedules import Schedule as Schedule
    from orchestrator.training.function.alone import trial_of as trial_of
    from orchestrator.training.function.trial import Trial as Trial
    from orchestrator.training.muon import MuonAdamW as MuonAdamW
    from orchestrator.training.standalone.lr_scheduler import ScheduleLR as ScheduleLR
    from orchestrator.training.standalone.range_result import LRRangeResult as LRRangeResult
    from orchestrator.training.standalone.range_test import lr_range_test as lr_range_test

# The public names and where they live: fetched on first use, for torch alone takes seconds.
_HOMES = {
    "run_study": "orchestrator.api",
    "tune": "orchestrator.api",
    "ConfigError": "orchestrator.errors",
    "Recipe": "orchestrator.recipe",
    "StudyRecord": "orchestrator.record",
    "CluePruner": "orchestrator.pruners",
    "ClueRules": "orchestrator.pruners",
    "report_cycles": "orchestrator.pruners",
    "Schedule": "orchestrator.schedules",
    "Trial": "orchestrator.training.function.trial",
    "trial_of": "orchestrator.training.function.alone",
    "MuonAdamW": "orchestrator.training.muon",
    "ScheduleLR": "orchestrator.training.standalone.lr_scheduler",
    "LRRangeResult": "orchestrator.training.standalone.range_result",
    "lr_range_test": "orchestrator.training.standalone.range_test",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
