"""The user's own classes and functions, named in the config by `_target_: package.module.name`.

They are imported here and not by Hydra's `instantiate`: only callables are allowed, nothing that
runs commands, evaluates text or unpickles files, and arguments are checked before the call. This
guards against accidents and pasted configs. It is not a sandbox: the user's module may do anything.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from orchestrator.errors import ConfigError, nearest, one_line

if TYPE_CHECKING:
    from orchestrator.config.options import OwnConfig

# The whole standard library is refused (os, subprocess, pickle, builtins...): nothing in it is a
# model, a data set or a stage. Of other packages these are refused, with everything below them.
DENIED = frozenset(
    """
    torch.load torch.hub torch.package torch.serialization torch.jit.load torch.jit._serialization
    torch.utils.cpp_extension torch.utils.model_zoo torch.distributed torch.multiprocessing
    torch.ops torch.classes
    torch.utils.benchmark torch.utils.bottleneck torch.utils.collect_env torch.utils.tensorboard
    torch.jit torch.fx torch.export torch.onnx torch.testing torch._inductor torch._dynamo torch._C
    numpy.load numpy.f2py numpy.ctypeslib numpy.lib numpy.testing numpy.distutils numpy.memmap
    numpy.save numpy.savez numpy.savez_compressed numpy.savetxt numpy.fromfile numpy.genfromtxt
    pandas.read_pickle pandas.eval pandas.io.pickle pandas.core.computation
    sympy.sympify sympy.parsing sympy.core.sympify
    hydra omegaconf yaml joblib cloudpickle dill skops mlflow pip setuptools pkg_resources
    IPython pexpect sh fabric paramiko numexpr docker git invoke plumbum psutil jinja2 mako
    sqlalchemy alembic optuna pytest _pytest ray dask distributed
    """.split()  # noqa: SIM905  # forty lines otherwise
)

# Functions that were handed over in this process, local ones too, by what `named` calls them.
_given: WeakValueDictionary[str, Callable[..., Any]] = WeakValueDictionary()

OURS = f"{Path(__file__).parents[1]}{os.sep}"
NOT_THEIRS = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"), OURS)


def _is_denied(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names or any(
        name == denied or name.startswith(f"{denied}.") for denied in DENIED
    )


def _full_name(found: Any) -> str:
    """Return where `found` is defined: a name can be imported into any module."""
    while isinstance(found, partial):
        found = found.func
    found = getattr(found, "__func__", found)  # of a bound method
    if not hasattr(found, "__qualname__"):  # an instance with __call__
        found = type(found)
    module = getattr(found, "__module__", None) or getattr(found, "__objclass__", type).__module__
    return f"{module}.{found.__qualname__}"


def _import(target: str, parts: list[str]) -> tuple[Any, list[str]]:
    """Import the longest module that `parts` begins with; return it and the parts that remain."""
    for n in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:n])
        try:
            return importlib.import_module(name), parts[n:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"{target}: {name} imports {error.name}, not installed") from None
        except (Exception, SystemExit) as error:  # a script without `if __name__ == ...` exits
            problem = one_line(error, named=True)
            raise ConfigError(f"{target}: importing {name} fails with {problem}") from error
    raise ConfigError(
        f"{target}: there is no module {parts[0]} in the working folder or among the"
        " installed packages"
    )


def named(function: Callable[..., Any]) -> str:
    """Return a name for `resolve`; it holds as long as somebody keeps the function.

    No name is given where the function can be imported by it. Raises ConfigError for what is no
    function with a first argument `trial`.
    """
    parameters = _parameters(function) if inspect.isfunction(function) else None
    if not parameters or next(iter(parameters)) != "trial":
        shown = getattr(function, "__qualname__", type(function).__name__)
        raise ConfigError(f"{shown} must be a function whose first argument is called trial")
    name = f"{function.__module__}.{function.__qualname__}"
    if function.__module__ == "__main__" or "<locals>" in name:
        _given[name] = function
    return name


def is_given(target: str) -> bool:
    """Whether `target` is a name that `named` gave a function."""
    return target in _given


def resolve(target: str) -> Callable[..., Any]:
    """Return the callable that `target` ("package.module.name") names.

    Raises ConfigError, one line, if it cannot be imported, is not callable or is not allowed.
    """
    if (given := _given.get(target)) is not None:
        return given
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{target!r} is not a name: write package.module.name")
    if any(part.startswith("__") for part in parts[1:]):
        raise ConfigError(
            f"{target} is not allowed: it has a name with leading underscores; name a class or"
            " function of your own"
        )
    if _is_denied(target):
        raise ConfigError(
            f"{target} is not allowed: {parts[0]} is part of Python's standard library, or may run"
            " commands or unpickle files; name a class or function of your own"
        )
    found, rest = _import(target, parts)
    for i, part in enumerate(rest):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = ".".join(parts[: len(parts) - len(rest) + i])
            hint = nearest(part, _offered(found), cutoff=0.6)
            problem = f"{target}: {where} has no {part}" + (f", {hint}" if hint else "")
            raise ConfigError(problem) from None
    if not callable(found):
        raise ConfigError(f"{target} is a {type(found).__name__}, not a class or function")
    if _is_denied(real := _full_name(found)):
        raise ConfigError(f"{target} is not allowed: it is {real}")
    return found  # type: ignore[no-any-return]


def _offered(found: Any) -> list[str]:
    """Return the classes and functions that a module or class defines itself."""
    home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", "")
    values = {n: getattr(found, n, None) for n in dir(found) if not n.startswith("_")}
    return [
        name
        for name, value in values.items()
        if callable(value) and f"{getattr(value, '__module__', '')}.".startswith(f"{home}.")
    ]


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters that can be passed by name, None if there is no signature."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return {n: p for n, p in parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}


def _names(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in parameters.items() if p.kind not in variadic]


def takes(target: str) -> list[str]:
    """Return the named arguments of the callable `target`, [] if there is no signature."""
    return _names(_parameters(resolve(target)) or {})


def check(own: OwnConfig, section: str = "") -> Callable[..., Any]:
    """Return the callable that `own` names; ConfigError if it does not take the given arguments.

    `section`: its key in the config, for the advice on how to remove an argument of a study.
    """
    function = resolve(own.target)
    parameters = _parameters(function)
    if parameters is None:
        return function
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return function
    takes = _names(parameters)
    lines = [
        f"{own.target} takes no argument {name}: it takes {', '.join(takes) or 'none'}"
        + (f" (to remove one that a study sets: ~{section}.{name})" if section else "")
        for name in own.arguments
        if name not in takes
    ]
    if lines:
        raise ConfigError(lines)
    return function


def build(own: OwnConfig, **offered: Any) -> Any:
    """Call what `own` names, with its arguments and those of `offered` that are in its signature.

    The config wins over `offered`. `offered` is not passed as **kwargs: a wrapper that passes them
    on (as torchvision's model functions do) would fail. Raises ConfigError for unknown or missing
    arguments, and for any error of the callable.
    """
    function = check(own)
    parameters = _parameters(function)
    if parameters is None:
        return _call(own.target, function, own.arguments)
    takes = _names(parameters)
    arguments = {**{k: v for k, v in offered.items() if k in takes}, **own.arguments}
    missing = [
        name
        for name in takes
        if name not in arguments and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise ConfigError(
            f"{own.target} needs {', '.join(missing)}: add it beside _target_"
            f" (it is offered {', '.join(offered) or 'nothing'})"
        )
    return _call(own.target, function, arguments)


def built(given: Mapping[str, Any], **offered: Any) -> Any:
    """Return what a mapping with `_target_` describes, nested ones too (see `build`)."""
    from orchestrator.config.options import OwnConfig

    inner = {k: _built(v) for k, v in given.items()}
    return build(OwnConfig.model_validate(inner), **offered)


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return built(value)
    return [_built(v) for v in value] if isinstance(value, list) else value


def _call(target: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return function(**arguments)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the user's own mistake: one line with its place
        raise ConfigError(f"{target} raised {raised(error)}") from error


def raised(error: BaseException) -> str:
    """Return one line: the error's type, its message, and the last line of the user's own code.

    No line number if the error was raised without the user's code.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(place in f.filename for place in NOT_THEIRS)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return one_line(error, named=True) + where
