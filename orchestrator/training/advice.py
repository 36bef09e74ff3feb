"""Advice on speed, from a few measured steps: hours on a CPU, and whether one thread is faster."""

from __future__ import annotations

from orchestrator.training.calibration import gain_of_one_thread, seconds_per_example
from orchestrator.training.trainer import Setup

LONG_SECONDS = 600  # of one final run
WORTH_SAYING = 1.2  # x as fast
RUNS_PER_STUDY = 30  # rough cost of a study with all stages, in final runs


def on_hours(setup: Setup, final_examples: float, device: str) -> list[str]:
    """Return a sentence if a final run takes more than `LONG_SECONDS` on this device."""
    if setup.device.type != "cpu":
        return []
    size = min(16, len(setup.data.train))
    seconds = seconds_per_example(setup, size) * final_examples
    if seconds < LONG_SECONDS:
        return []
    return [
        f"One final run takes about {seconds / 3600:.2g} hours on {device}, a whole study"
        f" some {RUNS_PER_STUDY} times that: reduce the network, image_size, train_examples or"
        " stages.final.epochs (as in +study=cifar_laptop), or use a GPU."
    ]


def on_threads(setup: Setup, batch_size: int, threads: int) -> list[str]:
    """Return a sentence if one thread is faster than `threads`."""
    if setup.device.type != "cpu":
        return []
    size = min(batch_size, len(setup.data.train))
    gain = gain_of_one_thread(setup, size)
    if gain < WORTH_SAYING:
        return []
    times = f"{gain:.1f}" if gain < 10 else "more than 10"
    return [
        f"With threads=1 a step of batch size {size} is {times} times as fast here as with"
        f" {threads} threads, which wait for each other."
    ]
