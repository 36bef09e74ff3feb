"""A worker process: trains the jobs that come in on standard input, answers on standard output.

It is a Python of its own (nothing is forked: torch's threads would not survive that, and nothing of
the user's script is run again), makes the objective once from the config and stays for all rounds.
When its input ends it exits at once, whatever it is doing: no worker outlives the process that
started it, however that one ended.
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
    """Write one message. Raises OSError if nobody reads any more."""
    # Bytes within: who waits for messages need not import what is in them.
    pickle.dump(pickle.dumps(message), stream)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Wait for one message, return it pickled. Raises EOFError where the other side is gone."""
    try:
        message: bytes = pickle.load(stream)
    except (OSError, ValueError, pickle.UnpicklingError) as error:  # killed in the middle of one
        raise EOFError from error
    return message


def main(make_objective: MakeObjective) -> NoReturn:
    """Work until the input ends; `make_objective` makes the objective of a config's values."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints does not belong among the answers
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    one_at_a_time = threading.Lock()  # the user's code may log from other threads

    def answer(message: object) -> None:
        with one_at_a_time:
            send(answers, message)

    try:
        with signals.handled():
            _work(make_objective, tasks, answer)
    except KeyboardInterrupt:  # asked to end, and the checkpoint is kept
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
    logger.setLevel(logging.ERROR)  # the rest has been said where the objective was first built
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
        if job.run.key(context) != job.run_key:  # its result would go by the name of another
            answer(Differs(context))
            continue
        # A study of this one trial: all that a pruner compares it with comes with the pruner.
        study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
        try:
            with signals.patiently():
                ended = train(job, objective, study.ask(), pruner, paths, answer)
            answer(ended)
        except StorageError as error:  # not the run's fault: the study ends
            answer(error)


class _Forward(QueueHandler):
    """Hands log records to the process that writes the log."""

    def __init__(self, answer: Callable[[object], None]) -> None:
        unused: Any = None
        super().__init__(unused)
        self._answer = answer

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand one over."""
        self._answer(record)
