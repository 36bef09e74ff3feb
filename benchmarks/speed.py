"""What speed costs: our training loop beside others, and the orchestrator beside its training.

    python benchmarks/speed.py --cifar PATH                # everything, about 45 minutes
    python benchmarks/speed.py loop startup --quick        # two parts, small: does it run?

Parts: loop (examples per second beside a hand-written PyTorch loop, Lightning and fastai), startup
(from the command to the first training step), overhead (a whole study against its training),
scaling (trials, points per curve, workers), profile (where the seconds of a study go), plan (what
dry runs of ten seeds tell, beside what the studies take; a quarter of an hour). Writes
results/speed_<part>.json and puts the tables together in results/speed.md.

Lightning and fastai are in the extra `bench`; without them their rows are left out. Times hold only
on a machine that does nothing else; everything that is compared runs alternately, so that ratios
are better than the numbers they are made of. Seconds of several repeats are given as medians with
their quartiles.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "loop": "The training loop beside others",
    "startup": "From the command to the first training step",
    "overhead": "A whole study against its training",
    "scaling": "Cost of a trial against their number, points and workers",
    "profile": "Where the seconds of a study go",
    "plan": "What a plan tells against what the study takes",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads in `loop` (1)")
    return bench.run("speed", "speed_parts", PARTS, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
