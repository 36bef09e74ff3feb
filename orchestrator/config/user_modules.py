"""The code behind a callable of the user's: the modules that it imports, named by what they hold.

They are found by reading, without importing anything.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from orchestrator.config.user_code import NOT_THEIRS, resolve

COMPUTED = {"import_module", "__import__"}  # functions that import what a text names
# What a file held when the module in use was first asked for, by file: the import, and the text.
_first: dict[str, tuple[object, str]] = {}


@dataclass(frozen=True)
class Code:
    """Hashes of the code behind a callable.

    `source`: of the module that defines it, of its name where there is no text. `modules`: of each
    other module in the user's folders that it imports, directly or not. `edited`: files that have
    changed since this process first asked for them; the hashes are of the code that it runs.
    """

    source: str
    modules: dict[str, str]
    edited: tuple[str, ...]


def code_of(target: str) -> Code:
    """Return the code behind the callable `target`, as it was when that was first asked."""
    home = inspect.getmodule(inspect.unwrap(resolve(target)))
    written = next((n for n in _above(target.rpartition(".")[0]) if n in sys.modules), "")
    texts = dict(_imported([home.__name__ if home else "", written]))
    files = [getattr(sys.modules.get(name), "__file__", "") for name in texts]
    edited = {Path(f).name for f in files if f in _first and _read(f) != _first[f][1]}
    text = (texts.pop(home.__name__, "") or _text(home)) if home else ""
    return Code(
        _hashed(text or target),
        {name: _hashed(text) for name, text in sorted(texts.items())},
        tuple(sorted(edited)),
    )


def _imported(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield names and texts of the user's modules among `names`, and of all that those import."""
    waiting, known = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in known or (file := _file(name)) is None:
            continue
        known.add(name)
        module = sys.modules.get(name)
        text = _text(module) if module else _read(str(file))
        yield name, text
        waiting += _imports(name, file, text)


def _file(name: str) -> Path | None:
    """Return the source of a module of the user's, None for others and for what is no module."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    places = [Path(p or ".", *name.split(".")) for p in sys.path]
    files = [f for place in places for f in (place / "__init__.py", place.with_suffix(".py"))]
    found = Path(loaded) if loaded else next((f for f in files if name and f.is_file()), None)
    if found is None or any(place in str(found.resolve()) for place in NOT_THEIRS):
        return None
    return found if found.suffix == ".py" and found.is_file() else None


def _imports(name: str, file: Path, text: str) -> Iterator[str]:
    """Yield what may be modules that a module imports, anywhere in its text.

    A module that imports by a computed name may import any that lies beside it.
    """
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # of a file that nothing has imported yet
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _above(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(filter(None, [*(above if node.level else []), node.module]))
            yield from _above(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif COMPUTED & {getattr(node, "attr", ""), getattr(node, "id", "")}:
            beside = [f.stem for f in file.parent.glob("*.py") if f.name != "__init__.py"]
            yield from (f"{package}.{stem}".removeprefix(".") for stem in beside)


def _above(name: str) -> Iterator[str]:
    """Yield a module's name and those of the packages around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _text(module: ModuleType) -> str:
    """Return the text of a module as this process imported it, "" without one."""
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
