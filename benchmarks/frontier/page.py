"""The table and the figure of the frontier, from the lines that studies.py and rivals.py wrote."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

BUDGETS = (1, 2, 4, 6, 12, 24)
COMPARED = (2, 6, 24)  # budgets at which ours is compared with each rival
LEVEL = math.log(1.02)  # smaller differences of log test loss are none
MOST = 0.8  # of the workloads: a mean over fewer is not drawn
SLACK = 0.3  # final runs that an answer may cost more than its budget, as finders do
Losses = dict[tuple[str, int], float]  # test loss by workload and seed, inf: it did not train
Mine = tuple[float, Losses]  # mean cost in final runs, and test losses
Rivals = dict[str, dict[int, Losses]]  # by name and budget
NAMES = {
    "untuned": "untuned defaults",
    "valley": "fastai lr_find + fit_one_cycle",
    "steepest": "Lightning Tuner + OneCycleLR",
    "prodigy": "Prodigy",
    "schedule_free": "Schedule-Free AdamW",
    "cycles_random": "random, H/4 cycles",
    "cycles_tpe": "Optuna TPE, H/4 cycles",
    "cycles_gp": "Optuna GP, H/4 cycles",
    "tpe_median": "Optuna TPE + Median",
    "tpe_hyperband": "Optuna TPE + Hyperband",
    "asha": "ASHA",
    "priorband": "PriorBand, prior: untuned",
    "quick": "orchestrator, quick",
    "first": "orchestrator, first full run",
    "standard": "orchestrator, standard",
    "thorough": "orchestrator, thorough",
}
SINGLE = ("valley", "steepest", "prodigy", "schedule_free")  # one full run: a mark in the figure
DRAWN = ("cycles_random", "cycles_tpe", "cycles_gp", "tpe_hyperband", "asha", "priorband")


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the file's lines, [] without a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ours(studies: Iterable[Mapping[str, Any]]) -> dict[str, Mine]:
    """Return mean cost and test losses of our studies, by effort, and of their first full runs."""
    losses: dict[str, Losses] = defaultdict(dict)
    costs: dict[str, list[float]] = defaultdict(list)
    for line in studies:
        if not line["cost"]:
            continue
        key, cost = (line["workload"], line["seed"]), line["cost"]
        losses[line["effort"]][key] = _or_lost(line.get("test"))
        costs[line["effort"]].append(max(cost.values()))
        first = line.get("baselines", {}).get("range_test_only")
        if line["effort"] == "standard" and first is not None:
            losses["first"][key] = first
            costs["first"].append(line.get("trained", cost["first_run"]))
    return {name: (mean(costs[name]), found) for name, found in losses.items()}


def rivals(found: Iterable[Mapping[str, Any]]) -> Rivals:
    """Return test losses of rivals by budget, without answers that cost more than it."""
    made: Rivals = defaultdict(lambda: defaultdict(dict))
    for line in found:
        for budget, cell in line["at"].items():
            if cell["spent"] <= int(budget) + SLACK:
                key = line["workload"], line["seed"]
                made[line["rival"]][int(budget)][key] = _or_lost(cell["test"])
    return made


def _or_lost(loss: float | None) -> float:
    return math.inf if loss is None else loss


def ratio(losses: Losses, base: Losses) -> tuple[float, float, int] | None:
    """Return mean log ratio of test losses over workloads, its standard error, and how many.

    What did not train is left out.
    """
    by_workload: dict[str, list[float]] = defaultdict(list)
    for key in losses.keys() & base.keys():
        if math.isfinite(losses[key]) and math.isfinite(base[key]):
            by_workload[key[0]].append(math.log(losses[key] / base[key]))
    means = [mean(values) for values in by_workload.values()]
    if not means:
        return None
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return mean(means), error, len(means)


def percent(value: float, error: float = math.nan) -> str:
    """Return a log ratio as a change in per cent, with its standard error if it has one."""
    noise = f" ± {100 * error:.0f}" if math.isfinite(error) else ""
    return f"{100 * math.expm1(value):+.0f} %{noise}"


def ordered(others: Rivals) -> list[str]:
    """Return the names of the rivals that there are, in the order of `NAMES`."""
    return [name for name in NAMES if name in others]


def table(mine: Mapping[str, Mine], others: Rivals, base: Losses) -> str:
    """Return the page's table: test loss against untuned, by final runs spent."""
    workloads = len({workload for workload, _ in base})

    def shown_as(found: tuple[float, float, int] | None) -> str:
        if found is None:
            return ""
        few = f" ({found[2]} of {workloads})" if found[2] < workloads else ""
        return percent(*found[:2]) + few

    rows = [
        "| | " + " | ".join(f"{b} H" for b in BUDGETS) + " |",
        "| --- |" + " --- |" * len(BUDGETS),
    ]
    for name in ordered(others):
        if name == "untuned":
            continue
        shown = [shown_as(ratio(others[name].get(b, {}), base)) for b in BUDGETS]
        rows.append(f"| {NAMES[name]} | " + " | ".join(shown) + " |")
    for name in (n for n in NAMES if n in mine):
        cost, losses = mine[name]
        if found := ratio(losses, base):
            at = next((b for b in BUDGETS if b >= cost - SLACK), BUDGETS[-1])
            told = f"**{shown_as(found)}** at {cost:.1f} H"
            shown = [told if b == at else "" for b in BUDGETS]
            rows.append(f"| {NAMES[name]} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


@dataclass(frozen=True)
class Versus:
    """Ours against a rival on one workload, paired over seeds.

    `differences`: of log test loss, one for each seed on which both trained. `lost`: seeds on which
    only ours trained, `own_lost`: only the rival.
    """

    differences: tuple[float, ...]
    lost: int
    own_lost: int

    @classmethod
    def of(cls, own: Losses, other: Losses, workload: str) -> Versus | None:
        """Return the comparison over the seeds that both have, None without one."""
        both = [key for key in own.keys() & other.keys() if key[0] == workload]
        pairs = [(math.isfinite(own[k]), math.isfinite(other[k]), k) for k in both]
        found = tuple(math.log(own[k] / other[k]) for mine, theirs, k in pairs if mine and theirs)
        lost = sum(mine and not theirs for mine, theirs, _ in pairs)
        own_lost = sum(theirs and not mine for mine, theirs, _ in pairs)
        return cls(found, lost, own_lost) if both else None

    @property
    def error(self) -> float:
        """Standard error of the mean difference, NaN with one seed."""
        n = len(self.differences)
        return stdev(self.differences) / math.sqrt(n) if n > 1 else math.nan

    @property
    def verdict(self) -> str:
        """Whether ours is "better", "level" or "worse"; "?" with one seed: noise is not known.

        If one side more often did not train, that decides.
        """
        if self.lost != self.own_lost:
            return "better" if self.lost > self.own_lost else "worse"
        if len(self.differences) < 2:
            return "?"
        found = mean(self.differences)
        if abs(found) <= max(2 * self.error, LEVEL):
            return "level"
        return "better" if found < 0 else "worse"

    def __str__(self) -> str:
        told = [percent(mean(self.differences), self.error)] if self.differences else []
        told += [f"rival lost on {self.lost}"] if self.lost else []
        told += [f"ours lost on {self.own_lost}"] if self.own_lost else []
        return ", ".join([self.verdict, *told])


def compared(own: Losses, others: Rivals, budget: int) -> dict[str, dict[str, Versus]]:
    """Return the comparisons at a budget, by rival and workload."""
    workloads = dict.fromkeys(workload for workload, _ in own)
    found = {
        name: {w: v for w in workloads if (v := Versus.of(own, others[name].get(budget, {}), w))}
        for name in ordered(others)
    }
    return {name: each for name, each in found.items() if each}


def counts(own: Losses, others: Rivals) -> str:
    """Return a row for each rival: on how many workloads ours is better, level and worse."""
    rows = [
        "| | " + " | ".join(f"{b} H" for b in COMPARED) + " |",
        "| --- |" + " --- |" * len(COMPARED),
    ]
    by_budget = {budget: compared(own, others, budget) for budget in COMPARED}
    for name in ordered(others):
        cells = [_counted(list(by_budget[b].get(name, {}).values())) for b in COMPARED]
        rows.append(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _counted(found: Sequence[Versus]) -> str:
    told = [v.verdict for v in found]
    shown = " / ".join(str(told.count(kind)) for kind in ("better", "level", "worse"))
    one_seed = f" ({told.count('?')} with one seed)" if "?" in told else ""
    return shown + one_seed if told else ""


def lost(others: Rivals) -> str:
    """Return which answers did not train, by rival and workload, at the largest budget."""
    told = []
    for name in ordered(others):
        found = others[name].get(BUDGETS[-1], {})
        count = Counter(workload for (workload, _), loss in found.items() if math.isinf(loss))
        told += [f"{NAMES[name]}: {', '.join(f'{w} ({n})' for w, n in count.items())}"] * any(count)
    return "; ".join(told)


def by_workload(found: Mapping[str, Mapping[str, Versus]]) -> str:
    """Return a row for each workload, a column for each rival."""
    names = list(found)
    rows = [
        "| | " + " | ".join(NAMES[n] for n in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for workload in dict.fromkeys(w for each in found.values() for w in each):
        cells = [str(found[n].get(workload, "")) for n in names]
        rows.append(f"| {workload} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def figure(mine: Mapping[str, Mine], others: Rivals, base: Losses, file: Path) -> None:
    """Draw test loss against final runs spent: searches as lines, single runs as marks."""
    import matplotlib.pyplot as plt

    enough = MOST * len({workload for workload, _ in base})

    def height(losses: Losses) -> float | None:
        found = ratio(losses, base)
        return 100 * math.expm1(found[0]) if found and found[2] >= enough else None

    plot, axes = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
    for name in (n for n in DRAWN if n in others):
        heights = {b: height(others[name].get(b, {})) for b in BUDGETS}
        shown = [(b, h) for b, h in heights.items() if h is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), "o-", alpha=0.7, lw=1.5, ms=4, label=NAMES[name])
    for name, mark in zip(SINGLE, "^v<>", strict=True):
        heights = {b: height(others.get(name, {}).get(b, {})) for b in BUDGETS}
        first = next(((b, h) for b, h in heights.items() if h is not None), None)
        if first:
            axes.plot(*first, mark, color="dimgrey", ms=7, label=NAMES[name])
    for name, (cost, losses) in mine.items():
        if (own := height(losses)) is not None:
            axes.plot(cost, own, "D", ms=10, label=NAMES[name])
    axes.axhline(0, color="grey", lw=1)
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
    axes.minorticks_off()
    axes.set_xlabel("cost, in final runs")
    axes.set_ylabel("test loss against untuned, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plot.savefig(file, dpi=150)
    plt.close(plot)


def prices(studies: Sequence[Mapping[str, Any]]) -> str:
    """Return what standard studies had cost at their milestones, in final runs."""
    own = [s for s in studies if s["effort"] == "standard" and "trained" in s]
    spent = {
        "first recipe": [s["cost"]["lr_range"] for s in own],
        "first trained answer": [s["trained"] for s in own],
        "whole study, with its baseline": [s["total"] for s in own],
    }
    rows = ["| | median | most |", "| --- | --- | --- |"]
    rows += [f"| {n} | {median(each):.2f} H | {max(each):.2f} H |" for n, each in spent.items()]
    return "\n".join(rows)


def text(
    mine: Mapping[str, Mine], others: Rivals, where: str, studies: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page."""
    base = others["untuned"][1]
    parts = [
        "# frontier",
        f"Made by `benchmarks/frontier/run.py`; the heads of its files say how. {where}".strip(),
        "Test loss against untuned training of the same length, mean log ratio over the"
        " workloads ± 100 x its standard error over them; H: the price of one final run. A minus is"
        " better. (5 of 9): on so many workloads, which other rows do not share. An answer may cost"
        " up to .3 H more than its column says.",
        table(mine, others, base),
    ]
    if names := lost(others):
        parts.append(f"Not in the means, since the answer did not train (seeds, at 24 H): {names}.")
    if "standard" in mine:
        cost, own = mine["standard"]
        parts += [
            "## Our standard study beside each rival",
            f"The standard study costs {cost:.1f} H on average. Paired over seeds: the mean"
            " difference of log test loss ± 100 x its standard error over seeds; a minus means that"
            " ours is lower. Level: within two standard errors, or within 2 %; with two"
            " or three seeds a standard error is itself uncertain. Where one side did not train on"
            " more seeds, that decides.",
            prices(studies),
            "On how many workloads ours is better / level / worse:",
            counts(own, others),
        ]
        for budget in COMPARED:
            parts += [
                f"### Rivals at {budget} H, workload by workload",
                by_workload(compared(own, others, budget)),
            ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write results/frontier.md and docs/images/frontier.png."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--studies", type=Path, nargs="+", required=True)
    parse.add_argument("--rivals", type=Path, nargs="+", required=True)
    parse.add_argument("--to", type=Path, required=True, help="the folder of results")
    parse.add_argument("--figure", type=Path)
    parse.add_argument("--where", default="", help="machine, versions and date, for the page")
    args = parse.parse_args()
    kept = {
        "studies": [line for file in args.studies for line in lines(file)],
        "rivals": [line for file in args.rivals for line in lines(file)],
    }
    mine, others = ours(kept["studies"]), rivals(kept["rivals"])
    (args.to / "frontier.md").write_text(text(mine, others, args.where, kept["studies"]))
    (args.to / "frontier.json").write_text(json.dumps(kept, indent=1) + "\n")
    if args.figure:
        figure(mine, others, others["untuned"][1], args.figure)


if __name__ == "__main__":
    main()
