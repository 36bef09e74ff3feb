"""One study of 2,000 quadratic trials: memory and seconds per trial, from the first to the last."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench

# The executor is what a study gives its rounds to; stages would ask for fewer than 2,000 runs.
SOAK = """\
import json, os, sys, time
from pathlib import Path
from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.executors.inline import InlineExecutor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.backend import journal
from orchestrator.storage.states import Folder
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule

class Nobody:
    def run_started(self, stage, run, key): pass
    def point(self, run, key, point): pass
    def run_ended(self, stage, outcome): pass

def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

trials, step = int(sys.argv[1]), int(sys.argv[1]) // 10
config = Config.from_mapping({"objective": {"name": "quadratic"}})
objective = build.objective(config, Path("."))
pruner = build.pruner(config, objective.facts.chance_loss)
def executor():
    ledger = Ledger(journal(Path("optuna.journal")), "s", repr(pruner), context=objective.context)
    return InlineExecutor(ledger, objective, pruner, Folder(Path("checkpoints")), Nobody())
def run(i):
    return Run("train", Schedule("paper", .005, .05, .85, .9), 1e-3, 64, 100, i)
made, marks = executor(), []
for begin in range(0, trials, step):
    start, busy = time.perf_counter(), time.process_time()
    for i in range(begin, begin + step, 4):
        made.run("a", [run(k) for k in range(i, i + 4)])
    marks.append({"trials": begin + step, "ms": 1000 * (time.perf_counter() - start) / step,
                  "busy_ms": 1000 * (time.process_time() - busy) / step, "mib": memory()})
start = time.perf_counter()
again = executor()
reopened = time.perf_counter() - start
start = time.perf_counter()
for i in range(0, trials, 4):
    again.run("a", [run(k) for k in range(i, i + 4)])
print(json.dumps({"marks": marks, "reopen": reopened, "replay": time.perf_counter() - start,
                  "journal_mib": os.path.getsize("optuna.journal") / 2**20}))
"""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train in a process of its own, whose memory is nobody else's."""
    import json

    trials = 80 if options.quick else 2000
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-c", SOAK, str(trials)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    first, last = found["marks"][1], found["marks"][-1]  # the first tenth still imports
    found["goals"] = [
        # Without the waits for the disk, which do not grow and differ by more than this.
        bench.Goal(
            "processor's ms a trial, last tenth over second",
            last["busy_ms"] / first["busy_ms"],
            1.1,
        ),
        bench.Goal("MiB a thousand trials", (last["mib"] - first["mib"]) / trials * 1250, 20),
    ]
    return found


def table(result: dict[str, Any]) -> str:
    """Return time and memory by tenth, then the goals."""
    rows = [(m["trials"], m["ms"], m.get("busy_ms"), m["mib"]) for m in result["marks"]]
    end = (
        f"Opening it again takes {result['reopen']:.2g} s, replaying all {result['replay']:.2g} s;"
        f" the journal has {result['journal_mib']:.2g} MiB."
    )
    columns = ("trials", "ms a trial", "of them of the processor", "MiB of the process")
    head = bench.markdown(columns, rows)
    return f"{head}\n\n{end}\n\n{bench.goals(result['goals'])}"
