"""A worker: trains runs. As a process of this machine it reads tasks from standard input.

`do` is what every worker does with a task. A worker process writes its answers to standard output.
It is a new Python process, not a fork: torch's threads do not survive a fork, and the user's script
is not run again. It makes the objective once from the config and serves all rounds. When its input
ends it exits at once, so no worker outlives the process that started it.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, NoReturn

from orchestrator.system import signals

if TYPE_CHECKING:
    from orchestrator.executors.job import Job
    from orchestrator.objectives import Objective
    from orchestrator.pruners import CluePruner
    from orchestrator.storage.states import RunFiles

log = logging.getLogger(__name__)
MakeObjective = Callable[[Mapping[str, Any]], "Objective"]


@dataclass(frozen=True)
class Task:
    """What a worker is sent: a job, and the pruner with all that the run is compared with.

    `files`: where it keeps checkpoints and network. None: it sends them to the process that gave
    the task (`Written`), from which it has `states`, the checkpoints there are, by run key.
    """

    job: Job
    pruner: CluePruner | None
    files: RunFiles | None = None
    states: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A file of a run, from a worker that shares no disk: a checkpoint, or the trained network."""

    key: str
    state: bytes
    model: bool = False


@dataclass(frozen=True)
class Posted:
    """The files of a run whose worker sends them by `answer` (see `storage.states.RunFiles`)."""

    states: Mapping[str, bytes]
    answer: Callable[[object], None]

    def load(self, key: str) -> bytes | None:
        """Return the checkpoint that came with the task."""
        return self.states.get(key)

    def save(self, key: str, state: bytes) -> None:
        """Send a checkpoint."""
        self.answer(Written(key, state))

    def save_model(self, key: str, state: bytes) -> None:
        """Send the trained network."""
        self.answer(Written(key, state, model=True))


def send(stream: IO[bytes], message: object) -> None:
    """Write one message. Raises OSError if the other side has closed the pipe."""
    # A pickle of a pickle: the thread that waits for messages need not import what is in them.
    pickle.dump(pickle.dumps(message), stream)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Wait for one message and return it pickled. Raises EOFError if the other side has ended."""
    try:
        message: bytes = pickle.load(stream)
    except (OSError, ValueError, pickle.UnpicklingError) as error:  # killed while writing
        raise EOFError from error
    return message


def main(make_objective: MakeObjective) -> NoReturn:
    """Work until the input ends; `make_objective` makes the objective of a config's values."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints must not mix with the messages
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    one_at_a_time = threading.Lock()  # the user's code may log from other threads

    def answer(message: object) -> None:
        with one_at_a_time:
            send(answers, message)

    try:
        with signals.handled():
            _work(make_objective, tasks, answer)
    except KeyboardInterrupt:  # told to exit; the checkpoint is written
        os._exit(signals.exit_code())
    except BaseException:
        log.error("a worker process failed\n%s", traceback.format_exc())
        os._exit(1)


def _listen(stream: IO[bytes], tasks: SimpleQueue[bytes]) -> None:
    while True:
        try:
            tasks.put(receive(stream))
        except EOFError:
            os._exit(0)


def _work(
    make_objective: MakeObjective, tasks: SimpleQueue[bytes], answer: Callable[[object], None]
) -> NoReturn:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with quiet():  # the parent has logged the rest when it built its objective
        forward_log(answer)
        objective = make_objective(pickle.loads(tasks.get()))
    while True:
        do(pickle.loads(tasks.get()), objective, answer)


def do(task: Task, objective: Objective, answer: Callable[[object], None]) -> None:
    """Train a run; answer with each of its points, then with its outcome.

    Or with `Differs`, or with a StorageError, which is not an error of the run: the study ends.
    """
    import optuna

    from orchestrator.errors import StorageError
    from orchestrator.executors.job import Differs, train

    job, pruner = task.job, task.pruner
    context = objective.context(job.run)
    if job.run.key(context) != job.run_key:  # its result would be stored under a wrong key
        answer(Differs(context))
        return
    files = task.files or Posted(task.states, answer)
    # A study of this one trial: the pruner contains all that it compares the trial with.
    study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
    try:
        with signals.patiently():
            ended = train(job, objective, study.ask(), pruner, files, answer)
        answer(ended)
    except StorageError as error:
        answer(error)


@contextmanager
def quiet() -> Iterator[None]:
    """Return a context in which only errors are logged."""
    logger = logging.getLogger("orchestrator")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.INFO)


def forward_log(answer: Callable[[object], None]) -> None:
    """Send this process's log records as answers, and nowhere else."""
    logger = logging.getLogger("orchestrator")
    logger.propagate = False
    logger.addHandler(_Forward(answer))


class _Forward(QueueHandler):
    """Sends log records to the process that writes the log."""

    def __init__(self, answer: Callable[[object], None]) -> None:
        unused: Any = None
        super().__init__(unused)
        self._answer = answer

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._answer(record)
