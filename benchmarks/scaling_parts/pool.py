"""Workers in simulated time: each run takes the seconds that it reports, and no worker waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from orchestrator.curve import Outcome
from orchestrator.executors import worker as workers
from orchestrator.objectives import Objective


class SimulatedWorker:
    """A worker of the pool; a task is done when it is sent, and takes effect later."""

    def __init__(self, pool: SimulatedPool) -> None:
        self._pool = pool

    def send(self, message: Any) -> None:
        self._pool.begin(self, message)


class SimulatedPool:
    """`size` workers that share one objective. `now`: the simulated time in seconds.

    `late(seconds)`: what a run takes if it reports `seconds`.
    """

    shares_disk, trains_alone = True, True

    def __init__(
        self, objective: Objective, size: int, late: Callable[[float], float] = float
    ) -> None:
        self.now = self.busy = 0.0
        self._objective, self._size, self._late = objective, size, late
        self._idle = [SimulatedWorker(self) for _ in range(size)]
        self._events: list[tuple[float, int, SimulatedWorker, object]] = []
        self._order = count()
        self._gone: set[SimulatedWorker] = set()

    def free(self, wanted: int, alone: bool = False) -> SimulatedWorker | None:
        return self._idle.pop() if self._idle else None

    def begin(self, worker: SimulatedWorker, task: Any) -> None:
        messages: list[object] = []
        workers.do(task, self._objective, messages.append)
        ended = messages[-1]
        seconds = _seconds(ended) if isinstance(ended, Outcome) else 0.0
        self.busy += self._late(seconds)
        end = self.now + self._late(seconds)
        for message in messages:
            heapq.heappush(self._events, (end, next(self._order), worker, message))

    def done(self, worker: SimulatedWorker) -> None:
        self._idle.append(worker)

    def listen(self) -> tuple[SimulatedWorker, object]:
        while True:
            self.now, _, worker, message = heapq.heappop(self._events)
            if worker not in self._gone:
                return worker, message

    def remove(self, worker: SimulatedWorker) -> tuple[str, bool]:
        self._gone.add(worker)
        self._idle.append(SimulatedWorker(self))
        return "stopped", False

    def rest(self) -> None: ...

    def close(self) -> None:
        self._events.clear()
        self._idle = [SimulatedWorker(self) for _ in range(self._size)]


def _seconds(outcome: Outcome) -> float:
    measured = outcome.result.measured.get("seconds_per_step", {})
    last = float(outcome.curve.seconds[-1]) if len(outcome.curve) else 0.0
    return max(last, outcome.result.seconds) + 30 * sum(measured.values())
