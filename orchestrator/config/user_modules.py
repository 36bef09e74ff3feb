"""Hashes of the user's code: of a callable's module and of the modules that it imports.

They are found by parsing, without importing anything.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType

from orchestrator.config.captured import captured
from orchestrator.config.user_code import NOT_THEIRS, is_given, resolve

COMPUTED = {"import_module", "__import__"}  # functions that import a module by a computed name
# The text of each file when its module was first looked up, by file: the import, and the text.
_first: dict[str, tuple[object, str]] = {}


@dataclass(frozen=True)
class Code:
    """Hashes of the code behind a callable.

    Attributes:
        source: Hash of the module that defines it, or of its name without a source file.
        modules: Hashes of the other modules in the user's folders that it imports, also indirectly.
        edited: Files that changed after this process imported them; the hashes are of the imported
            code.
    """

    source: str
    modules: dict[str, str]
    edited: tuple[str, ...]


def code_of(target: str) -> Code:
    """Return the code behind the callable `target`, as it was at the first call."""
    home = inspect.getmodule(inspect.unwrap(resolve(target)))
    written = next((n for n in _above(target.rpartition(".")[0]) if n in sys.modules), "")
    texts = dict(_imported([home.__name__ if home else "", written]))
    files = [getattr(sys.modules.get(name), "__file__", "") for name in texts]
    edited = {Path(f).name for f in files if f in _first and _read(f) != _first[f][1]}
    text = (texts.pop(home.__name__, "") or _text(home)) if home else ""
    if is_given(target):
        text += captured(resolve(target))
    return Code(
        _hashed(text or target),
        {name: _hashed(text) for name, text in sorted(texts.items())},
        tuple(sorted(edited)),
    )


def _imported(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield names and texts of the user's modules among `names`, and of all that they import."""
    roots = [root for root in dict.fromkeys(map(os.path.abspath, sys.path)) if _is_theirs(root)]
    waiting, known = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        if name and (file := _file(name, roots)):
            module = sys.modules.get(name)
            text = _text(module) if module else _read(file)
            yield name, text
            waiting += _imports(name, file, text)


def _file(name: str, roots: list[str]) -> str | None:
    """Return the source of one of the user's modules, None for other modules and names."""
    if loaded := getattr(sys.modules.get(name), "__file__", None):
        return loaded if loaded.endswith(".py") and _is_theirs(loaded) else None
    package = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
    if package and not _is_theirs(package):
        return None
    places = [os.path.join(root, *name.split(".")) for root in roots]
    files = (f for place in places for f in (os.path.join(place, "__init__.py"), f"{place}.py"))
    return next((f for f in files if os.path.isfile(f) and _is_theirs(f)), None)


def _is_theirs(path: str) -> bool:
    return not any(place in f"{path}{os.sep}" for place in NOT_THEIRS)


@lru_cache(maxsize=4096)
def _imports(name: str, file: str, text: str) -> tuple[str, ...]:
    """Return the names that a module imports, anywhere in its text.

    A module that imports by a computed name may import any module in its folder.
    """
    folder, base = os.path.split(file)
    package = name if base == "__init__.py" else name.rpartition(".")[0]
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # in a file that was not imported yet
        return ()
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += chain.from_iterable(_above(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            whole = ".".join(filter(None, [*(above if node.level else []), node.module]))
            found += [*_above(whole), *(f"{whole}.{alias.name}" for alias in node.names)]
        elif COMPUTED & {getattr(node, "attr", ""), getattr(node, "id", "")}:
            beside = [f.stem for f in Path(folder).glob("*.py") if f.name != "__init__.py"]
            found += [f"{package}.{stem}".removeprefix(".") for stem in beside]
    return tuple(dict.fromkeys(found))


def _above(name: str) -> Iterator[str]:
    """Yield a module's name and those of the packages around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _text(module: ModuleType) -> str:
    """Return the text of a module as this process imported it, "" without a source file."""
    file = getattr(module, "__file__", None)
    if file is None:
        return ""
    if file not in _first or _first[file][0] is not module.__spec__:
        _first[file] = module.__spec__, _read(file)
    return _first[file][1]


def _read(file: str) -> str:
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
