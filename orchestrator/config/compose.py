"""Composes the config from command-line arguments and conf folders, with Hydra.

The only file that imports Hydra. `hydra.main` is not used: its launchers, callbacks and loggers
would call any class that a config names, and make folders of their own.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml  # comes with Hydra

from orchestrator.errors import ConfigError
from orchestrator.redact import hidden

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel conf/ lies inside the package, in a checkout beside it.
BUILTIN = next(
    folder
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf")
    if (folder / "orchestrator.yaml").is_file()
)
QUOTE = "quote a value with characters other than letters, digits and -./:_, as 'key=\"a value\"'"
LONGEST = 600  # characters of an error


def conf_folders(config_dir: str | None = None) -> list[Path]:
    """Return the folders with configs; the first wins: --config-dir, then ./conf, then ours."""
    here = Path.cwd() / "conf"
    own = [_folder(config_dir)] if config_dir else []
    own += [here] if here.is_dir() and here.resolve() != BUILTIN else []
    return [*own, BUILTIN]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments as Hydra parses them.

    Raises ConfigError for unknown flags.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.add_argument("--quiet", action="store_true")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")

    parser.error = refuse  # type: ignore[method-assign]  # argparse would print its usage first
    known = parser.parse_args(arguments)
    if known.quiet:
        known.overrides.append("quiet=true")
    for flag in ("info", "hydra_help", "experimental_rerun"):
        if getattr(known, flag):  # the last would unpickle a file
            raise ConfigError(f"--{flag.replace('_', '-')} is not offered (see --help)")
    if not known.cfg and (known.package or known.resolve):
        raise ConfigError("--package and --resolve need --cfg: add --cfg job")
    _refuse_hydras_own(known.overrides)
    return known


def compose(known: argparse.Namespace) -> dict[str, Any]:
    """Return the composed config as plain values. Raises ConfigError, one line."""
    from omegaconf import OmegaConf, open_dict

    with _hydra(known) as (hydra, name, overrides):
        config = _composed(hydra, name, overrides)
        with open_dict(config):
            del config["hydra"]
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]  # its keys are text


def show(known: argparse.Namespace) -> None:
    """Print the composed config, for `--cfg`, `--package` and `--resolve`."""
    from omegaconf import OmegaConf

    with _hydra(known) as (hydra, name, overrides):
        config = _composed(hydra, name, overrides)
        part = known.package
        if part not in (None, "_global_") and OmegaConf.select(config, part) is None:
            raise ConfigError(f"--package {part}: the config has no such part")
        hydra.show_cfg(name, overrides, known.cfg, part, known.resolve)


def _composed(hydra: Hydra, name: str, overrides: list[str]) -> DictConfig:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = hydra.compose_config(name, overrides, RunMode.RUN)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in a config of the user
    return config


@contextmanager
def _hydra(known: argparse.Namespace) -> Iterator[tuple[Hydra, str, list[str]]]:
    """Yield Hydra on our folders, the primary config's name, and the overrides in its syntax."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    folders = conf_folders(known.config_dir)
    groups = {folder.name for conf in folders for folder in conf.iterdir() if folder.is_dir()}
    overrides = [_settable(override, groups) for override in known.overrides]
    version.setbase("1.3")
    path = create_config_search_path(f"file://{Path(known.config_path or BUILTIN).absolute()}")
    for folder in reversed(folders[:-1]):  # the user's win over ours
        path.prepend("local", f"file://{folder}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "provider=")  # a search path that does not exist
            hydra = Hydra.create_main_hydra2("orchestrator", path)
            yield hydra, known.config_name or "orchestrator", overrides
    except (ConfigError, BrokenPipeError):
        raise
    except Exception as error:
        raise ConfigError(_one_line(error, overrides)) from None
    finally:
        GlobalHydra.instance().clear()


def _settable(override: str, groups: set[str]) -> str:
    """Let Hydra set keys that are not in its config: our schema reports unknown ones.

    Choices of a group (data=cifar10) and Hydra's own keys stay as they are.
    """
    key, equals, _ = override.partition("=")
    if not equals or key[:1] in "+~" or key in groups or key.split(".")[0] == "hydra" or "@" in key:
        return override
    return f"++{override}"


def _folder(path: str) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise ConfigError(f"Additional config directory '{folder}' not found")
    return folder


def _refuse_hydras_own(overrides: Sequence[str]) -> None:
    """Raise ConfigError for settings of Hydra itself, which would have no effect."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.replace("/", ".").split(".")[0] == "hydra" and key != "hydra.searchpath":
            raise ConfigError(
                f"{key} is not allowed: of Hydra's own settings only hydra.searchpath can be set;"
                " results go to runs/<study_name>/"
            )


def _one_line(error: BaseException, arguments: Sequence[str]) -> str:
    """Return an error of Hydra or OmegaConf and its causes as one line."""
    if wrong := _yaml_problem(error):
        return _short(hidden(wrong))
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split("Config search path:")[0].split())
        if text.startswith("LexerNoViableAltException: "):
            given = text.split(": ", 1)[1].split(" ^ See")[0]
            from orchestrator.config.sections import NAME_HOLDS  # pydantic: completion does without

            named = given.removeprefix("++").startswith("study_name=")
            text = f"cannot read {given}: {f'must be {NAME_HOLDS}' if named else QUOTE}"
        text = text.replace("'++", "'").replace("cannot read ++", "cannot read ")
        text = text.replace("override ++", "override ")
        if text and text not in " ".join(told):
            told.append(text)
        cause = cause.__cause__
    if type(error).__module__ == "builtins":  # not expected by Hydra: without a place
        told.insert(0, f"cannot compose {' '.join(a.removeprefix('++') for a in arguments)}")
    elif (override := (getattr(error, "override", None) or "").removeprefix("++")) not in told[0]:
        told.insert(0, f"cannot read {override}")
    return _short(hidden(": ".join(told)))


def _short(text: str) -> str:
    """Return `text` as one printable line of at most `LONGEST` characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def completions(line: str) -> list[str]:
    """Return what Hydra offers for the last word of `line`, arguments typed so far."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    with _hydra(parse([])) as (hydra, name, _):
        found: list[str] = BashCompletion(hydra.config_loader)._query(name, line)
    return found


def sweep(
    known: argparse.Namespace, arguments: Sequence[str]
) -> list[tuple[list[str], dict[str, str]]]:
    """Return each job of a `--multirun` as (its arguments, its values of what is swept, by key).

    Hydra's own grammar (a=1,2 a=range(3) a=choice(x,y)) and order: the last key changes fastest.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = {*known.overrides, "--multirun", "-m", "--quiet"}
    flags = [argument for argument in arguments if argument not in typed]
    try:
        parsed = OverridesParser.create().parse_overrides(known.overrides)
        (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except Exception as error:
        raise ConfigError(_one_line(error, known.overrides)) from None
    swept = {o.get_key_element() for o in parsed if o.is_sweep_override()}
    jobs = []
    for overrides in batch:
        values = dict(override.split("=", 1) for override in overrides)
        jobs.append(([*flags, *overrides], {k: v for k, v in values.items() if k in swept}))
    return jobs


def _yaml_problem(error: BaseException | None) -> str:
    """Return the problem in a YAML file that `error` or its cause is about, "" for other errors."""
    while error is not None:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            return f"{_where(error.problem_mark)}: {_said(error)}"
        error = error.__cause__ or error.__context__
    return ""


def _where(mark: yaml.Mark) -> str:
    path = Path(mark.name)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {mark.line + 1}"


def _said(error: yaml.MarkedYAMLError) -> str:
    """Return the parser's message in plain words."""
    context, found = error.context or "", error.problem or "cannot be read"
    if "flow" in context and error.context_mark is not None:
        opened = "[" if "sequence" in context else "{"
        return f"the {opened} of line {error.context_mark.line + 1} is not closed before this"
    if "'\\t'" in found:
        return "a tab: indent with spaces"
    if "cannot start any token" in found:
        return f"{found.split()[2]} cannot begin a value: put the value in quotes"
    if "mapping values" in found:
        return "a KEY: VALUE in a wrong place: check the indentation, quote a value that has a :"
    return f"not YAML ({' '.join(f'{context} {found}'.split())})"
