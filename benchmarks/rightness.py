"""How often the answers are right: measured against ground truth.

    python benchmarks/rightness.py --cifar PATH            # everything, about an hour on two cores
    python benchmarks/rightness.py a b --quick             # two parts, small

Parts: a optimum, b A/A, c decisions, d replayed pruning, e regret, f orderings, g order of stages.
Writes results/rightness_<part>.json and puts the tables together in results/rightness.md. What was
trained is kept in .cache/, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import workloads

PARTS = {
    "a": ("optimum", "Against the optimum of random quadratic problems"),
    "b": ("aa", "A/A: equal candidates"),
    "c": ("decisions", "Decisions against ten-seed ground truth"),
    "d": ("replay", "Pruning rules replayed on recorded curves"),
    "e": ("regret", "Regret of the staged recipe"),
    "f": ("orderings", "The paper's orderings"),
    "g": ("order", "The order of stages"),
}


def main() -> None:
    """Run the parts named on the command line, all without a name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {' '.join(PARTS)}; none: all")
    parser.add_argument("--cifar", help="folder with CIFAR-10 as Parquet files (else left out)")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--gpu", action="store_true", help="also what needs a GPU (part f)")
    parser.add_argument("--out", type=Path, default=workloads.RESULTS)
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {', '.join(unknown)}: choose of {' '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        module, started = import_module(f"parts.{PARTS[part][0]}"), time.monotonic()
        result = module.run(options)
        kept = {**_about(part, options, time.monotonic() - started), **result}
        file = options.out / f"rightness_{PARTS[part][0]}.json"
        file.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"\n## ({part}) {PARTS[part][1]}\n\n{module.table(result)}\n", flush=True)
    _write_tables(options.out)


def _write_tables(folder: Path) -> None:
    """Put the tables of all parts that have a result into one page."""
    text = ["# Rightness", "", "Made by `python benchmarks/rightness.py`; see its head for how."]
    for part, (name, title) in PARTS.items():
        file = folder / f"rightness_{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        text += [
            "",
            f"## ({part}) {title}",
            "",
            f"`{result['command']}` · {result['machine']} · {result['versions']}",
            "",
            import_module(f"parts.{name}").table(result),
        ]
    (folder / "rightness.md").write_text("\n".join(text) + "\n")


def _about(part: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    command = f"python benchmarks/rightness.py {part}"
    command += " --cifar PATH" if options.cifar else ""
    command += " --quick" if options.quick else ""
    names = ("torch", "numpy", "optuna")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return {
        "command": command,
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, {versions}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
