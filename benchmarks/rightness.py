"""How often the answers are right: measured against ground truth.

    python benchmarks/rightness.py --cifar PATH            # everything, about an hour on two cores
    python benchmarks/rightness.py a b --quick             # two parts, small

Parts: a optimum, b A/A, c decisions, d replayed pruning, e regret, f orderings, g order of stages.
Writes results/rightness_<part>.json and puts the tables together in results/rightness.md. What was
trained is kept in .cache/, so that a run that was cut off goes on.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "optimum": "(a) Against the optimum of random quadratic problems",
    "aa": "(b) A/A: equal candidates",
    "decisions": "(c) Decisions against ten-seed ground truth",
    "replay": "(d) Pruning rules replayed on recorded curves",
    "regret": "(e) Regret of the staged recipe",
    "orderings": "(f) The paper's orderings",
    "order": "(g) The order of stages",
}
LETTERS = {title[1]: part for part, title in PARTS.items()}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--gpu", action="store_true", help="also what needs a GPU (part f)")
    options = parser.parse_args()
    options.parts = [LETTERS.get(part, part) for part in options.parts]
    return bench.run("rightness", "parts", PARTS, options)


if __name__ == "__main__":
    sys.exit(main())
