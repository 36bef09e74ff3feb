"""Executors: where runs are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import nvml
from orchestrator.config import Config
from orchestrator.executors.quiet import Quiet
from orchestrator.sections import ProcessesConfig

if TYPE_CHECKING:
    from orchestrator.executors.inline import InlineExecutor, Watcher
    from orchestrator.ledger import Ledger
    from orchestrator.objectives import Objective
    from orchestrator.pruners import CluePruner


def build(
    config: Config,
    ledger: Ledger,
    objective: Objective,
    pruner: CluePruner | None,
    checkpoints: Path,
    watcher: Watcher,
) -> InlineExecutor:
    """Return the executor that `config` describes."""
    rooms = (ledger, objective, pruner, checkpoints, watcher)
    quiet = Quiet(most_seconds=config.executor.wait_seconds, gpu=_use_of_gpu(config.device))
    if not isinstance(config.executor, ProcessesConfig):
        from orchestrator.executors.inline import InlineExecutor

        return InlineExecutor(*rooms, quiet=quiet)
    from orchestrator.executors.crew import Crew, cores
    from orchestrator.executors.processes import ProcessExecutor

    workers = config.executor.workers or max(1, cores() // (config.threads or 1))
    return ProcessExecutor(*rooms, quiet=quiet, crew=Crew(config.as_mapping(), workers))


def _use_of_gpu(device: str) -> Callable[[], float | None] | None:
    """Return how the use of the GPU is asked for, None without one (`auto` takes the first)."""
    name, _, number = device.partition(":")
    found = nvml.gpus() if name in ("auto", "cuda") else []
    return found[int(number or 0)].utilisation if int(number or 0) < len(found) else None
