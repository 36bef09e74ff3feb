"""What the benchmark commands share: parts by name, a JSON file each, one page of tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed
VERSIONS = ("torch", "numpy", "optuna", "mlflow", "lightning", "fastai")


def parser(doc: str, parts: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the options that every benchmark command has."""
    made = argparse.ArgumentParser(description=doc.split("\n")[0])
    made.add_argument("parts", nargs="*", help=f"of {' '.join(parts)}; none: all")
    made.add_argument("--cifar", help="folder with CIFAR-10 as Parquet files (else left out)")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return made


def run(
    name: str,
    package: str,
    parts: Mapping[str, str],
    options: argparse.Namespace,
    skip: Callable[[str], str] = lambda part: "",
) -> int:
    """Run the parts asked for; write <name>_<part>.json after each and <name>.md in the end.

    Each part is a module of `package` with `run(options)`, which returns JSON-able values, and
    `table(result)`, which returns Markdown. A part that raises is said and does not stop the
    others: the exit code is then 1. `skip` is asked as a part is to begin, and says why not.
    """
    if unknown := sorted(set(options.parts) - set(parts)):
        print(f"no part {', '.join(unknown)}: choose of {' '.join(parts)}", file=sys.stderr)
        return 2
    if options.cifar:
        options.cifar = str(Path(options.cifar).resolve())  # children work in other folders
    options.out.mkdir(parents=True, exist_ok=True)
    code = 0
    for part in options.parts or parts:
        started = time.monotonic()
        print(f"\n## {parts[part]}\n", flush=True)
        if why := skip(part):
            print(f"{part} is left out: {why}", flush=True)
            continue
        try:
            module = import_module(f"{package}.{part}")
            result = module.run(options)
            table = module.table(result)
        except Exception as error:
            import traceback

            traceback.print_exc()
            print(f"{part}: {type(error).__name__}: {error}", flush=True)
            code = 1
            continue
        kept = {**about(name, part, options, time.monotonic() - started), **result}
        (options.out / f"{name}_{part}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(table, flush=True)
    _write_page(name, package, parts, options.out)
    return code


def _write_page(name: str, package: str, parts: Mapping[str, str], folder: Path) -> None:
    """Put the tables of all parts that have a result into one page."""
    text = [f"# {name}", "", f"Made by `python benchmarks/{name}.py`; see its head for how."]
    for part, title in parts.items():
        file = folder / f"{name}_{part}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        about = f"`{result['command']}` · {result['machine']} · {result['versions']}"
        text += ["", f"## {title}", "", f"{about} · {result['date']}, {result['seconds']:g} s", ""]
        text += [import_module(f"{package}.{part}").table(result)]
    (folder / f"{name}.md").write_text("\n".join(text) + "\n")


def about(name: str, part: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return command, machine, versions and date. Folders are not named."""
    command = f"python benchmarks/{name}.py {part}"
    command += " --cifar PATH" if options.cifar else ""
    for flag in ("quick", "cpu_check"):
        command += f" --{flag.replace('_', '-')}" if getattr(options, flag, False) else ""
    found = ", ".join(f"{n} {v}" for n in VERSIONS if (v := version(n)))
    return {
        "command": command,
        "machine": machine(),
        "versions": f"Python {platform.python_version()}, {found}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def version(package: str) -> str:
    """Return the version of an installed package, "" without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def machine() -> str:
    """Return processor, cores and GPU as one line."""
    from orchestrator.system.host import processor

    torch: Any = sys.modules.get("torch")  # a part that needs none has not imported it
    gpu = f", {torch.cuda.get_device_name()}" if torch and torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}"


# --- tables


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers are shown to three digits."""
    cells = [[shown(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    """Return a number to three digits, anything else as it is."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Goal(dict[str, Any]):
    """A claim: what, what was measured, and its limit; JSON-able."""

    def __init__(self, what: str, measured: float | None, limit: float, *, least: bool = False):
        held = measured is not None and (measured >= limit if least else measured <= limit)
        super().__init__(what=what, measured=measured, limit=limit, least=least, held=held)


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of goals: those that are missed say by how much."""
    return markdown(
        ("goal", "limit", "measured", "held"),
        [
            (
                g["what"],
                f"{'at least' if g['least'] else 'at most'} {g['limit']:g}",
                "not measured" if g["measured"] is None else g["measured"],
                _verdict(g),
            )
            for g in found
        ],
    )


def _verdict(goal: Mapping[str, Any]) -> str:
    if goal["held"] or goal["measured"] is None:
        return "yes" if goal["held"] else ""
    missed = abs(goal["measured"] - goal["limit"])
    if goal["limit"] == 0:
        return f"no, by {shown(missed)}"
    return f"no, by {100 * missed / abs(goal['limit']):.0f} %"
