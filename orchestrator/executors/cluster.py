"""Workers on a Ray cluster; the only module that imports Ray.

Ray finds the place of each worker and says when one is dead. A worker is an actor: it builds the
objective once, so data are loaded once for each process. Its messages go through a mailbox, an
actor beside this process, so that training does not wait for whoever reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import pickle
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

# Before the import. What Ray prints of workers that die is in study.log too.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.curve import Outcome
from orchestrator.errors import ClusterError, ConfigError, one_line
from orchestrator.executors.worker import MakeObjective, Task, Written, do, forward_log, quiet
from orchestrator.system import signals
from orchestrator.system.host import processor

if TYPE_CHECKING:
    from orchestrator.config.sections import RayConfig

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2  # the longest time until a signal is noticed
HEAD_SECONDS = 20.0  # Ray ends this process 60 s after it has lost the head
NODES_SECONDS = 1.0  # between two looks at the machines of the cluster
ROOM_SECONDS = 60.0  # without a single worker, until that is said
LEAVE_SECONDS = 10.0
STARTS = 2  # attempts at starting a worker
BEAT = b""  # the message of a worker that trains for long
# Of the working folder only source code goes to other machines.
SENT = ("*", "!*/", "!*.py", ".venv", ".git", "runs", "mlruns")


class Mailbox:
    """The messages of all workers, in the order of their arrival."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[int, bytes | None]] = asyncio.Queue()

    async def put(self, worker: int, messages: Sequence[bytes | None]) -> None:
        """Add messages, pickles: what is in them is not imported here. None: the worker is dead."""
        for message in messages:
            self._messages.put_nowait((worker, message))

    async def take(self) -> list[tuple[int, bytes | None]]:
        """Wait for a message and return all that are there."""
        found = [await self._messages.get()]
        while not self._messages.empty():
            found.append(self._messages.get_nowait())
        return found


class Trainer:
    """A worker: trains the runs that it is sent, one at a time.

    `number`: its name in messages. `make`: makes the objective of `config`. `folder` and `path`:
    working folder and sys.path of the process that started it, used as far as they are here.
    """

    def __init__(
        self,
        number: int,
        make: MakeObjective,
        config: Mapping[str, Any],
        folder: str,
        path: list[str],
        mailbox: Any,
        beat_seconds: float,
    ) -> None:
        self._number, self._mailbox, self._outbox = number, mailbox, Queue[bytes]()
        threading.Thread(target=self._post, args=(beat_seconds,), daemon=True).start()
        sent = os.getcwd()  # the folder of the runtime environment
        if os.path.isdir(folder):
            os.chdir(folder)
        there = [place for place in path if os.path.exists(place)]
        sys.path[:] = list(dict.fromkeys([*there, *sys.path, sent, os.getcwd()]))
        with quiet():
            forward_log(self._answer)
            self._objective = make(config)

    def where(self) -> tuple[str, str, int]:
        """Return the node, the device, and the process; called first, to know that it is ready."""
        context = ray.get_runtime_context()
        return context.get_node_id(), _device(), os.getpid()

    def train(self, task: Task) -> None:
        """Train a run; all that it says is sent as messages."""
        do(task, self._objective, self._answer if not task.job.alone else self._answer_measured)
        self._outbox.join()

    def _answer(self, message: object) -> None:
        self._outbox.put(pickle.dumps(message))
        if isinstance(message, Written):  # saved only if it has arrived
            self._outbox.join()

    def _answer_measured(self, message: object) -> None:
        """Answer, with the device that a time was measured on."""
        if isinstance(message, Outcome):
            measured = {**message.result.measured, "device": _device()}
            message = replace(message, result=replace(message.result, measured=measured))
        self._answer(message)

    def _post(self, beat_seconds: float) -> None:
        """Send the messages in their order, and a sign of life where there are none."""
        while True:
            found: list[bytes] = []
            with contextlib.suppress(Empty):
                found.append(self._outbox.get(timeout=beat_seconds))
                while True:
                    found.append(self._outbox.get_nowait())
            try:
                ray.get(self._mailbox.put.remote(self._number, found or [BEAT]))
            except RayError:  # the process that started this one has ended
                os._exit(1)
            for _ in found:
                self._outbox.task_done()


def _device() -> str:
    """Return the GPUs of this worker, or the processor of this machine."""
    if not ray.get_gpu_ids():
        return f"{processor()}, {os.cpu_count()} cores"
    from orchestrator.system import nvml

    found = nvml.gpus()
    return found[0].name() if found else "GPU"


class RayWorker:
    """The handle of a worker. `ready`: it has built its objective."""

    def __init__(self, number: int, actor: Any, alone: bool) -> None:
        self.number, self.actor, self.alone = number, actor, alone
        self.busy = self.actor.where.remote()  # the call that it works on, None: it is idle
        self.ready = False
        self.node, self.pid, self.end = "", 0, ""
        self.heard = time.monotonic()

    def send(self, message: object) -> None:
        """Send it a `Task`."""
        self.heard = time.monotonic()
        self.busy = self.actor.train.remote(message)


class RayPool:
    """Workers on the cluster that `options` name (see `parallel.Pool`).

    `make` makes the objective of the values `config`. The cluster is joined when there is work.
    """

    trains_alone = True

    def __init__(
        self,
        make: MakeObjective,
        config: Mapping[str, Any],
        options: RayConfig,
        *,
        shares_disk: bool = False,
    ) -> None:
        self.shares_disk = shares_disk
        self._make, self._config, self._options = make, config, options
        self._workers: dict[int, RayWorker] = {}
        self._idle: list[RayWorker] = []
        self._inbox: deque[tuple[int, bytes | None]] = deque()
        self._mailbox: Any = None
        self._mail: Any = None  # the call that waits for the next messages
        self._joined = self._mine = False
        self._number = self._failures = 0
        self._waiting_since: float | None = None  # no worker has a place
        self._head_seen = 0.0  # when it answered last
        self._nodes: dict[str, dict[str, float]] = {}  # resources by machine, of a second ago
        self._left = threading.Event()  # the cluster
        self._timing_node = ""

    # --- workers

    def free(self, wanted: int, alone: bool = False) -> RayWorker | None:
        """Return an idle worker; start some if there is none and the cluster has room."""
        self._join()
        for worker in list(self._workers.values()):
            if worker.alone != alone:  # it would hold the device
                self.remove(worker)
        while self._idle:
            worker = self._idle.pop()
            if worker.node in self._nodes:
                return worker
            self.remove(worker)
        starting = sum(not worker.ready for worker in self._workers.values())
        room = 1 if alone else self._options.workers or self._room()
        for _ in range(min(wanted - starting, room - len(self._workers))):
            self._start(alone)
        return None

    def done(self, worker: RayWorker) -> None:
        """Mark a worker as idle."""
        self._idle.append(worker)

    def remove(self, worker: RayWorker) -> tuple[str, bool]:
        """Remove a worker, dead or alive."""
        self._workers.pop(worker.number, None)
        if worker in self._idle:
            self._idle.remove(worker)
        if self._reached():
            with contextlib.suppress(Exception):  # it may be dead
                ray.kill(worker.actor)
        lost = bool(worker.node) and worker.node not in self._nodes
        return ("its machine is lost" if lost else worker.end or "stopped"), lost

    def rest(self) -> None:
        """Stop a worker that has a whole device: others may wait for it."""
        for worker in [w for w in self._workers.values() if w.alone]:
            self.remove(worker)

    def _start(self, alone: bool) -> None:
        self._number += 1
        options: dict[str, Any] = {
            "num_cpus": self._options.cpus_per_trial,
            "num_gpus": self._options.gpus_per_trial,
            "resources": self._kind(),
        }
        if alone and self._options.gpus_per_trial:
            options["num_gpus"] = math.ceil(self._options.gpus_per_trial)
        elif alone:
            node = self._timed_on()
            options["num_cpus"] = self._nodes[node].get("CPU", 1)
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = ray.remote(Trainer).options(max_restarts=0, **options).remote(
            self._number,
            self._make,
            dict(self._config),
            os.getcwd(),
            [place for place in sys.path if place],
            self._mailbox,
            self._options.lease_seconds / 5,
        )  # fmt: skip
        self._workers[self._number] = RayWorker(self._number, actor, alone)

    def _room(self) -> int:
        """Return how many workers the machines of the cluster hold."""
        asked = {"CPU": self._options.cpus_per_trial, "GPU": self._options.gpus_per_trial}
        kind = self._kind()
        room = 0
        for there in self._nodes.values():
            if all(name in there for name in kind):
                room += min(int(there.get(k, 0) / n) for k, n in asked.items() if n)
        if not room and self._nodes:
            needs = ", ".join(f"{n:g} {name}" for name, n in asked.items() if n)
            kinds = f" of {', '.join(kind)}" if kind else ""
            raise ConfigError(
                f"executor: no machine of the cluster has room for a trial ({needs}{kinds}): lower"
                " executor.cpus_per_trial or executor.gpus_per_trial, or add machines"
            )
        return room

    def _kind(self) -> dict[str, float]:
        """Return the kind of GPU that this machine has, as Ray names it, {} for none.

        Run keys have the GPU's name, so runs of another kind would not be found.
        """
        if not self._options.gpus_per_trial:
            return {}
        own = self._nodes.get(ray.get_runtime_context().get_node_id(), {})
        return {name: 0.001 for name in own if name.startswith("accelerator_type:")}

    def _timed_on(self) -> str:
        """Return the machine whose processors measure times: the same one while it is there.

        It is one like this machine, or like most.
        """
        nodes = self._nodes
        if self._timing_node in nodes:
            return self._timing_node
        ask = ray.remote(processor)
        calls = {
            node: ask.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote()
            for node in nodes
        }
        kinds = {node: str(ray.get(call)) for node, call in calls.items()}
        usual = Counter(sorted(kinds.values())).most_common(1)[0][0]
        kind = processor() if processor() in kinds.values() else usual
        alike = [node for node in nodes if kinds[node] == kind]
        self._timing_node = max(sorted(alike), key=lambda node: nodes[node].get("CPU", 0))
        return self._timing_node

    # --- messages

    def listen(self) -> tuple[RayWorker, object]:
        """Wait for the next message of any worker (see `parallel.Pool`).

        A worker that has just become ready has the message "". Raises ClusterError if the cluster
        is lost.
        """
        while True:
            signals.check()
            while self._inbox:
                number, message = self._inbox.popleft()
                worker = self._workers.get(number)
                if worker is None:  # it was given up
                    continue
                worker.heard = time.monotonic()
                if message != BEAT:
                    return worker, None if message is None else pickle.loads(message)
            try:
                self._look()
            except (RayError, ConnectionError) as error:
                raise self._lost(one_line(error)) from error

    def _look(self) -> None:
        """Wait a moment for messages, and for workers that become ready or die."""
        calls = {w.busy: w for w in self._workers.values() if w.busy is not None}
        done, _ = ray.wait([self._mail, *calls], num_returns=1, timeout=LOOK_SECONDS)
        for call in done:
            if call == self._mail:
                self._inbox += ray.get(call)
                self._mail = self._mailbox.take.remote()
            else:
                self._ended(calls[call])
        if not done:
            self._check_workers()
        if not self._reached(HEAD_SECONDS):
            raise self._lost("its head does not answer")

    def _ended(self, worker: RayWorker) -> None:
        """A call of a worker has returned, or the worker is dead."""
        call, worker.busy = worker.busy, None
        try:
            answer = ray.get(call)
        except RayError as error:
            self._dead(worker, error)
            return
        if not worker.ready:
            worker.ready, self._failures, self._waiting_since = True, 0, None
            worker.node, worker.pid = answer[0], answer[2]
            log.info("worker %d is ready: process %d, %s", worker.number, worker.pid, answer[1])
            self._idle.append(worker)
            self._inbox.append((worker.number, pickle.dumps("")))

    def _dead(self, worker: RayWorker, error: RayError) -> None:
        worker.end = "it is dead"
        self._mailbox.put.remote(worker.number, [None])  # after all that it has sent
        for other in [w for w in self._idle if w.node == worker.node]:  # their machine may be lost
            self.remove(other)
        if worker.ready:
            return
        told = re.sub(r"\x1b\[\d+m", "", str(error)).strip()  # Ray colours it
        log.error("a worker cannot start\n%s", told)
        self._failures += "creation task" in told  # else its machine was lost
        if self._failures >= STARTS:
            why = told.splitlines()[-1]
            raise ClusterError(
                f"workers cannot start: {why}; study.log has the whole message; fix this, then run"
                " the same command to resume"
            )

    def _check_workers(self) -> None:
        """Give up workers that have been silent for too long; say so if none has a place."""
        now, lease = time.monotonic(), self._options.lease_seconds
        for worker in self._workers.values():
            if worker.ready and worker.busy is not None and now - worker.heard > lease:
                worker.end, worker.busy = f"it was silent for {lease:g} s", None
                self._mailbox.put.remote(worker.number, [None])
        if any(worker.ready for worker in self._workers.values()):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        elif ROOM_SECONDS < now - self._waiting_since < math.inf:
            log.warning("no worker has started yet: the cluster may have no room at the moment")
            self._waiting_since = -math.inf

    # --- the cluster

    def _join(self) -> None:
        if self._joined:
            return
        address = self._options.address
        self._mine = not ray.is_initialized()
        if self._mine:
            local = {"include_dashboard": False} if address is None else {}
            env = {} if address is None else {"working_dir": os.getcwd(), "excludes": [*SENT]}
            try:
                with signals.kept():
                    ray.init(
                        address=address or "local",
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        runtime_env=env,
                        **local,
                    )
            except (ConnectionError, RayError, ValueError, OSError) as error:
                raise ConfigError(
                    f"executor.address: {address} is not there ({one_line(error)}): start a cluster"
                    " with `ray start --head`, or leave it null for one on this machine"
                ) from error
        self._joined = True
        here = ray.get_runtime_context()
        near = NodeAffinitySchedulingStrategy(here.get_node_id(), soft=False)
        mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=near)
        self._mailbox = mailbox.remote()
        self._mail = self._mailbox.take.remote()
        self._ask()
        self._left = threading.Event()
        threading.Thread(target=self._watch, args=(self._left,), daemon=True).start()
        self._room()

    def _watch(self, left: threading.Event) -> None:
        """Ask the head for the machines of the cluster; in a thread, as this hangs without it."""
        while not left.wait(NODES_SECONDS):
            with contextlib.suppress(Exception):  # told by the time of the last answer
                self._ask()

    def _ask(self) -> None:
        self._nodes = {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}
        self._head_seen = time.monotonic()

    def _reached(self, seconds: float = 3 * NODES_SECONDS) -> bool:
        """Whether the head has answered of late: without it Ray's calls hang."""
        return time.monotonic() - self._head_seen < seconds

    def _lost(self, why: str) -> ClusterError:
        return ClusterError(
            f"the Ray cluster is lost ({why}): start the cluster again, then run the"
            " same command to resume"
        )

    def close(self) -> None:
        """Stop all workers, and leave the cluster if this process has joined it."""
        if not self._joined:
            return
        if self._reached():
            for worker in list(self._workers.values()):
                self.remove(worker)
            with contextlib.suppress(Exception):
                ray.kill(self._mailbox)
        self._workers.clear()
        self._idle.clear()
        self._inbox.clear()
        self._joined = False
        self._left.set()
        if self._mine:  # in a thread, as this may hang without a head
            leaving = threading.Thread(target=ray.shutdown, daemon=True)
            leaving.start()
            leaving.join(LEAVE_SECONDS)
