"""The table and the figure of the frontier, from the lines that studies.py and rivals.py wrote."""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BUDGETS = (1, 2, 4, 6, 12, 24)
MOST = 0.8  # of the workloads: a mean over fewer is not drawn
Losses = dict[tuple[str, int], float]  # test loss by workload and seed
NAMES = {
    "untuned": "untuned defaults",
    "valley": "fastai's rule (valley)",
    "steepest": "Lightning's rule (steepest)",
    "cycles_random": "random, H/4 cycles",
    "cycles_tpe": "Optuna TPE, H/4 cycles",
    "cycles_gp": "Optuna GP, H/4 cycles",
    "tpe_median": "Optuna TPE + median pruner",
    "tpe_hyperband": "Optuna TPE + Hyperband",
    "asha": "ASHA",
    "first": "orchestrator, first full run",
    "standard": "orchestrator, standard",
    "thorough": "orchestrator, thorough",
}


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the file's lines, [] without a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ours(studies: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, Losses]]:
    """Return mean cost and test losses of our studies, by effort, and of their first full runs."""
    losses: dict[str, Losses] = defaultdict(dict)
    costs: dict[str, list[float]] = defaultdict(list)
    for line in studies:
        if line.get("test") is None:
            continue
        key, cost = (line["workload"], line["seed"]), line["cost"]
        losses[line["effort"]][key] = line["test"]
        costs[line["effort"]].append(max(cost.values()))
        first = line.get("baselines", {}).get("range_test_only")
        if line["effort"] == "standard" and first is not None:
            losses["first"][key] = first
            costs["first"].append(cost["first_run"])
    return {name: (mean(costs[name]), found) for name, found in losses.items()}


def rivals(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Losses]]:
    """Return test losses of rivals by budget."""
    made: dict[str, dict[int, Losses]] = defaultdict(lambda: defaultdict(dict))
    for line in found:
        for budget, cell in line["at"].items():
            if cell["test"] is not None:
                made[line["rival"]][int(budget)][line["workload"], line["seed"]] = cell["test"]
    return made


def ratio(losses: Losses, base: Losses) -> tuple[float, float, int] | None:
    """Return mean log ratio of test losses over workloads, its standard error, and how many."""
    by_workload: dict[str, list[float]] = defaultdict(list)
    for key in losses.keys() & base.keys():
        by_workload[key[0]].append(math.log(losses[key] / base[key]))
    means = [mean(values) for values in by_workload.values()]
    if not means:
        return None
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return mean(means), error, len(means)


def percent(value: float) -> str:
    """Return a log ratio as a change in per cent."""
    return f"{100 * math.expm1(value):+.0f} %"


def table(mine: Mapping[str, Any], others: Mapping[str, Any], base: Losses) -> str:
    """Return the page's table: test loss against untuned, by final runs spent."""
    rows = [
        "| | " + " | ".join(f"{b} H" for b in BUDGETS) + " |",
        "| --- |" + " --- |" * len(BUDGETS),
    ]
    for name, by_budget in others.items():
        if name == "untuned":
            continue
        cells = [ratio(by_budget.get(b, {}), base) for b in BUDGETS]
        shown = [f"{percent(c[0])} ± {100 * c[1]:.0f}" if c else "" for c in cells]
        rows.append(f"| {NAMES[name]} | " + " | ".join(shown) + " |")
    for name, (cost, losses) in mine.items():
        if found := ratio(losses, base):
            text = f"{percent(found[0])} ± {100 * found[1]:.0f}"
            at = min(BUDGETS, key=lambda b: (b < cost - 0.3, b))
            shown = [f"**{text}** ({cost:.1f} H)" if b == at else "" for b in BUDGETS]
            rows.append(f"| {NAMES[name]} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def by_workload(mine: Mapping[str, Any], others: Mapping[str, Any], base: Losses) -> str:
    """Return a row for each workload: ours and the rivals at 6 and 24 H against untuned."""
    names = [n for n in ("standard", "thorough") if n in mine]
    rival = [n for n in others if n != "untuned"]
    heads = [NAMES[n] for n in names] + [f"{NAMES[n]}, {b} H" for n in rival for b in (6, 24)]
    rows = ["| | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for workload in dict.fromkeys(w for w, _ in base):
        own = {k: v for k, v in base.items() if k[0] == workload}
        cells = [ratio(mine[n][1], own) for n in names]
        cells += [ratio(others[n].get(b, {}), own) for n in rival for b in (6, 24)]
        rows.append(
            f"| {workload} | " + " | ".join(percent(c[0]) if c else "" for c in cells) + " |"
        )
    return "\n".join(rows)


def figure(mine: Mapping[str, Any], others: Mapping[str, Any], base: Losses, file: Path) -> None:
    """Draw test loss against final runs spent."""
    import matplotlib.pyplot as plt

    workloads = len({workload for workload, _ in base})
    plot, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, by_budget in others.items():
        points = [(b, r) for b in BUDGETS if (r := ratio(by_budget.get(b, {}), base))]
        shown = [(b, 100 * math.expm1(r[0])) for b, r in points if r[2] >= MOST * workloads]
        if shown and name != "untuned":
            axes.plot(*zip(*shown, strict=True), "o-", alpha=0.6, lw=1.5, ms=4, label=NAMES[name])
    for name, (cost, losses) in mine.items():
        found = ratio(losses, base)
        if found and found[2] >= MOST * workloads:
            axes.plot(cost, 100 * math.expm1(found[0]), "D", ms=10, label=NAMES[name])
    axes.axhline(0, color="grey", lw=1)
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
    axes.minorticks_off()
    axes.set_xlabel("cost, in final runs")
    axes.set_ylabel("test loss against untuned, %")
    axes.set_ylim(-60, 85)
    axes.legend(fontsize=8, loc="center right")
    plot.savefig(file, dpi=150)


def main() -> None:
    """Write results/frontier.md and docs/images/frontier.png."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--studies", type=Path, nargs="+", required=True)
    parse.add_argument("--rivals", type=Path, required=True)
    parse.add_argument("--to", type=Path, required=True, help="the folder of results")
    parse.add_argument("--figure", type=Path)
    parse.add_argument("--where", default="", help="machine, versions and date, for the page")
    args = parse.parse_args()
    mine = ours(line for file in args.studies for line in lines(file))
    others = rivals(lines(args.rivals))
    base = others["untuned"][1]
    text = (
        "# frontier\n\n"
        "Made by `benchmarks/frontier/` (studies.py, rivals.py, page.py); see their heads for how."
        f" {args.where}\n\n"
        "Test loss against untuned training of the same length, mean over the judging workloads"
        " ± standard error over them; H: the price of one final run. A minus is better.\n\n"
        f"{table(mine, others, base)}\n\n## Workload by workload\n\n"
        f"{by_workload(mine, others, base)}\n"
    )
    (args.to / "frontier.md").write_text(text)
    kept = {
        "studies": [line for file in args.studies for line in lines(file)],
        "rivals": lines(args.rivals),
    }
    (args.to / "frontier.json").write_text(json.dumps(kept, indent=1) + "\n")
    if args.figure:
        figure(mine, others, base, args.figure)


if __name__ == "__main__":
    main()
