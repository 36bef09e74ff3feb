"""The command line: parse the arguments, run the study or command, print the result."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from orchestrator import commands
from orchestrator.config.compose import compose, parse, show
from orchestrator.errors import ConfigError, StorageError
from orchestrator.redact import hidden
from orchestrator.system import signals
from orchestrator.system.host import silence

if TYPE_CHECKING:
    from orchestrator.config.schema import Config

EXIT_CODES = {"complete": 0, "undecided": 1, "failed": 1}


def main() -> NoReturn:
    """Run the command line and end this process; within another program call `run`."""
    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but without the 2 s that torch and MLflow take to unload.

    Functions registered with `atexit` run. With a profiler, or other threads still running, the
    process ends the usual way.
    """
    working = [
        t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()
    ]
    if working or sys.gettrace() or sys.getprofile():
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Do what `arguments` ask, return the exit code."""
    _find_users_modules()
    # Before any import of MLflow, also one in the user's own modules; what the user set stays.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        with signals.handled():
            code = _do(arguments)
        sys.stdout.flush()  # here, where a BrokenPipeError is handled
        return code
    except ConfigError as error:
        print(*map(hidden, error.lines), sep="\n", file=sys.stderr)
        return 2
    except StorageError as error:
        print(hidden(str(error)), file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `list | head -1`: the reader has closed the pipe
        silence(sys.stdout)
        return 0
    except KeyboardInterrupt:
        print("interrupted: run the same command to resume", file=sys.stderr)
        return signals.exit_code()


def _find_users_modules() -> None:
    """Put the working folder last on sys.path, so that the user's modules can be imported.

    `python -m` puts it first, where a file types.py or http.py breaks imports of other packages.
    """
    here = os.getcwd()
    sys.path[:] = [*(p for p in sys.path if p not in ("", here)), here]


def _do(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        from orchestrator.commands import help as helptext

        print(helptext.text(), end="")
        return 0
    if command := commands.find(arguments):
        command()
        return 0
    known = parse(arguments)
    if known.shell_completion:
        from orchestrator.commands import completion

        completion.answer(known.overrides)
    elif known.cfg:
        show(known)
    elif known.multirun:
        from orchestrator.commands import multirun

        return multirun.run(multirun.jobs(known, arguments), _study)
    else:
        from orchestrator.config.schema import Config

        return _study(Config.from_mapping(compose(known)), arguments)
    return 0


def _study(config: Config, arguments: Sequence[str]) -> int:
    """Run the study, or plan it; `arguments` are stored with it."""
    from orchestrator.report.terminal import Terminal  # the config first: this takes seconds

    terminal = Terminal(quiet=config.quiet)
    if config.dry_run:
        from orchestrator.plan import plan_study

        terminal.planned(plan_study(config))
        return 0
    from orchestrator.study.walk import run_study

    status = run_study(config, terminal, arguments).status
    return EXIT_CODES[status] if status in EXIT_CODES else signals.exit_code()


if __name__ == "__main__":
    main()
