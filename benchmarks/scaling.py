"""What workers gain and cost: processes and Ray, a database, many workers.

    python benchmarks/scaling.py                        # all parts, some five minutes on two cores
    python benchmarks/scaling.py --parts trials ledger  # some of them; the page keeps the others
    python benchmarks/scaling.py --quick                # small: does it run?

Parts: trials (trials a second of real training and of the quadratic objective, with 1, 2 and 4
workers; their start-up and memory), ledger (what a trial and a report cost with PostgreSQL, and of
which the training waits), simulated (a study's time with 1 to 64 workers, on recorded run times),
bottleneck (an estimate from the other parts: what is the first limit, and what to change then).
Writes results/scaling_<part>.json and puts the tables in results/scaling.md.
"""

from __future__ import annotations

import sys

import bench

PARTS = {
    "trials": "Trials a second",
    "ledger": "What a trial costs with PostgreSQL",
    "simulated": "A study's time with 1 to 64 workers, simulated",
    "bottleneck": "The first bottleneck",
}


def main() -> int:
    """Run the parts named on the command line, all without a name."""
    parser = bench.parser(__doc__ or "", PARTS)
    parser.add_argument(
        "--parts", nargs="*", dest="more", default=[], help="the same, as an option"
    )
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    options = parser.parse_args()
    options.parts = [*options.parts, *options.more]
    return bench.run("scaling", "scaling_parts", PARTS, options)


if __name__ == "__main__":
    sys.exit(main())
