"""The memory probe on a GPU: sizes that fit, sizes that do not, and a device that is clean after.

With --cpu-check the estimate of the CPU is probed, with so little memory that not all sizes fit.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import bench
import torch

from gpu_parts.place import objective
from orchestrator.errors import out_of_memory
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import FakeSession
from orchestrator.training import memory

# ResNet-56 x 2 keeps some 8.5 MB of activations for an image in float32: 400 GB of the largest
# batch, more than any GPU has. Yet none of its tensors has 2^31 elements: not all kernels can.
SIZES = (256, 1024, 4096, 8192, 16384, 48_000)
WIDE = {"name": "resnet56", "width": 2.0}
TINY = (4, 16, 64)
ROOM = 30 * 2**20  # bytes, with --cpu-check


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Probe, then train with the largest size that fits."""
    model = {"name": "resnet9", "width": 0.0625} if options.cpu_check else WIDE
    made = objective(options, model, precision="float32", held_out_examples=1000)
    device, sizes = made._setup.device, TINY if options.cpu_check else SIZES
    schedule = Schedule("constant", 1e-3, 1e-3, 0.9, 0.9)
    probe = Run("probe", schedule, 5e-4, sizes[-1], 1, 0, batch_sizes=sizes)
    # What stays for good with the first steps, cuBLAS's workspace of some 32 MiB for one, is not
    # left behind by the probe.
    _trains(made, replace(probe, kind="train", points=1), sizes[0])
    gc.collect()
    before = _used(device)
    with _little_room() if options.cpu_check else _counted() as failures:
        started = made._setup.now()
        measured = made(probe, FakeSession(probe)).measured
        seconds = made._setup.now() - started
    after = _used(device)
    fits = {int(size): fit for size, fit in measured["fits"].items()}
    largest = max((size for size, fit in fits.items() if fit), default=None)
    trained = largest is not None and _trains(made, replace(probe, kind="train", points=1), largest)
    return {
        "rows": [
            {"batch_size": size, "fits": fit, "bytes": measured["bytes"][str(size)]}
            for size, fit in fits.items()
        ],
        "out_of_memory": len(failures),
        "seconds_of_the_probe": seconds,
        "bytes_left_behind": after - before,
        "largest": largest,
        "largest_trains": trained,
        "ok": {
            "some fit": any(fits.values()),
            "some do not": not all(fits.values()),
            "out of memory happened": bool(failures) or options.cpu_check,
            "nothing is left behind": after - before < 2**20,
            "the largest that fits trains": trained,
        },
    }


def _trains(made: Any, run: Run, size: int) -> bool:
    try:
        made(replace(run, batch_size=size, batch_sizes=(), steps=3), FakeSession(run))
    except Exception as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _used(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


@contextmanager
def _counted() -> Iterator[list[str]]:
    """Yield the out-of-memory errors that the allocator raises meanwhile."""
    failures: list[str] = []
    advance = memory.Trainer.advance

    def counting(*args: Any) -> Any:
        try:
            return advance(*args)
        except Exception as error:
            if out_of_memory(error):
                failures.append(str(error).split(".")[0])
            raise

    memory.Trainer.advance = counting  # type: ignore[method-assign]
    try:
        yield failures
    finally:
        memory.Trainer.advance = advance  # type: ignore[method-assign]


@contextmanager
def _little_room() -> Iterator[list[str]]:
    available = memory._available
    memory._available = lambda device: ROOM  # type: ignore[assignment]
    try:
        yield []
    finally:
        memory._available = available


def table(result: dict[str, Any]) -> str:
    """Return what fits, and what is checked."""
    rows = [
        (f"{row['batch_size']:,}", "yes" if row["fits"] else "no", row["bytes"] / 2**30)
        for row in result["rows"]
    ]
    checks = [(what, "yes" if held else "NO") for what, held in result["ok"].items()]
    return "\n\n".join(
        (
            bench.markdown(("batch size", "fits", "GiB (above what there is: does not fit)"), rows),
            f"{result['out_of_memory']} times out of memory,"
            f" {result['seconds_of_the_probe']:.1f} s in all.",
            bench.markdown(("check", "held"), checks),
        )
    )
