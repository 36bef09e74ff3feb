"""What a function of a notebook, or a local one, is made of beside its module's text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

PLAIN = (int, float, str, bytes, bool, type(None))


def captured(function: Callable[..., Any]) -> str:
    """Return a text that changes with the function's code and with what it uses by name.

    Functions and classes of the same module are followed, and so are variables of enclosing
    functions; of values only plain ones count: numbers, texts, and tuples of them.
    """
    return "\n".join(_parts(function, function.__module__, set()))


def _parts(value: object, module: str, known: set[int]) -> Iterator[str]:
    if id(value) in known:
        return
    if isinstance(value, PLAIN) or (
        isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value)
    ):
        yield repr(value)
        return
    known.add(id(value))
    if getattr(value, "__module__", None) != module:
        return
    if isinstance(value, FunctionType):
        yield from _code(value.__code__)
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        used = {name: cell.cell_contents for name, cell in cells}
        used |= {n: value.__globals__[n] for n in _names(value.__code__) if n in value.__globals__}
        used |= {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
        for name, inner in sorted(used.items()):
            yield name
            yield from _parts(inner, module, known)
    elif isinstance(value, type):
        for name, inner in (*vars(value).items(), *((b.__name__, b) for b in value.__bases__)):
            if not (name.startswith("__") and isinstance(inner, PLAIN)):  # lines, qualified names
                yield name
                yield from _parts(inner, module, known)


def _code(code: CodeType) -> Iterator[str]:
    """Yield what a function does, without where it is written."""
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
