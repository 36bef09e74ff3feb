"""Seconds from the command to the first training step, beside a bare script's."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import bench

from speed_parts.contest import spread
from speed_parts.measured import measure

# What a study of the digits needs: torch, the data, a small network, one step.
BARE = """\
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
x = torch.from_numpy(digits.images).float().unsqueeze(1)
y = torch.from_numpy(digits.target)
torch.set_num_threads(1)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10),
)
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, fused=True)
import time
print(time.time(), flush=True)
nn.functional.cross_entropy(net(x[:32]), y[:32]).backward()
optimizer.step()
"""
MARKS = {  # moments in the order in which they come
    "python": "Python runs",
    "compose": "Hydra composes",
    "_study": "the config is composed",
    "run_study": "the study is imported; torch is next",
    "Ledger.__init__": "data and network are ready",
    "Budget.walk": "the first stage starts",
    "step": "the first training step",
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start both, in turn; the first start of each only warms the disk's cache."""
    repeats = 1 if options.quick else 7
    bare, ours, untracked = [], [], []
    marks: dict[str, list[float]] = {name: [] for name in MARKS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats + 1):
            timed = [_bare(Path(folder))]
            for tracking in ("mlflow", "none"):
                found = measure(
                    Path(folder, f"{tracking}{number}"),
                    ["+study=digits", f"tracking={tracking}"],
                    first_step=True,
                )["since_start"]
                timed.append(found["step"])
                if number and tracking == "mlflow":
                    for name, at in marks.items():
                        at.append(found.get(name, float("nan")))
            if number:
                for kept, seconds in zip((bare, ours, untracked), timed, strict=True):
                    kept.append(seconds)
    more = median(o - b for o, b in zip(ours, bare, strict=True))
    return {
        "bare": spread(bare),
        "ours": spread(ours),
        "untracked": spread(untracked),
        "marks": {name: median(at) for name, at in marks.items()},
        "repeats": repeats,
        "goals": [bench.Goal("seconds more than a bare script to the first step", more, 2.0)],
    }


def _bare(folder: Path) -> float:
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(done.stdout) - started


def table(result: dict[str, Any]) -> str:
    """Return the table and the moments of our own start."""
    names = {
        "bare": "a bare script",
        "ours": "orchestrator",
        "untracked": "the same, tracking=none",
    }
    rows = [(name, *result[key], result["repeats"]) for key, name in names.items()]
    marks = [(what, result["marks"][name]) for name, what in MARKS.items()]
    head = ("+study=digits to its first step, s", "lower quartile", "median", "upper quartile", "n")
    return "\n\n".join(
        (
            bench.markdown(head, rows),
            bench.markdown(("on the way (with MLflow)", "seconds since the start"), marks),
            bench.goals(result["goals"]),
        )
    )
