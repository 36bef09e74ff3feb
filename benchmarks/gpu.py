"""Everything that needs a GPU, in one command of under eight minutes.

    python benchmarks/gpu.py --cifar PATH
    python benchmarks/gpu.py --cpu-check      # the same code on a CPU with tiny sizes: does it run?

Parts: against_airbench (airbench94's network by our loop beside its own), study (+study=cifar on
the whole data, end to end), marks (the test suite's GPU tests), loop (our loop beside one written
by hand, Lightning and fastai), memory (the probe, with a real out-of-memory), super_convergence
(ResNet-56, 1cycle to lr 3 against a step schedule), precision (do clues change in bfloat16?). What
is promised comes first. Writes results/gpu_<part>.json after each part and puts the tables together
in results/gpu.md. Each part has a share of `--seconds`, and what those before it left over; one
that would not fit does less, or is left out and said to be.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable

import bench

PARTS = {
    "against_airbench": "airbench94 by our loop and by its own",
    "study": "+study=cifar from the command to the sealed result",
    "marks": "The test suite's GPU tests",
    "loop": "The training loop beside others",
    "memory": "The memory probe, with a real out-of-memory",
    "super_convergence": "ResNet-56: 1cycle to lr 3 against steps",
    "precision": "Clues in bfloat16",
}
# Of the time of a command with all parts; of one with some of them, in proportion.
SHARES = {
    "against_airbench": 0.18,
    "study": 0.48,
    "marks": 0.07,
    "loop": 0.11,
    "memory": 0.05,
    "super_convergence": 0.07,
    "precision": 0.04,
}
LEAST = 1 / 3  # of its share: with less left a part does not begin


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--cpu-check", action="store_true", help="tiny, on the CPU: does it run?")
    parser.add_argument("--seconds", type=float, help="for all parts together (460)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side of airbench (5)")
    options = parser.parse_args()
    if not options.cpu_check:
        import torch

        if not torch.cuda.is_available():
            parser.error("no CUDA device here: --cpu-check shows that the script runs")
        if not options.cifar:
            parser.error("--cifar is needed: the folder with CIFAR-10 as Parquet files")
    options.seconds = options.seconds or (36_000.0 if options.cpu_check else 460.0)
    return bench.run("gpu", "gpu_parts", PARTS, options, skip=in_turn(options))


def in_turn(
    options: argparse.Namespace, now: Callable[[], float] = time.monotonic
) -> Callable[[str], str]:
    """Return what gives a part its time, `options.until`, as it begins, or says why it cannot.

    It may use all but the shares of the parts after it.
    """
    parts = [part for part in options.parts or PARTS if part in SHARES]
    scale = options.seconds / sum(map(SHARES.__getitem__, parts or PARTS))
    end = now() + options.seconds

    def begin(part: str) -> str:
        later = parts[parts.index(part) + 1 :]
        options.until = end - scale * sum(map(SHARES.__getitem__, later))
        _clean()
        needs, left = LEAST * scale * SHARES[part], options.until - now()
        return f"{max(0.0, left):.0f} s are left for it, {needs:.0f} needed" if left < needs else ""

    return begin


def _clean() -> None:
    """Give the GPU's memory back: the study and the tests are processes of their own."""
    if torch := sys.modules.get("torch"):
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
