"""`kill -9` at random moments, the same command again, until the study ends by itself.

Equal time must mean equal steps in the undisturbed study and in the killed ones, so the clock is
pinned (`killed.py`): a calibration gives the same seconds per step everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench

KILLED = Path(__file__).with_name("killed.py")
SMALL = [  # a digits study that takes seconds
    "plan=[momentum,final]", "recipe.max_lr=.1", "stages.final.epochs=2",
    "stages.momentum.candidates=[.95]", "data.train_examples=300",
]  # fmt: skip


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Kill digits studies, fifty times in all, and one CIFAR-10 study if there are data."""
    rng = random.Random(0)
    if options.quick:
        return {"studies": [_study("digits", ["+study=digits", *SMALL], 1, 2, rng)]}
    studies = [
        _study("digits", ["+study=digits", "model.dropout=.1", "data.augment=true"], 5, 12, rng)
    ]
    if options.cifar:
        cifar = ["+study=cifar_laptop", f"data.path={options.cifar}", "model.dropout=.1"]
        studies.append(_study("CIFAR-10, laptop", cifar, 1, 5, rng))
    return {"studies": studies}


def table(result: dict[str, Any]) -> str:
    """Return a row for each kind of study."""
    head = (
        "study", "seconds undisturbed", "studies killed", "kills", "same decisions",
        "same model.pt", "seconds lost a kill", "of them starting again",
    )  # fmt: skip
    return bench.markdown(
        head,
        [
            (
                s["name"], s["seconds"], len(s["killed"]), sum(k["kills"] for k in s["killed"]),
                f"{sum(k['decisions'] for k in s['killed'])} of {len(s['killed'])}",
                f"{sum(k['model'] for k in s['killed'])} of {len(s['killed'])}",
                s["lost_per_kill"], s["start"],
            )
            for s in result["studies"]
        ],
    )  # fmt: skip


def _study(
    name: str, arguments: list[str], studies: int, kills: int, rng: random.Random
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        seconds = _until_the_end(whole, arguments, [])["seconds"]
        expected = found(whole)
        start = _until_the_end(whole, arguments, [])["seconds"]  # complete: it only replays
        killed = []
        for number in range(studies):
            place = Path(folder, f"killed{number}")
            moments = [rng.uniform(0, 1.2 * seconds / kills + start) for _ in range(kills)]
            done = _until_the_end(place, arguments, moments)
            ours = found(place)
            killed.append(
                {
                    **done,
                    "decisions": ours["decisions"] == expected["decisions"],
                    "model": ours["model"] == expected["model"],
                }
            )
    lost = sum(k["seconds"] - seconds for k in killed) / max(1, sum(k["kills"] for k in killed))
    return {
        "name": name,
        "seconds": seconds,
        "start": start,
        "killed": killed,
        "lost_per_kill": lost,
    }


def _until_the_end(folder: Path, arguments: list[str], moments: list[float]) -> dict[str, Any]:
    """Give the command again and again; kill it after each of `moments` (seconds), then let it."""
    folder.mkdir(exist_ok=True)
    began, kills = time.monotonic(), 0
    for moment in [*moments, None]:
        command = [sys.executable, str(KILLED), "study_name=s", "tracking=none", *arguments]
        with open(folder / "out.txt", "a") as out:
            child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
            try:
                code = child.wait(moment)
                break
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                kills += 1
    if code != 0:
        raise RuntimeError(f"exit code {code}: {(folder / 'out.txt').read_text()[-2000:]}")
    return {"seconds": time.monotonic() - began, "kills": kills}


def found(folder: Path) -> dict[str, Any]:
    """Return what must be the same: decisions, their reasons, test results, the model's bytes."""
    place = folder / "runs" / "s"
    summary = json.loads((place / "summary.json").read_text())
    kept = ("name", "decision", "reason", "interval", "tied_with", "trials", "clues")
    return {
        "decisions": [
            [{k: stage[k] for k in kept} for stage in summary["stages"]],
            summary["recipe"],
            summary["final"]["test_loss"],
        ],
        "model": hashlib.sha256((place / "model.pt").read_bytes()).hexdigest(),
    }
