"""What a study survives: killed at random moments, disturbed in many ways, very long.

    python benchmarks/reliability.py --cifar PATH       # everything, some two hours on two cores
    python benchmarks/reliability.py kills --quick      # one part, small: does it run?

Parts: kills (`kill -9` at 50 random moments of digits studies, 5 of a CIFAR-10 study: the same
decisions, the same bytes of model.pt? what does a kill cost?), faults (the tests that cause each
fault for real, and their outcome), soak (2,000 trials in one study: do memory and time per trial
stay flat?). Writes results/reliability_<part>.json and puts the tables in results/reliability.md.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "kills": "Killed at random moments",
    "faults": "Faults, each caused for real",
    "soak": "2,000 trials in one study",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    return bench.run("reliability", "reliability_parts", PARTS, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
