"""The whole frontier in one command: our studies, the rivals beside them, and the page.

    python benchmarks/frontier/run.py --to FOLDER --cifar PATH
    python benchmarks/frontier/run.py --to FOLDER --short

Two processes with one thread each. A command that is cut off goes on where it was; lines of another
version of the method have to be deleted by hand. `--short`: four workloads without CIFAR-10, two
seeds, and the cheaper rivals; 5.0 minutes on two cores (AMD EPYC, nothing beside it). A whole
seed: about 45 minutes of processor time. What the rivals need is in the head of rivals.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).resolve().parent
SHORT = {
    "--workloads": "few_wide,signals_x3,diabetes,noisy_labels",
    "--seeds": "2",
}
SHORT_RIVALS = "untuned,valley,steepest,prodigy,schedule_free,cycles_tpe,asha"


def main() -> int:
    """Run both scripts at once, then write frontier.md, frontier.json and frontier.png."""
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--to", type=Path, required=True, help="folder of lines, page and figure")
    parse.add_argument("--short", action="store_true", help="under ten minutes on two cores")
    parse.add_argument("--seeds", type=int, default=8)
    parse.add_argument("--cifar", help="where CIFAR-10 lies; without it its workload is left out")
    args = parse.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    files = {name: args.to / f"{name}.jsonl" for name in ("studies", "rivals")}
    given = {"--workloads": "judging", "--seeds": str(args.seeds)}
    given |= {"--cifar": args.cifar} if args.cifar else {}
    given |= SHORT if args.short else {}
    rivals = {"--rivals": SHORT_RIVALS} if args.short else {}
    started = time.monotonic()
    running = [
        _python("studies.py", given | {"--out": str(files["studies"])}),
        _python("rivals.py", given | rivals | {"--out": str(files["rivals"])}),
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        return 1
    page = {f"--{name}": str(file) for name, file in files.items()}
    page |= {"--to": str(args.to), "--figure": str(args.to / "frontier.png"), "--where": _where()}
    code = _python("page.py", page).wait()
    print(f"{args.to / 'frontier.md'}, after {(time.monotonic() - started) / 60:.1f} minutes")
    return code


def _python(script: str, options: dict[str, str]) -> subprocess.Popen[bytes]:
    words = [word for option in options.items() for word in option]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(HOME / script), *words], env=environment)


def _where() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "optuna"))
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, one thread per run, {python}, {packages}, {date.today()}."


if __name__ == "__main__":
    raise SystemExit(main())
