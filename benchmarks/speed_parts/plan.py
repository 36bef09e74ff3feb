"""What a dry run tells of a study's time, beside what the study then takes, over several seeds."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench

from speed_parts import profile
from speed_parts.measured import measure
from speed_parts.told import tell

SEEDS = 10
INSIDE = 0.9  # of the digits studies
RATIO = 1.6  # of a told range


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Plan and run the digits study with each seed, then the CIFAR laptop study."""
    short = profile.SHORT if options.quick else ()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        seeds = range(1, 2 if options.quick else SEEDS + 1)
        rows = [_study(here, "digits", seed, short) for seed in seeds]
        if options.cifar:
            own = [*short, f"data.path={options.cifar}"]
            if options.quick:
                own += ["data.train_examples=2000", "data.held_out_examples=500"]
            before = ["+study=cifar_laptop", "study_name=before", *own]
            measure(here, before, first_step=True)  # the images are decoded once in a user's life
            rows.append(_study(here, "cifar_laptop", 0, own))
    return {"rows": rows, "goals": _goals(rows)}


def _study(folder: Path, study: str, seed: int, more: Sequence[str]) -> dict[str, Any]:
    """Return what the plan of a study told and what it took, all in seconds of the command."""
    overrides = [f"+study={study}", f"seed={seed}", f"study_name={study}{seed}", *more]
    plan = tell(folder, [*overrides, "dry_run=true"])
    done = tell(folder, overrides)
    told = plan["plan"]
    return {
        "study": study,
        "seed": seed,
        **told,
        "took": done["wall"],
        "inside": told["low"] <= done["wall"] <= told["high"],
        "inside_all": told["least"] <= done["wall"] <= told["most"],
        "dry_run": plan["wall"],
        "left": done["left"],
    }


def _goals(rows: Sequence[dict[str, Any]]) -> list[bench.Goal]:
    goals = []
    for study in dict.fromkeys(row["study"] for row in rows):
        own = [row["inside"] for row in rows if row["study"] == study]
        what = f"share of {len(own)} {study} studies inside the told range"
        goals.append(bench.Goal(what, sum(own) / len(own), INSIDE, least=True))
    widest = round(max(row["high"] / row["low"] for row in rows), 3)
    return [*goals, bench.Goal("high / low of the told range", widest, RATIO)]


def table(result: dict[str, Any]) -> str:
    """Return the goals, the studies, and how the time left was told."""
    rows = [
        (
            row["study"],
            row["seed"],
            f"{row['low']:.0f} to {row['high']:.0f}",
            f"{100 * row['likely']:.0f} %",
            f"{row['least']:.0f} to {row['most']:.0f}",
            f"{row['took']:.1f}",
            "yes" if row["inside"] else "no",
            f"{row['dry_run']:.1f}",
        )
        for row in result["rows"]
    ]
    head = (
        "study",
        "seed",
        "told, s",
        "likely",
        "all courses, s",
        "took, s",
        "inside",
        "dry run, s",
    )
    tables = [bench.goals(result["goals"]), bench.markdown(head, rows)]
    left = [
        (
            row["study"],
            row["seed"],
            at["stage"],
            f"{at['low']:.0f} to {at['high']:.0f}",
            f"{at['took']:.0f}",
        )
        for row in result["rows"]
        for at in row["left"]
    ]
    if left:
        head = ("study", "seed", "after", "time left told, s", "and taken, s")
        tables.append(bench.markdown(head, left))
    return "\n\n".join(tables)
