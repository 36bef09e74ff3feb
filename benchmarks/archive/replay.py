"""Replay of recorded curves: what each pruning rule saves, and how often it kills the winner.

A study draws 20 to 60 recipes of a pool at random (or the candidates of one stage) and takes them
in random order, all from the same seed. The winner is the run that ends lowest if nothing is
pruned; a rule has killed it if it stopped that run. Saved is the share of the steps of all runs at
full length. Where every run was stopped, the least bad goes on to its end, as in the executor: it
counts as alive, and costs a whole run. Regret is how much higher the loss is of the run that the
pruned study picks, against the winner: by the runs' own ends, and (`_mean`) by the mean over the
seeds of the two recipes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import optuna
import workloads
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState
from workloads import in_parallel

from archive.replay_pools import QUICK, SEEDS, SPECS, STAGES, Member, Pool, Spec, load
from archive.replay_rules import RULES, TUNING, Make, Tally
from orchestrator.curve import Curve
from orchestrator.pruners import ClueRules

SMALLEST, LARGEST = 20, 60  # runs of a random study


def studies(pool: Pool, count: int) -> list[tuple[list[Member], int]]:
    """Draw studies: members in order, and the seed that all of them use."""
    rng = np.random.default_rng(1)
    members, groups = pool.members, sorted({m.group for m in pool.members})
    drawn = []
    for _ in range(count):
        seed = int(rng.integers(pool.spec.seeds))
        if pool.spec.space == "stage":
            group = groups[rng.integers(len(groups))]
            chosen = [m for m in members if m.group == group]
            order = rng.permutation(len(chosen))
        else:
            chosen = list(members)
            most = min(LARGEST, 2 * len(chosen) // 3)  # so that no two studies are the same
            order = rng.permutation(len(chosen))[: rng.integers(SMALLEST, most + 1)]
        drawn.append(([chosen[i] for i in order], seed))
    return drawn


def end(curve: Curve, chance: float) -> float:
    """Return the log of the loss at the end, that of chance where it ended no better."""
    loss = float(curve.held_out_loss[-1])
    return math.log(loss) if loss < chance else math.log(chance)


def replay(pool: Pool, make: Make, count: int) -> Tally:
    """Play so many studies of a pool under one rule."""
    tally, chance = Tally(), pool.chance
    means = {id(m): mean(end(c, chance) for c in m.curves) for m in pool.members}
    for number, (chosen, seed) in enumerate(studies(pool, count)):
        ends = [end(m.curves[seed], chance) for m in chosen]
        truth = [means[id(m)] for m in chosen]
        winner, best = int(np.argmin(ends)), int(np.argmin(truth))
        if ends[winner] >= math.log(chance):
            continue  # nothing in it is worth keeping
        judge = make(pool, str(number))
        done = [judge.run(m, seed) for m in chosen]
        alive = [i for i, (_, ended) in enumerate(done) if ended]
        tally.studies += 1
        tally.full += len(chosen)
        tally.cost += sum(cost for cost, _ in done)
        if not alive:
            alive = [_least_bad([m.curves[seed] for m in chosen], [cost for cost, _ in done])]
            tally.empty += 1
            tally.cost += 1 - done[alive[0]][0]
        tally.killed += winner not in alive
        tally.killed_mean += best not in alive
        pick = min(alive, key=ends.__getitem__)
        tally.regret += ends[pick] - ends[winner]
        tally.regret_mean += truth[pick] - truth[winner]
    return tally


def _least_bad(curves: Sequence[Curve], reached: Sequence[float]) -> int:
    """Return the run that the executor lets go on where all were stopped: furthest, then lowest."""

    def bad(i: int) -> tuple[float, float]:
        at = min(int(np.searchsorted(curves[i].progress, reached[i])), len(curves[i]) - 1)
        return -reached[i], float(curves[i].held_out_loss[at])

    return min(range(len(curves)), key=bad)


def _row(spec: Spec, rule: str, tally: Tally) -> dict[str, Any]:
    n = max(1, tally.studies)
    return {
        "pool": spec.name,
        "tuned_on": spec.tuned_on,
        "rule": rule,
        "studies": tally.studies,
        "saved": 1 - tally.cost / max(1, tally.full),
        "winner_killed": tally.killed / n,
        "best_mean_killed": tally.killed_mean / n,
        "nothing_left": tally.empty / n,
        "regret": tally.regret / n,
        "regret_mean": tally.regret_mean / n,
    }


def _simulated(item: tuple[Spec, int]) -> dict[str, list[dict[str, Any]]]:
    spec, count = item
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NaN reported, and what is experimental
        if spec.space == "seeds":
            return {"wilcoxon": [_row(spec, "Wilcoxon over seeds", wilcoxon(load(spec), count))]}
        pool = load(spec)
        rules = {k: v for k, v in RULES.items() if pool.members[0].short or "cycles" not in k}
        rows = [_row(spec, name, replay(pool, make, count)) for name, make in rules.items()]
        if not spec.tuned_on or spec.space == "stage":
            return {"stages" if spec.space == "stage" else "rows": rows}
        tried = [_row(spec, k, replay(pool, make, count // 4)) for k, make in TUNING.items()]
        return {"rows": rows, "tuning": tried}


def wilcoxon(pool: Pool, count: int) -> Tally:
    """Play Optuna's Wilcoxon pruner in its meaning: a trial is a recipe, its instances are seeds.

    Points of one curve are no independent instances, so it has no place within a run. Saved are
    runs of further seeds; the winner is the recipe with the lowest mean over all seeds.
    """
    tally, chance = Tally(), pool.chance
    for number, (chosen, _) in enumerate(studies(pool, count)):
        logs = [[end(c, chance) for c in m.curves] for m in chosen]
        study = optuna.create_study(study_name=str(number), pruner=WilcoxonPruner())
        alive = []
        for i, ends in enumerate(logs):
            trial = study.ask()
            for seed, loss in enumerate(ends):
                trial.report(loss, seed)
                if seed < len(ends) - 1 and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, mean(ends))
                alive.append(i)
            tally.cost += (seed + 1) / len(ends)
        means = [mean(ends) for ends in logs]
        winner, pick = int(np.argmin(means)), min(alive, key=means.__getitem__)
        tally.studies += 1
        tally.full += len(chosen)
        tally.killed += winner not in alive
        tally.regret += means[pick] - means[winner]
    return tally


def run(options: Any) -> dict[str, Any]:
    """Run the part: every pool that can be recorded."""
    count, specs = (20, QUICK) if options.quick else (400, (*SPECS, *STAGES, *SEEDS))
    items = [
        (replace(s, path=options.cifar) if s.workload == "cifar" else s, count)
        for s in specs
        if s.workload != "cifar" or options.cifar
    ]
    result: dict[str, Any] = {"rows": [], "stages": [], "tuning": [], "wilcoxon": []}
    for part in in_parallel(_simulated, items, workloads.workers()):
        for name, rows in part.items():
            result[name] += rows
    recipes = {s.name: {"recipes": s.size, "seeds": s.seeds} for s, _ in items}
    return {"clue_rules": vars(ClueRules()), "pools": recipes, **result}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    rows = result["rows"]
    text = [
        "Each cell: training saved, in how many studies the eventual winner was killed, regret of"
        " what is picked then (log loss); per cent.",
        *_grid("Pools that thresholds were tuned on", [r for r in rows if r["tuned_on"]]),
        *_grid("Pools that judge", [r for r in rows if not r["tuned_on"]]),
        *_grid(
            "Studies of three to five candidates, as in a stage; behind the regret: in how many"
            " every run was stopped, nearly all at a rate beyond the cliff",
            result["stages"],
        ),
    ]
    for r in result["wilcoxon"]:
        text += ["", f"{r['rule']} ({r['pool']}, eight each): {_cell(r)} of the runs of all seeds."]
    text += [*_tuning(result["tuning"]), *_best(rows)]
    return "\n".join(text)


def _grid(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    pools = list(dict.fromkeys(r["pool"] for r in rows))
    cells = {(r["rule"], r["pool"]): r for r in rows}
    if not rows:
        return []
    lines = ["", f"**{title}**", "", f"| rule | {' | '.join(pools)} |", "|---" * (1 + len(pools))]
    lines[-1] += "|"
    for rule in dict.fromkeys(r["rule"] for r in rows):
        row = [_cell(cells[rule, p]) if (rule, p) in cells else "" for p in pools]
        lines.append(f"| {rule} | {' | '.join(row)} |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    values = (row["saved"], row["winner_killed"], row["regret"])
    text = " / ".join(f"{100 * v:.{d}f}" for v, d in zip(values, (0, 1, 1), strict=True))
    return f"{text} / {100 * row['nothing_left']:.0f}" if "stage" in row["pool"] else text


def _tuning(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Show, of each way to compare, the settings that save most while killing at most 1 %."""
    if not rows:
        return []
    lines = ["", "**Tuning: comparison with the best finished run, own-curve rules on**", ""]
    lines += [
        "| way, factor, from | saved, mean over pools | killed, worst pool |",
        "|---|---|---|",
    ]
    found = [(saved, killed, rule) for rule, (saved, killed) in _over_pools(rows).items()]
    for way in dict.fromkeys(rule.split(" > ")[0] for _, _, rule in found):
        mine = sorted((f for f in found if f[2].startswith(way)), reverse=True)
        safe = [f for f in mine if f[1] <= 0.01][:3]
        for saved, killed, rule in safe:
            lines.append(f"| {rule} | {100 * saved:.0f} % | {100 * killed:.1f} % |")
    return lines


def _over_pools(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return by rule: mean share saved, and kill rate of the worst pool."""
    by: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        by.setdefault(r["rule"], []).append(r)
    return {
        rule: (mean(r["saved"] for r in of), max(r["winner_killed"] for r in of))
        for rule, of in by.items()
    }


def _best(rows: Sequence[dict[str, Any]]) -> list[str]:
    judged = [r for r in rows if not r["tuned_on"]]
    found = sorted(((s, k, r) for r, (s, k) in _over_pools(judged).items()), reverse=True)
    safe = [f"{rule}: {100 * saved:.0f} %" for saved, killed, rule in found if killed <= 0.01]
    said = "Rules that kill at most 1 winner in 100 in every judging pool, by mean saved: "
    return ["", said + "; ".join(safe) + "."] if judged else []
