"""Where the main thread's seconds go: functions grouped into rooms, each second counted once.

The functions are wrapped when their modules are imported, not before, so that nothing is imported
earlier than without us. What a wrapped function calls in another room is taken off its own time.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

TRAINING, HELD_OUT = "training steps", "held-out evaluation"
REPORTS, POINTS = "Optuna: reports", "tracking: points"
# module -> {function or Class.method: room}. A name that is no longer there is listed as missing.
ROOMS: Mapping[str, Mapping[str, str]] = {
    "orchestrator.__main__": {"compose": "config (Hydra)", "_study": "imports"},
    "orchestrator.config.schema": {
        "Config.from_mapping": "config (pydantic)",
    },
    "orchestrator.build": {"objective": "torch, data, trying the network"},
    "orchestrator.study.walk": {"run_study": "the study's own work"},
    "orchestrator.plan.budget": {"Budget.walk": "stages"},
    "orchestrator.training.trainer": {
        "Trainer.__init__": "making networks",
        "Trainer.advance": TRAINING,
        "Setup.now": TRAINING,  # on a GPU this is where the steps are waited for
        "evaluate": HELD_OUT,
    },
    "orchestrator.training.checkpoint": {"write": "checkpoints", "model_bytes": "checkpoints"},
    "orchestrator.executors.session": {
        "TrialSession.save": "checkpoints",
        "TrialSession.save_model": "checkpoints",
    },
    "orchestrator.executors.idle": {"IdleWait.wait": "waiting for an idle machine"},
    "orchestrator.objectives.quadratic": {"QuadraticObjective.__call__": TRAINING},
    "orchestrator.storage.ledger": {
        "Ledger.__init__": "Optuna: trials",
        "Ledger.study": "Optuna: trials",
        "Ledger.find": "Optuna: trials",
        "Ledger.ask": "Optuna: trials",
        "Ledger.tell": "Optuna: trials",
    },
    "optuna.trial._trial": {"Trial.report": REPORTS, "Trial.should_prune": "pruner"},
    "orchestrator.tracking.mlflow": {
        "MlflowTracker.start": "tracking: the rest",
        "MlflowTracker.run_started": "tracking: the rest",
        "MlflowTracker.point": POINTS,
        "MlflowTracker.run_ended": "tracking: the rest",
        "MlflowTracker.decided": "tracking: the rest",
        "MlflowTracker.finish": "tracking: the last of it",
    },
    "orchestrator.tracking.outbox": {"Outbox.pause": "tracking: waiting for it to rest"},
    "orchestrator.report.html": {"write": "report"},
    "orchestrator.report.terminal": dict.fromkeys(
        (
            "Terminal.study_started",
            "Terminal.stage_started",
            "Terminal.run_started",
            "Terminal.point",
            "Terminal.run_ended",
            "Terminal.decided",
            "Terminal.finished",
            "Terminal.close",
        ),
        "terminal",
    ),
}


class Rooms:
    """The seconds that the main thread spends in each room, and those of every single call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.missing: list[str] = []
        self.first: dict[str, float] = {}  # wall-clock time of the first call of each function
        self.before: dict[str, Callable[[], None]] = {}  # called before the function of that name
        self._inner = [0.0]  # seconds of the rooms entered from each open call
        self._main = threading.get_ident()

    def install(self, rooms: Mapping[str, Mapping[str, str]] = ROOMS) -> None:
        """Wrap the functions as their modules are imported."""
        for module, names in rooms.items():
            after_import(module, lambda made, names=names: self._wrap(made, names))

    def _wrap(self, module: Any, names: Mapping[str, str]) -> None:
        for name, room in names.items():
            owner_name, _, attribute = name.rpartition(".")
            owner = getattr(module, owner_name, None) if owner_name else module
            function = vars(owner).get(attribute) if owner is not None else None
            if function is None:
                self.missing.append(f"{module.__name__}.{name}")
            elif isinstance(function, classmethod):
                wrapped = self.timed(name, room, function.__func__)
                setattr(owner, attribute, classmethod(wrapped))
            else:
                setattr(owner, attribute, self.timed(name, room, function))

    def timed(self, name: str, room: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken, in the main thread alone."""
        calls = self.calls[room]

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._main:
                return function(*args, **kwargs)
            self.first.setdefault(name, time.time())
            if name in self.before:
                self.before[name]()
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - started
                own = whole - self._inner.pop()
                self._inner[-1] += whole
                self.seconds[room] += own
                calls.append(own)

        return call


class _AfterImport(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after_import(name: str, then: Callable[[Any], None]) -> None:
    """Call `then` with the module once it has been imported."""
    sys.meta_path.insert(0, _AfterImport(name, then))
