"""Measurements that each settled one decision: archive/README.md says which.

    python benchmarks/archived.py PART --cifar PATH
    python benchmarks/archived.py --quick             # all parts, small: does it run?

Writes results/archived_<part>.json and puts the tables together in results/archived.md.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "aa": "Equal candidates are called a tie",
    "replay": "Pruning rules replayed on recorded curves",
    "order": "The order of stages",
    "super_convergence": "ResNet-56 on CIFAR-10",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    return bench.run("archived", "archive", PARTS, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
