"""Our training loop beside others that train the same: networks, data, reports, evaluations."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import bench

from speed_parts import by_hand, frameworks
from speed_parts.contest import Case, Contender, Task, Timing, alternate, compare, free, ours

HAND, OURS = "by hand (the floor)", "orchestrator"
FREE = "orchestrator, deterministic=false"  # of cuDNN what all rivals have
DIGITS = {"name": "digits"}
CIFAR = {
    "name": "cifar10",
    "train_examples": 4000,
    "held_out_examples": 1000,
    "test_examples": 100,
    "augment": True,
}
SMALL = {**CIFAR, "image_size": 16}
CPU = (
    Case("mlp, digits, batch 32", DIGITS, {"name": "mlp"}, 32, 2000),
    Case("resnet9 x 1/8, digits, batch 32", DIGITS, {"name": "resnet9", "width": 0.125}, 32, 250),
    Case("conv3, CIFAR-10 at 16x16, batch 32", SMALL, {"name": "conv3"}, 32, 250),
    Case("conv3, CIFAR-10 at 32x32, batch 128", CIFAR, {"name": "conv3"}, 128, 30),
    Case("resnet9 x 1/4, CIFAR-10, batch 128", CIFAR, {"name": "resnet9", "width": 0.25}, 128, 20),
)
FULL = {**CIFAR, "train_examples": 45000, "held_out_examples": 5000}
GPU = (
    Case("conv3, CIFAR-10, batch 128", FULL, {"name": "conv3"}, 128, 300),
    Case("resnet9, CIFAR-10, batch 512, bfloat16", FULL, {"name": "resnet9"}, 512, 100, "bfloat16"),
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time all cases on the CPU."""
    cases = [c for c in CPU if options.cifar or c.data["name"] != "cifar10"]
    if options.quick:
        cases = [replace(c, steps=c.steps // 10) for c in cases]
    result = timed(cases, options, "cpu", options.threads, 2 if options.quick else 7)
    left_out = [c.name for c in CPU if not (options.cifar or c.data["name"] != "cifar10")]
    return {**result, "left_out": [*result["left_out"], *left_out]}


def timed(
    cases: list[Case],
    options: argparse.Namespace,
    device: str,
    threads: int,
    repeats: int,
    more: Mapping[str, Contender] = MappingProxyType({}),
    left: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """Time the cases with all contenders, and those of `more`; `left`: seconds for all of it.

    A rival that fails is left out. The time that is left is shared out equally among the cases
    still to come; once it is over they are left out.
    """
    rivals = {name: free(train) for name, train in frameworks.present().items()}
    left_out = [f"{name} (not installed)" for name in frameworks.missing()]
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        if (mine := left() / (len(cases) - number)) <= 0:
            left_out.append(f"{case.name} (no time)")
            continue
        end = time.monotonic() + mine
        task = Task(case, options.cifar, device=device, threads=threads)
        rivals, failed = _working(task, rivals)
        left_out += failed
        contenders = {HAND: free(by_hand.train), OURS: ours, **more, **rivals}
        timings = alternate(task, contenders, repeats, lambda end=end: end - time.monotonic())
        rows += _compared(task, timings)
        print(f"  {case.name}: done", flush=True)
    return {
        "device": f"{device}, {threads} thread{'s' if threads > 1 else ''}",
        "rows": rows,
        "left_out": left_out,
        "goals": _goals(rows),
    }


def _working(task: Task, rivals: Mapping[str, Contender]) -> tuple[dict[str, Contender], list[str]]:
    """Return the rivals that can train here, and of the others why not."""
    working, failed = {}, []
    for name, train in rivals.items():
        try:
            train(task, task.of(0))
            working[name] = train
        except Exception as error:  # an installation that does not fit this torch, say
            problem = (str(error).splitlines() or [""])[0][:120]
            failed.append(f"{name} ({type(error).__name__}: {problem})")
    return working, failed


def _compared(task: Task, timings: Mapping[str, Sequence[Timing]]) -> list[dict[str, Any]]:
    """Return the rows, those of rivals also beside our loop with all that cuDNN has."""
    rows = compare(task, timings, OURS)
    if FREE in timings:
        for row, beside in zip(rows, compare(task, timings, FREE), strict=True):
            if row["contender"] not in (OURS, FREE):
                row["ratio_free"] = beside["ratio"]
    return rows


def _goals(rows: list[dict[str, Any]]) -> list[bench.Goal]:
    goals = []
    for row in rows:
        if row["contender"] in (OURS, FREE):
            continue
        least = 0.98 if row["contender"] == HAND else 1.0
        for key, how in (("ratio", ""), ("ratio_free", " (deterministic=false)")):
            if key in row:
                what = f"our speed{how} against {row['contender']}: {row['case']}"
                goals.append(bench.Goal(what, row[key][1], least, least=True))
    return goals


def table(result: dict[str, Any]) -> str:
    """Return the tables."""
    free_too = any("ratio_free" in row for row in result["rows"])
    rows = [
        (
            row["case"],
            row["contender"],
            _range(row["examples_per_second"]),
            "" if row["contender"] == OURS else _range(row["ratio"]),
            ""
            if row["contender"] == OURS or not row["ratio_steps"]
            else _range(row["ratio_steps"]),
            *([_range(row["ratio_free"]) if "ratio_free" in row else ""] if free_too else []),
            row["repeats"],
        )
        for row in result["rows"]
    ]
    head = (
        *("case", "loop", "examples/s", "ours is x times as fast", "in its steps alone"),
        *(["with deterministic=false"] if free_too else []),
        "n",
    )
    left_out = result["left_out"]
    return "\n".join(
        [
            f"On {result['device']}. Medians (quartiles). A run counts as a whole: network made,"
            " steps, ten reports with evaluation; ratios are taken within each round.",
            "",
            bench.markdown(head, rows),
            "",
            bench.goals(result["goals"]),
            *([f"\nLeft out: {'; '.join(left_out)}."] if left_out else []),
        ]
    )


def _range(values: list[float]) -> str:
    low, middle, high = (bench.shown(v) for v in values)
    return f"{middle} ({low} to {high})"
