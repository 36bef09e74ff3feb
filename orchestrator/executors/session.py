"""A run's session: reports points to Optuna, pruner and watcher, and writes checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from orchestrator.curve import OUT_OF_MEMORY, Point
from orchestrator.errors import out_of_memory, storing
from orchestrator.objectives import StopRun
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run
from orchestrator.storage.paths import StudyPaths
from orchestrator.system import signals
from orchestrator.system.files import read_sealed, write_atomically, write_sealed


class TrialSession:
    """The session of one trial (see `objectives.Session`).

    `pruner` None: the run is not pruned. `watch` is called with every point. `run_key` names the
    files of checkpoint and model. `goes_on`: the key of a kept run that it starts from.
    """

    def __init__(
        self,
        run: Run,
        run_key: str,
        trial: optuna.Trial,
        pruner: CluePruner | None,
        paths: StudyPaths,
        watch: Callable[[Point], None],
        goes_on: str | None = None,
    ) -> None:
        self.points: list[Point] = []
        self._run = run
        self._trial = trial
        self._pruner = pruner
        self._watch = watch
        self._checkpoint = paths.checkpoint(run_key)
        self._model = paths.model(run_key)
        self._kept = paths.checkpoint(goes_on) if goes_on else None

    def report(self, point: Point) -> None:
        """Report one point.

        Raises `StopRun` if the run ends here, Interrupted after a signal, and StorageError if
        Optuna's storage cannot be written.
        """
        self.points.append(point)
        self._watch(point)
        if self._pruner is not None:
            self._pruner.observe(self._trial.number, point)
        with storing():
            self._trial.report(point.held_out_loss, point.step)
        if self._run.stopped_by(loss := point.held_out_loss):
            raise StopRun(
                f"held-out loss {loss:.3g} passed {self._run.stop_loss:.3g}", pruned=False
            )
        if self._pruner is not None and self._trial.should_prune():
            raise StopRun(self._pruner.reason(self._trial.number), pruned=True)
        signals.check()

    def save(self, state: bytes) -> None:
        """Write a checkpoint. Raises StorageError if it cannot be written."""
        with storing(str(self._checkpoint)):
            write_sealed(self._checkpoint, state)

    def load(self) -> bytes | None:
        """Return the checkpoint, None without one; a damaged one is renamed."""
        with storing(str(self._checkpoint)):
            own = read_sealed(self._checkpoint)
            return read_sealed(self._kept) if own is None and self._kept else own

    def save_model(self, state: bytes) -> None:
        """Write the trained model. Raises StorageError if it cannot be written."""
        with storing(str(self._model)):
            write_atomically(self._model, state)


def reason_of(error: BaseException) -> str:
    """Return an error as the reason of a failed outcome, marked if memory ran out."""
    text = f"{type(error).__name__}: {error}"
    return f"{OUT_OF_MEMORY}: {text}" if out_of_memory(error) else text
