"""The command line: compose the config with Hydra, check it, run the study, print the answer."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from orchestrator import signals
from orchestrator.errors import ConfigError, StorageError
from orchestrator.redact import hidden

PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
BUILTIN = next(
    folder
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf")
    if (folder / "orchestrator.yaml").is_file()
)
QUOTE = "put what holds more than letters, digits and -./:_ in quotes, as in 'key=\"a value\"'"
EXIT_CODES = {"complete": 0, "undecided": 1, "failed": 1}

HELP = """\
orchestrator finds learning rate, momentum, weight decay and batch size of a neural network
in a few short runs (L. N. Smith, arXiv 1803.09820), then trains and tests the result.

Usage: python -m orchestrator +study=NAME [KEY=VALUE ...]
{studies}
Main keys, with their defaults (the studies set some of them):
  plan=[lr_range,momentum,weight_decay,batch_size,lr_check,final]   the stages, in this order
  stages.NAME.OPTION=...   such as stages.momentum.candidates=[0.95,0.9] stages.final.epochs=10
  recipe.max_lr=null       starting values: also max_momentum, weight_decay, batch_size
  model=mlp                {models}
  data=digits              {data}; data.path=... where the files are
  schedule=paper           {schedules}
  pruner=clue              stop lost runs; none: let every run end; one of Optuna's beside it:
                           hyperband, median, ...; pruner.audit=0.2: check a fifth of the prunes
  tracking=mlflow          none: no MLflow; tracking.uri=...
  objective=training       quadratic: the fake objective, nothing is trained
  device=auto              cpu, cuda, cuda:0, mps; threads=null, precision=float32
  seed=0                   weights and data order; same seed, same numbers (but for measured times)
  dry_run=false            true: say what would run and how long it takes, and stop
  budget.max_seconds=null  the whole study takes no longer and ends with the best answer so far
  fresh=false              true: start over; else the same command goes on where it ended
  study_name=...           results go to runs/<study_name>/

Examples:
  python -m orchestrator +study=digits
  python -m orchestrator +study=digits 'plan=[lr_range,final]' seed=1
  python -m orchestrator +study=cifar_laptop data.path=/where/cifar/is

`--cfg job` prints the composed config. A ./conf folder of your own adds to ours and wins.
Exit codes: 0 an answer, 1 no answer, 2 wrong request, 130 interrupted, 143 terminated (both: run
again to go on).
"""


def main() -> NoReturn:
    """Run the command line and end this process; within another program call `run`."""
    _leave(run(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but do not take torch and MLflow apart: that takes 2 s.

    What is registered with `atexit` runs. A profiler, or a thread that somebody left running, gets
    the ordinary end.
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
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help(), end="")
        return 0
    try:
        with signals.handled():
            composed = _compose(_understand(arguments))
            return 0 if composed is None else _study(composed)
    except ConfigError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2
    except StorageError as error:
        print(hidden(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return signals.exit_code()


def _find_users_modules() -> None:
    """Put the working folder last on sys.path: found from the console script, shadows nothing.

    `python -m` puts it first, where a stray types.py or http.py breaks other packages' imports.
    """
    here = os.getcwd()
    sys.path[:] = [*(p for p in sys.path if p not in ("", here)), here]


def _study(composed: Mapping[str, Any]) -> int:
    """Check the composed config, then run the study."""
    from orchestrator.config import Config

    config = Config.from_mapping(composed)  # before the imports that take seconds
    from orchestrator.report.terminal import Terminal

    if config.dry_run:
        from orchestrator.plan import plan_study

        Terminal(quiet=config.quiet).planned(plan_study(config))
        return 0
    from orchestrator.study import run_study

    status = run_study(config, Terminal(quiet=config.quiet)).status
    return EXIT_CODES[status] if status in EXIT_CODES else signals.exit_code()


# --- Hydra


def _understand(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra should see them. Raises ConfigError for unknown flags."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")

    parser.error = refuse  # type: ignore[method-assign]  # argparse would print its usage first
    known = parser.parse_args(arguments)
    if known.multirun:
        raise ConfigError("--multirun is not possible yet: run one study a command")
    for flag in ("info", "hydra_help", "shell_completion", "experimental_rerun"):
        if getattr(known, flag):  # the last would unpickle a file
            raise ConfigError(f"--{flag.replace('_', '-')} is not offered (see --help)")
    if not known.cfg and (known.package or known.resolve):
        raise ConfigError("--package and --resolve say what --cfg shows: add --cfg job")
    _refuse_hydras_own(known.overrides)
    groups = {
        folder.name for conf in _conf_folders() for folder in conf.iterdir() if folder.is_dir()
    }
    return [_settable(a, groups) if a in known.overrides else a for a in arguments]


def _settable(override: str, groups: set[str]) -> str:
    """Let Hydra set keys that it has not seen: our schema knows them, and reports all mistakes.

    Choices of a group (data=cifar10) and Hydra's own keys stay as they are.
    """
    key, equals, _ = override.partition("=")
    if not equals or key[:1] in "+~" or key in groups or key.split(".")[0] == "hydra" or "@" in key:
        return override
    return f"++{override}"


def _conf_folders() -> list[Path]:
    """Return the folders with configs, the user's first."""
    here = Path.cwd() / "conf"
    return [here, BUILTIN] if here.is_dir() and here.resolve() != BUILTIN else [BUILTIN]


def _compose(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the composed config as plain values, None if it was only to be shown.

    Hydra composes and does nothing else: its launchers, callbacks and loggers would call whatever
    a config names, and make folders of their own. Raises ConfigError, one line, for all mistakes.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path, get_args_parser
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    known = get_args_parser().parse_args(arguments)
    name, overrides = known.config_name or "orchestrator", known.overrides
    version.setbase("1.3")
    path = create_config_search_path(f"file://{Path(known.config_path or BUILTIN).absolute()}")
    for folder in _conf_folders()[:-1]:  # the user's ./conf wins over ours
        path.prepend("local", f"file://{folder}")
    if known.config_dir:
        path.append("command-line", f"file://{_folder(known.config_dir)}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "provider=")  # a search path that does not exist
            hydra = Hydra.create_main_hydra2("orchestrator", path)
            config = hydra.compose_config(name, overrides, RunMode.RUN)
        HydraConfig.instance().set_config(config)  # for ${hydra:...} in a config of the user
        if known.cfg:
            part = known.package
            if part not in (None, "_global_") and OmegaConf.select(config, part) is None:
                raise ConfigError(f"--package {part}: the config has no such part")
            hydra.show_cfg(name, overrides, known.cfg, known.package, known.resolve)
            return None
        with open_dict(config):
            del config["hydra"]
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]  # its keys are text
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_one_line(error, arguments)) from None
    finally:
        GlobalHydra.instance().clear()


def _folder(path: str) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise ConfigError(f"Additional config directory '{folder}' not found")
    return folder


def _refuse_hydras_own(overrides: Sequence[str]) -> None:
    """Raise ConfigError for settings of Hydra itself: it only composes, they would do nothing."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.replace("/", ".").split(".")[0] == "hydra" and key != "hydra.searchpath":
            raise ConfigError(
                f"{key} is not allowed: of Hydra's own settings only hydra.searchpath can be given;"
                " results go to runs/<study_name>/"
            )


def _one_line(error: BaseException, arguments: Sequence[str]) -> str:
    """Return an error of Hydra or OmegaConf and its causes as one line."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split("Config search path:")[0].split())
        text = text.split(" 3. To sweep over it")[0]  # Hydra's hint at --multirun leads nowhere
        if text.startswith("LexerNoViableAltException: "):
            text = f"cannot read {text.split(': ', 1)[1].split(' ^ See')[0]}: {QUOTE}"
        text = text.replace("'++", "'").replace("cannot read ++", "cannot read ")
        text = text.replace("override ++", "override ")
        if text and text not in " ".join(told):
            told.append(text)
        cause = cause.__cause__
    if type(error).__module__ == "builtins":  # one that Hydra did not expect: says not where
        told.insert(0, f"cannot compose {' '.join(a.removeprefix('++') for a in arguments)}")
    elif (override := getattr(error, "override", None)) and override not in told[0]:
        told.insert(0, f"cannot read {override.removeprefix('++')}")
    return _short(hidden(": ".join(told)))


def _short(text: str, most: int = 600) -> str:
    """Return `text` as one line that can be read: printable, at most `most` characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


# --- help


def _help() -> str:
    """Return the help text; reads the conf folders, imports nothing heavy."""
    return HELP.format(
        studies=_studies(),
        models=", ".join(_names("model")),
        data=", ".join(_names("data")),
        schedules=", ".join(_names("schedule")),
    )


def _names(group: str) -> list[str]:
    files = [file for conf in _conf_folders() for file in sorted((conf / group).glob("*.yaml"))]
    return list(dict.fromkeys(file.stem for file in files))


def _studies() -> str:
    """Return a line for each study: its name and the first comment of its file."""
    lines = []
    for name in _names("study"):
        file = next(f for c in _conf_folders() if (f := c / "study" / f"{name}.yaml").is_file())
        comments = (t for t in file.read_text("utf-8").splitlines() if t.startswith("#"))
        about = next((t for t in comments if "@package" not in t), "#").lstrip("# ")
        lines.append(f"  +study={name:<14} {about}\n")
    return "\nStudies:\n" + "".join(lines)


if __name__ == "__main__":
    main()
