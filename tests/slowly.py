"""The quadratic objective with a pause at each report, so that a test can disturb a run."""

import time
from typing import Any

from orchestrator.curve import Point, Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import Quadratic, QuadraticObjective
from orchestrator.recipe import Run


class Slowly(QuadraticObjective):
    """Its results are those of the quadratic objective, whatever the `pause` in seconds."""

    def __init__(self, *, pause: float = 0.0, final_epochs: float = 4, **_: Any) -> None:
        super().__init__(Quadratic(train_examples=300), final_epochs=final_epochs)
        self._pause = pause

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run."""
        return super().__call__(run, _Slow(session, self._pause))


class _Slow:
    def __init__(self, session: Session, pause: float) -> None:
        self._session, self._pause = session, pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def report(self, point: Point) -> None:
        """Report after a pause, and keep the place as a checkpoint."""
        time.sleep(self._pause)
        self._session.save(str(point.step).encode())
        self._session.report(point)
