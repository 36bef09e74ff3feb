"""A worker process: reads jobs from standard input, trains them, writes results to standard output.

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
from collections.abc import Callable, Mapping
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, NoReturn

from orchestrator.system import signals

if TYPE_CHECKING:
    from orchestrator.objectives import Objective
    from orchestrator.storage.paths import StudyPaths

log = logging.getLogger(__name__)
MakeObjective = Callable[[Mapping[str, Any]], "Objective"]


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

    from orchestrator.errors import StorageError
    from orchestrator.executors.job import Differs, Job, train
    from orchestrator.pruners import CluePruner

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logger = logging.getLogger("orchestrator")
    logger.setLevel(logging.ERROR)  # the parent has logged the rest when it built its objective
    logger.propagate = False
    logger.addHandler(_Forward(answer))
    objective = make_objective(pickle.loads(tasks.get()))
    logger.setLevel(logging.INFO)
    while True:
        job: Job
        pruner: CluePruner | None
        paths: StudyPaths
        job, pruner, paths = pickle.loads(tasks.get())
        context = objective.context(job.run)
        if job.run.key(context) != job.run_key:  # its result would be stored under a wrong key
            answer(Differs(context))
            continue
        # A study of this one trial: the pruner contains all that it compares the trial with.
        study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
        try:
            with signals.patiently():
                ended = train(job, objective, study.ask(), pruner, paths, answer)
            answer(ended)
        except StorageError as error:  # not an error of the run: the study ends
            answer(error)


class _Forward(QueueHandler):
    """Sends log records to the process that writes the log."""

    def __init__(self, answer: Callable[[object], None]) -> None:
        unused: Any = None
        super().__init__(unused)
        self._answer = answer

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._answer(record)
