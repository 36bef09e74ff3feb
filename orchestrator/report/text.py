"""Sentences on results, cost and plans, the same in the terminal and in the report."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.audit import MARGIN
from orchestrator.curve import State
from orchestrator.figures.numbers import DASH, duration, number, rate
from orchestrator.stages import comparison

if TYPE_CHECKING:
    from orchestrator.plan import StudyPlan
    from orchestrator.plan.estimate import Range

WORTH = 0.01  # log loss: less is not worth the words
KINDS = {"train": "cycles", "ramp": "ramps", "probe": "memory probe", "calibrate": "calibration"}


def spread(stat: Mapping[str, Any] | None) -> str:
    """Return "mean ± std (n = ...)"; the spread decides the decimals of the mean."""
    mean = (stat or {}).get("mean")
    if stat is None or mean is None or not math.isfinite(mean):
        return DASH
    std, n = stat.get("std"), stat.get("n")
    count = f" (n = {n})" if n else ""
    if std is None or not math.isfinite(std):
        return number(mean) + count
    return comparison.spread(mean, std) + count


def between(seconds: Range) -> str:
    """Return a range of times as "40 s to 1 min", or one time if both ends are equal as text."""
    low, high = duration(seconds.low), duration(seconds.high)
    return low if low == high else f"{low} to {high}"


def planned(plan: StudyPlan) -> list[tuple[str, str]]:
    """Return what a study would run and cost as (name, text): its stages, all of it, its memory."""
    lines = []
    for stage in plan.stages:
        kinds = ", ".join(f"{_many(n)} {KINDS[kind]}" for kind, n in stage.kinds.items())
        lines.append((stage.name, f"{kinds or 'not known'}; {between(stage.seconds)}"))
    how_long = between(plan.seconds)
    if how_long != between(plan.extremes):
        how_long += f" in {100 * plan.likely:.0f} % of the simulated studies,"
        how_long += f" {between(plan.extremes)} in all of them"
    total = f"{_many(plan.runs)} runs, {how_long}, with start and report"
    total += f" (this plan took {duration(plan.spent)})"
    lines.append(("in all", total))
    if plan.final_runs is not None:
        lines.append(("budget", f"at most {plan.final_runs:g} final runs (budget.final_runs)"))
    if need := plan.prices.memory.get(plan.batch_size):
        fits = [b for b, fits in plan.prices.fits.items() if fits]
        largest = max(fits, default=plan.batch_size)
        text = f"{need / 2**20:.3g} MiB to train with batches of {plan.batch_size}"
        if largest > plan.batch_size:
            whose = "" if largest in plan.tried else " (untuned's)"
            most = plan.prices.memory[largest] / 2**20
            text += f", {most:.3g} MiB with {largest}{whose}, which fits"
        lines.append(("memory", text))
    return lines


def _many(count: Range) -> str:
    low, high = int(count.low), int(count.high)
    return str(low) if low == high else f"{low} to {high}"


def against(
    answer: Mapping[str, Any] | None,
    other: Mapping[str, Any] | None,
    larger_is_better: bool,
    change: Mapping[str, float] | None = None,
) -> str:
    """Return "better by ...", "worse by ..." or "tie": within two standard errors of the means.

    Both are {mean, std, n} over seeds. With one seed the noise is that of `change`, the log ratio
    of the two test losses, if the study has measured it.
    """
    a, b = (answer or {}).get("mean"), (other or {}).get("mean")
    if answer is None or other is None or a is None or b is None:
        return DASH
    gain = a - b if larger_is_better else b - a
    noise = [(s.get("std"), s.get("n") or 0) for s in (answer, other)]
    variances = [std**2 / n for std, n in noise if std is not None and n > 1]
    if len(variances) < 2:
        if change is not None:
            return _by_loss(change["log_ratio"], change["noise"])
        if gain == 0:
            return "tie"
        return f"{'better' if gain > 0 else 'worse'} by {number(abs(gain), 2)}, noise not measured"
    if abs(gain) <= 2 * math.sqrt(sum(variances)):
        return "tie: within noise"
    return f"{'better' if gain > 0 else 'worse'} by {number(abs(gain), 2)}"


def _by_loss(log_ratio: float, noise: float) -> str:
    """Return the verdict on one test loss against another; `noise`: a standard deviation."""
    size = abs(math.expm1(log_ratio))
    which = "lower" if log_ratio < 0 else "higher"
    told = f"test loss {100 * size:.0f} % {which}, noise {100 * noise:.0f} %"
    if abs(log_ratio) <= 2 * noise:
        return f"tie: {told}"
    return f"{'better' if log_ratio < 0 else 'worse'}: {told}"


def results(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, test result, comparison) of the answer and the baselines, answer first.

    The result is the metric, or the loss where there is no metric.
    """
    final = summary["final"]
    if not final:
        return []
    metric = final["metric"]
    field = "test_metric" if metric["name"] else "test_loss"
    larger = metric["direction"] == "maximize" if metric["name"] else False
    own = final[field]
    rows = [("answer", spread(own), "")]
    for baseline in final["baselines"]:
        verdict = against(own, baseline[field], larger, baseline.get("test_loss_change"))
        if baseline["recipe"] == summary["recipe"]:
            verdict = "the same recipe"
        rows.append((baseline["name"], spread(baseline[field]), verdict))
    return rows


def measure(summary: Mapping[str, Any]) -> str:
    """Return the name of the result that `results` shows."""
    return f"test {(summary['final'] or {}).get('metric', {}).get('name') or 'loss'}"


def overrides(recipe: Mapping[str, Any]) -> list[str]:
    """Return the recipe as config overrides, at full precision, quoted for a shell.

    Unset fields and options of the optimiser that are off are left out.
    """
    rates = ("max_lr", "min_lr", "max_momentum", "min_momentum")
    fields = (*rates, "weight_decay", "batch_size", "dropout")
    options: Mapping[str, Any] = recipe.get("optimizer_options") or {}
    return [
        *(f"recipe.{k}={recipe[k]}" for k in fields if recipe.get(k) is not None),
        *(shlex.quote(f"optimizer.{k}={json.dumps(v)}") for k, v in options.items()),
    ]


_OF_THE_SEARCH = ("fresh", "quiet", "--quiet", "dry_run", "budget")


def command(summary: Mapping[str, Any]) -> str:
    """Return the command that trains and tests the recipe alone.

    If the study's own command is not known (made in Python from a config), what to add to it.
    """
    fixed = overrides(summary["recipe"])
    again = [f"study_name={summary['study']}-again", "plan=[final]", *fixed]
    # Left out: overrides of the search, and those that the recipe replaces.
    replaced = {*_OF_THE_SEARCH, *(text.partition("=")[0] for text in again)}
    typed = summary.get("overrides") or ()
    keys = [text.lstrip("+").partition("=")[0] for text in typed]
    kept = [
        text
        for text, key in zip(typed, keys, strict=True)
        if key not in replaced and not key.startswith("budget.")
    ]
    line = shlex.join([*kept, *again])
    return f"python -m orchestrator {line}" if typed else f"the same command with {line}"


def dropout(summary: Mapping[str, Any]) -> str:
    """Return the dropout of the recipe, and whether it is the model's own."""
    if (chosen := summary["recipe"].get("dropout")) is not None:
        return rate(chosen)
    own = summary.get("model_dropout")
    return "none" if own is None else f"{rate(own)} (the model's own)"


def balance(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, "larger" or "smaller") of all that regularises, and of its products.

    The last is the direction in which it regularises more: if one increases, the others must
    decrease (Smith 2018, section 3). Empty without a max_lr.
    """
    r = summary["recipe"]
    lr, momentum, decay = r["max_lr"], r["max_momentum"], r["weight_decay"]
    if lr is None:
        return []
    sgd = r["optimizer"] == "sgd"  # Adam's steps do not grow with its momentum
    return [
        ("max_lr", rate(lr), "larger"),
        ("max_momentum", rate(momentum), "larger"),
        ("batch_size", rate(r["batch_size"]), "smaller"),
        ("weight_decay", rate(decay), "larger"),
        ("dropout", dropout(summary), "larger"),
        *([("lr / (1 - momentum)", rate(lr / (1 - momentum)), "larger")] * sgd),
        ("lr x weight_decay", rate(lr * decay), "larger"),
    ]


def status(summary: Mapping[str, Any]) -> str:
    """Return a study's status, with the number of stages that the budget allowed."""
    cuts: Mapping[str, str] = (summary.get("budget") or {}).get("cuts") or {}
    left_out = sum(how == "left out" for how in cuts.values())
    if summary["status"] != "complete" or not left_out:
        return str(summary["status"])
    stages = {*cuts, *(stage["name"] for stage in summary["stages"])}
    return f"complete ({len(stages) - left_out} of {len(stages)} stages; budget)"


def counts(states: Iterable[State] | Mapping[State, int]) -> str:
    """Return "12 runs, 2 pruned, 1 failed": the total, and those that did not finish."""
    count = Counter(states)
    total = count.total()
    parts = [f"{total} run{'s' if total != 1 else ''}"]
    return ", ".join(parts + [f"{count[s]} {s}" for s in ("pruned", "failed") if count[s]])


def spent(summary: Mapping[str, Any]) -> str:
    """Return the seconds of training, of evaluation and of all else, and their total."""
    cost = summary["cost"]
    parts = {"training": "training", "evaluation": "evaluation", "other": "all else"}
    told = [
        f"{duration(seconds)} of {name}"
        for key, name in parts.items()
        if (seconds := cost.get(f"{key}_seconds"))
    ]
    return ", ".join([*told, f"{duration(cost['total_seconds'])} in all"])


def more(summary: Mapping[str, Any]) -> str:
    """Return what longer training and a larger budget are expected to bring, "" if not known."""
    told = []
    doubling = (summary["final"] or {}).get("doubling")
    if doubling is not None and doubling < -WORTH:
        told.append(f"twice the epochs: about {-100 * math.expm1(doubling):.0f} % less loss")
    elif doubling is not None:
        told.append("twice the epochs: no lower loss")
    cuts: Mapping[str, str] = (summary.get("budget") or {}).get("cuts") or {}
    if left := [name for name, how in cuts.items() if how == "left out"]:
        told.append(f"a larger budget: also {', '.join(left)}")
    elif any("without baselines" in how for how in cuts.values()):
        told.append("a larger budget: also the baselines")
    elif doubling is not None and summary.get("budget"):
        told.append("a larger budget: nothing, no stage found a run that was worth its price")
    return "; ".join(told)


def audited(summary: Mapping[str, Any]) -> str:
    """Return the result of the audits, "" without an audit."""
    found = summary["cost"].get("audit")
    if not found or not found["audited"]:
        return ""
    wrong = f"{found['wrong']} of them pruned wrongly" if found["wrong"] else "none pruned wrongly"
    near = found["within_margin"] - found["wrong"]
    close = f", {near} within {100 * MARGIN:.0f} % of the best" if near else ""
    audits = f"{found['audited']} of {found['pruned']} pruned runs trained to their end"
    return f"{audits}: {wrong}{close}"


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the union of the rows' keys in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))
