"""A run's session: reports points to Optuna, pruner and watcher, and writes checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from orchestrator.curve import OUT_OF_MEMORY, Point
from orchestrator.errors import out_of_memory, storing
from orchestrator.objectives import StopRun
from orchestrator.pruners import CluePruner
from orchestrator.recipe import Run
from orchestrator.storage.states import RunFiles
from orchestrator.system import signals


class TrialSession:
    """The session of one trial (see `objectives.Session`).

    `pruner` None: the run is not pruned. `watch` is called with every point. `run_key` names the
    checkpoint and the model in `files`. `goes_on`: the key of a kept run that it starts from.
    """

    def __init__(
        self,
        run: Run,
        run_key: str,
        trial: optuna.Trial,
        pruner: CluePruner | None,
        files: RunFiles,
        watch: Callable[[Point], None],
        goes_on: str | None = None,
    ) -> None:
        self.points: list[Point] = []
        self._run = run
        self._trial = trial
        self._pruner = pruner
        self._watch = watch
        self._files = files
        self._key, self._kept = run_key, goes_on

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
        self._files.save(self._key, state)

    def load(self) -> bytes | None:
        """Return the checkpoint, None without one; a damaged one is not used."""
        own = self._files.load(self._key)
        return self._files.load(self._kept) if own is None and self._kept else own

    def save_model(self, state: bytes) -> None:
        """Write the trained model. Raises StorageError if it cannot be written."""
        self._files.save_model(self._key, state)


def reason_of(error: BaseException) -> str:
    """Return an error as the reason of a failed outcome, marked if memory ran out."""
    text = f"{type(error).__name__}: {error}"
    return f"{OUT_OF_MEMORY}: {text}" if out_of_memory(error) else text
