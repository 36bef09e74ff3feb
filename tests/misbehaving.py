"""An objective whose runs misbehave as their labels say: for the tests of worker processes."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from orchestrator.curve import Point, Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Run
from orchestrator.system import signals

PARENT = "ORCHESTRATOR_TEST_PARENT"  # its process id: some faults are for workers alone


class Misbehaving(QuadraticObjective):
    """The quadratic objective, but for the labels of `FAULTS`."""

    def __init__(self, *, unbuildable: bool = False, **_: Any) -> None:
        if unbuildable and str(os.getpid()) != os.environ.get(PARENT):
            raise RuntimeError("no worker can build this")
        super().__init__()

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run, or do not."""
        if fault := FAULTS.get(run.label):
            session = fault(session)
        print("noise on standard output")
        return super().__call__(run, session) if run.label != "pid" else _whose(run, session)


class Fault:
    """A session that does something bad at the third report."""

    def __init__(self, session: Session) -> None:
        self._session, self._reports = session, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def report(self, point: Point) -> None:
        """Report, and be bad at the third."""
        self._session.report(point)
        self._reports += 1
        if self._reports == 3:
            self.bad()

    def bad(self) -> None:
        """What is bad."""
        raise ValueError("out of cheese")


class Killed(Fault):
    def bad(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce(Fault):
    def bad(self) -> None:
        if self._session.load() is None:
            self._session.save(b"was here")
            os.kill(os.getpid(), signal.SIGKILL)


class Asleep(Fault):
    def bad(self) -> None:
        Path("asleep").touch()
        time.sleep(600)


class Patient(Fault):
    """Waits for a signal, then keeps a checkpoint, as training does."""

    def bad(self) -> None:
        while not signals.noted():
            time.sleep(0.02)
        self._session.save(b"was here")
        signals.check()


FAULTS = {
    "patient": Patient,
    "raises": Fault,
    "killed": Killed,
    "killed once": KilledOnce,
    "asleep": Asleep,
}


def _whose(run: Run, session: Session) -> Result:
    """Say which process does this run."""
    session.report(Point(run.steps, 1.0, 0.1, 0.9, 1.0, 1.0))
    return Result(measured={"pid": os.getpid()})
