"""An estimate, from the other parts' numbers, of how many workers one driver and database serve."""

from __future__ import annotations

import argparse
import json
from typing import Any

POINTS = 20  # reports of a run


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Read what `ledger` measured."""
    found = json.loads((options.out / "scaling_ledger.json").read_text())
    trial = found["ask_ms"] + found["tell_ms"] + POINTS * found["report_ms"]
    return {
        "ms_a_trial": round(trial, 1),
        "reports_a_second": round(1000 / found["report_ms"]),
        "trials_a_second": round(1000 / trial, 1),
        "workers": {str(s): round(s * 1000 / trial) for s in (1, 10, 60, 600)},
    }


def table(result: dict[str, Any]) -> str:
    """Return the estimate in words."""
    workers = ", ".join(f"{n} of {s} s" for s, n in result["workers"].items())
    return (
        f"One driver writes {result['reports_a_second']} reports a second, or"
        f" {result['trials_a_second']} whole trials of {POINTS} reports"
        f" ({result['ms_a_trial']} ms each). So it keeps this many workers busy, by the length of"
        f" a run: {workers}. The first limit is the driver, one thread that writes through"
        " Optuna's ORM; PostgreSQL serves several such drivers, one a study. Then: fewer points"
        " a run, or reports written in batches by a thread of their own, as only a dashboard"
        " reads them before the run ends; after that the mailbox, which takes some thousand"
        " messages a second."
    )
