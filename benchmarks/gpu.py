"""Everything that needs a GPU, in one command of under eight minutes.

    python benchmarks/gpu.py --cifar PATH
    python benchmarks/gpu.py --cpu-check      # the same code on a CPU with tiny sizes: does it run?

Parts: marks (the test suite's GPU tests), loop (our loop beside one written by hand, Lightning and
fastai), against_airbench (airbench94's network by our loop beside its own), memory (the probe, with
a real out-of-memory), precision (do clues change in bfloat16?), study (+study=cifar on the whole
data, end to end), super_convergence (ResNet-56, 1cycle to lr 3 against a step schedule). Writes
results/gpu_<part>.json after each part and puts the tables together in results/gpu.md. A part that
would not fit into `--seconds` any more does less, or is left out and said to be.
"""

from __future__ import annotations

import sys
import time

import bench

PARTS = {
    "marks": "The test suite's GPU tests",
    "loop": "The training loop beside others",
    "against_airbench": "airbench94 by our loop and by its own",
    "memory": "The memory probe, with a real out-of-memory",
    "precision": "Clues in bfloat16",
    "study": "+study=cifar from the command to the sealed result",
    "super_convergence": "ResNet-56: 1cycle to lr 3 against steps",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--cpu-check", action="store_true", help="tiny, on the CPU: does it run?")
    parser.add_argument("--seconds", type=float, default=460, help="for all parts together (460)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side of airbench (5)")
    options = parser.parse_args()
    options.deadline = time.monotonic() + options.seconds
    if not options.cpu_check:
        import torch

        if not torch.cuda.is_available():
            parser.error("no CUDA device here: --cpu-check shows that the script runs")
        if not options.cifar:
            parser.error("--cifar is needed: the folder with CIFAR-10 as Parquet files")
    return bench.run("gpu", "gpu_parts", PARTS, options)


if __name__ == "__main__":
    sys.exit(main())
