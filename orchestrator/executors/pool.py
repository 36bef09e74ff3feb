"""The pool of worker processes: starting them, sending jobs, receiving messages, stopping them."""

from __future__ import annotations

import contextlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from orchestrator.executors.worker import receive, send
from orchestrator.system import signals

STOP_SECONDS = 3.0  # for a worker to exit by itself
LOOK_SECONDS = 0.2  # the longest time until a signal is noticed
START = "import sys; sys.path[:] = {path!r}; from orchestrator import build; build.work()"


class Worker:
    """A worker process. Its messages arrive in `inbox` as (worker, pickle); None: it has ended."""

    def __init__(self, start: object, inbox: SimpleQueue[tuple[Worker, bytes | None]]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the parent, which keeps the checkpoints
        )
        self._end = 0.0
        self.send(start)
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send it a message."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: None will be in the inbox
            send(self._process.stdin, message)

    def interrupt(self) -> None:
        """Make it write a checkpoint of its run, then exit."""
        self._process.terminate()
        self._end = time.monotonic() + STOP_SECONDS

    def stop(self) -> str:
        """End the process, with some seconds to exit by itself; return how it ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._end - time.monotonic()))
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _listen(self, inbox: SimpleQueue[tuple[Worker, bytes | None]]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            while True:
                try:
                    inbox.put((self, receive(answers)))
                except EOFError:
                    inbox.put((self, None))
                    return


class WorkerPool:
    """Up to `size` workers, each of which builds the objective from `config`.

    They start when there is a job for them, and run until `close`.
    """

    shares_disk, trains_alone = True, False

    def __init__(self, config: dict[str, Any], size: int) -> None:
        self._config = config
        self._size = size
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._inbox: SimpleQueue[tuple[Worker, bytes | None]] = SimpleQueue()

    def free(self, wanted: int = 1, alone: bool = False) -> Worker | None:
        """Return an idle worker, or a new one while there are fewer than `size`, else None."""
        if self._idle:
            return self._idle.pop()
        if len(self._workers) >= self._size:
            return None
        worker = Worker(self._config, self._inbox)
        self._workers.add(worker)
        return worker

    def done(self, worker: Worker) -> None:
        """Mark a worker as idle."""
        self._idle.append(worker)

    def listen(self) -> tuple[Worker, object]:
        """Wait for the next message of any worker; None: it has died (see `remove`).

        Raises Interrupted after a signal.
        """
        while True:
            signals.check()
            with contextlib.suppress(Empty):
                worker, message = self._inbox.get(timeout=LOOK_SECONDS)
                return worker, None if message is None else pickle.loads(message)

    def remove(self, worker: Worker) -> tuple[str, bool]:
        """Remove a worker, which is stopped; return how it ended, and that its machine is there."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        else:
            worker.interrupt()
        return worker.stop(), False

    def rest(self) -> None:
        """Do nothing: no worker has a device to itself."""

    def close(self) -> None:
        """Stop all workers; those that train have some seconds to write a checkpoint."""
        for worker in self._workers.difference(self._idle):
            worker.interrupt()
        while self._workers:
            self._workers.pop().stop()
        self._idle.clear()
        self._inbox = SimpleQueue()  # drop their last messages
