"""What is wrong with a YAML file, for whoever wrote it: one line with file and line number."""

from __future__ import annotations

from pathlib import Path

import yaml  # comes with Hydra


def problem(error: BaseException | None) -> str:
    """Return the problem that `error`, or its cause, tells of a YAML file; "" if it is another."""
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
    """Return the parser's finding in the words of whoever writes such files."""
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
