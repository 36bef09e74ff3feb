"""A run's session: its points go to Optuna, the pruner and the watchers; it keeps checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import optuna

from orchestrator.curve import Point
from orchestrator.objectives import StopRun
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run


class TrialSession:
    """The session of one trial (see `objectives.Session`).

    `pruner` None: the run goes to its end. `watch` is called with every point. `folder` holds
    `<key>.checkpoint` and `<key>.model`.
    """

    def __init__(
        self,
        run: Run,
        key: str,
        trial: optuna.Trial,
        pruner: CluePruner | None,
        folder: Path,
        watch: Callable[[Point], None],
    ) -> None:
        self.points: list[Point] = []
        self._run = run
        self._trial = trial
        self._pruner = pruner
        self._watch = watch
        self._checkpoint = checkpoint_file(folder, key)
        self._model = folder / f"{key}.model"

    def report(self, point: Point) -> None:
        """Take one point; raises `StopRun` if the run is to end here."""
        self.points.append(point)
        self._watch(point)
        if self._pruner is not None:
            self._pruner.observe(self._trial.number, point)
        self._trial.report(point.held_out_loss, point.step)
        stop = self._run.stop_loss
        if stop is not None and not point.held_out_loss <= stop:  # this way round: NaN stops too
            raise StopRun(
                f"held-out loss {point.held_out_loss:.3g} passed {stop:.3g}", pruned=False
            )
        if self._pruner is not None and self._trial.should_prune():
            raise StopRun(self._pruner.reason(self._trial.number), pruned=True)

    def save(self, state: bytes) -> None:
        """Keep a checkpoint."""
        write_atomically(self._checkpoint, state)

    def load(self) -> bytes | None:
        """Return the checkpoint, None without one."""
        return self._checkpoint.read_bytes() if self._checkpoint.exists() else None

    def save_model(self, state: bytes) -> None:
        """Keep the trained model."""
        write_atomically(self._model, state)


def checkpoint_file(folder: Path, key: str) -> Path:
    """Return where the checkpoint of the run with this key is kept."""
    return folder / f"{key}.checkpoint"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one piece or not at all, and onto the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
