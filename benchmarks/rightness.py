"""How often the answers are right: measured against ground truth.

    python benchmarks/rightness.py --cifar PATH              # everything
    python benchmarks/rightness.py optimum regret --quick    # two parts, small

Writes results/rightness_<part>.json and puts the tables together in results/rightness.md. What was
trained is kept in .cache/, so that a run that was cut off goes on.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "optimum": "Against the optimum of random quadratic problems",
    "decisions": "Decisions against ten-seed ground truth",
    "regret": "Regret of the staged recipe",
    "orderings": "The paper's orderings",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    return bench.run("rightness", "rightness_parts", PARTS, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
