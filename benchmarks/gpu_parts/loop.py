"""Our training loop on the GPU beside others (see speed_parts.loop)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from speed_parts import loop
from speed_parts.contest import free, ours

from gpu_parts.place import data, device, left

table = loop.table


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time the cases of the GPU."""
    cases = [replace(case, data=data(options, **_sizes(case))) for case in loop.GPU]
    if options.cpu_check:
        cases = [
            replace(
                c,
                steps=20,
                batch_size=16,
                model={**c.model, "width": 0.0625},
                precision="float32",
            )
            for c in cases
        ]
    return loop.timed(
        cases,
        options,
        device(options),
        threads=1,
        repeats=2 if options.cpu_check else 5,
        more={loop.FREE: free(ours)},
        left=lambda: left(options),
    )


def _sizes(case: loop.Case) -> dict[str, Any]:
    return {k: v for k, v in case.data.items() if k.endswith("_examples")}
