"""What the benchmarks train: small real workloads with a pinned clock and a cache of outcomes.

The clock is a table of seconds per step, so that equal-time stages are exact to repeat whatever
else the machine does; outcomes are kept by the run's key, so that a benchmark that was cut off goes
on, and a change of the decision code trains nothing again that is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Result
from orchestrator.objectives import Objective, Session
from orchestrator.recipe import Decision, Recipe, Run
from orchestrator.stages.stage import Stage, cycle, walk
from orchestrator.testing import execute
from orchestrator.training.objective import TRAINING_VERSION

CACHE = Path(__file__).parent / ".cache"
TRUTH = 9000  # replicates from here on are ground truth: no stage uses them


@dataclass(frozen=True)
class Workload:
    """A task: its config, seconds per step by batch size, and the grid that holds its best recipe.

    `untuned`: the usual lr .1, momentum .9, weight decay 5e-4, batch size 64.
    """

    name: str
    config: Mapping[str, Any]
    clock: Mapping[int, float]
    lrs: tuple[float, ...] = ()
    seeds: int = 10
    needs_cifar: bool = False
    momenta: tuple[float, ...] = (0.9, 0.95, 0.97, 0.99)
    weight_decays: tuple[float, ...] = (0.0, 1e-5, 1e-4, 5e-4, 1e-3)
    batch_sizes: tuple[int, ...] = (16, 32, 64, 128)
    stages: Mapping[str, Any] = field(default_factory=dict)

    def of(self, seed: int, path: str | None = None, **changes: Any) -> Task:
        """Return the task with one study seed; `path`: where CIFAR-10 lies."""
        config = {**self.config, "seed": seed, "threads": 1, "device": "cpu", **changes}
        if self.needs_cifar:
            config["data"] = {**config["data"], "path": path}
        return Task(self, Config.from_mapping(config))


class Task:
    """A workload with a seed: stages, objective, and runs by way of the cache."""

    def __init__(self, workload: Workload, config: Config) -> None:
        self.workload, self.config = workload, config
        self.objective: Objective = Pinned(build.objective(config, CACHE), workload.clock)
        self.facts = self.objective.facts
        self.stages = {s.name: s for s in build.stages(config, self.facts)}
        self.recipe = build.recipe(config, self.objective.facts)
        self.ran: dict[str, Outcome] = {}
        self._cache = Cache(CACHE / f"{workload.name}.sqlite")

    def outcome(self, run: Run) -> Outcome:
        """Return the outcome of a run, trained if it is not known."""
        key = self._key(run)
        if key not in self.ran:
            known = self._cache.get(key, run)
            self.ran[key] = known or self._cache.put(key, execute(self.objective, run))
        return replace(self.ran[key], run=run)

    def _key(self, run: Run) -> str:
        """Return a key that outlives new options: the workload's name stands for its settings."""
        spec = {k: v for k, v in run.spec().items() if v is not None and k != "prunable"}
        return hashlib.sha256(
            json.dumps([spec, self.config.seed, self.workload.clock, TRAINING_VERSION]).encode()
        ).hexdigest()

    def outcomes(self, runs: Iterable[Run]) -> list[Outcome]:
        """Return the outcomes of several runs."""
        return [self.outcome(run) for run in runs]

    def decide(self, stage: Stage | str, recipe: Recipe) -> Decision:
        """Take one stage to its decision."""
        chosen = self.stages[stage] if isinstance(stage, str) else stage
        return walk(chosen, recipe, self.outcomes)[0]

    def study(self, plan: Sequence[str]) -> tuple[Recipe, dict[str, Decision]]:
        """Walk a plan and return the recipe and the decisions by stage."""
        recipe, decisions = self.recipe, {}
        for name in plan:
            decision = self.decide(name, recipe)
            decisions[name] = decision
            recipe = recipe.with_(decision)
            if recipe.max_lr is None:
                break
        return recipe, decisions

    def final_steps(self, batch_size: int) -> int:
        """Return the steps of a final run: the time of the workload's own batch size's epochs."""
        own = self.recipe.batch_size
        clock = self.workload.clock
        return max(10, round(self.facts.steps(1, own) * clock[own] / clock[batch_size]))

    def final(self, recipe: Recipe, replicate: int, *, test: bool = False) -> Run:
        """Return a final run of a recipe, as long in time as every other."""
        steps = self.final_steps(recipe.batch_size)
        return cycle(recipe, steps, replicate, "truth", points=2, opens_test=test)

    def cost(self, outcomes: Iterable[Outcome]) -> float:
        """Return the pinned seconds that the runs took."""
        return sum(o.result.seconds for o in outcomes if o.run.kind in ("train", "ramp"))

    @property
    def final_seconds(self) -> float:
        """Return the pinned seconds of one final run: H, the unit of compute."""
        own = self.recipe.batch_size
        return self.facts.steps(1, own) * self.workload.clock[own]


class Pinned:
    """An objective whose clock is a table of seconds per step."""

    def __init__(self, objective: Objective, clock: Mapping[int, float]) -> None:
        self._objective, self._clock = objective, clock
        self.facts = objective.facts

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return the objective's context and the clock."""
        return {
            **self._objective.context(run),
            "clock": {str(k): v for k, v in self._clock.items()},
        }

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run; its seconds are those of the table."""
        if run.kind == "probe":
            sizes = {str(b): b in self._clock for b in run.batch_sizes}
            return Result(measured={"fits": sizes, "bytes": dict.fromkeys(sizes, 0)})
        if run.kind == "calibrate":
            seconds = {str(b): self._clock[b] for b in run.batch_sizes}
            return Result(
                measured={"seconds_per_step": seconds, "spread": dict.fromkeys(seconds, 0.0)}
            )
        result = self._objective(run, session)
        return replace(result, seconds=run.steps * self._clock.get(run.batch_size, 1.0))


class Cache:
    """Outcomes by key in one file, shared by processes."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS outcome (key TEXT PRIMARY KEY, value TEXT)")

    def get(self, key: str, run: Run) -> Outcome | None:
        """Return what is kept, None if nothing is."""
        row = self._db.execute("SELECT value FROM outcome WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        kept = json.loads(row[0])
        curve, result = Curve.from_json(kept["curve"]), Result(**kept["result"])
        return Outcome(run, key, kept["state"], curve, result, kept["reason"])

    def put(self, key: str, outcome: Outcome) -> Outcome:
        """Keep an outcome and return it."""
        value = {
            "state": outcome.state,
            "reason": outcome.reason,
            "curve": outcome.curve.to_json(),
            "result": vars(outcome.result),
        }
        row = (key, json.dumps(value))
        self._db.execute("INSERT OR REPLACE INTO outcome VALUES (?, ?)", row)
        return outcome


def _digits(
    name: str, model: Mapping[str, Any], clock: Mapping[int, float], **more: Any
) -> Workload:
    data = {"name": "digits", **more.pop("data", {})}
    config = {
        "data": data,
        "model": model,
        "recipe": {"batch_size": 32},
        "stages": {"final": {"epochs": 10}},
    }
    return Workload(name, config, clock, **more)


# Seconds per step on one core of an AMD EPYC, measured once with nothing beside it.
MLP = {16: 1.6e-4, 32: 1.9e-4, 64: 2.5e-4, 128: 3.6e-4, 256: 6.0e-4}
CONV = {16: 1.7e-3, 32: 2.8e-3, 64: 4.9e-3, 128: 9.8e-3, 256: 2.0e-2}

WORKLOADS = {
    w.name: w
    for w in (
        _digits("digits", {"name": "mlp"}, MLP, lrs=(0.05, 0.1, 0.2, 0.3, 0.5)),
        _digits(
            "digits_x5",
            {"name": "mlp"},
            MLP,
            lrs=(0.006, 0.012, 0.025, 0.05, 0.08),
            data={"scale": 5.0},
        ),
        _digits(
            "digits_bn",
            {"name": "resnet9", "width": 0.125},
            {16: 1.7e-3, 32: 2.0e-3, 64: 2.75e-3, 128: 4.0e-3, 256: 6.8e-3},
            lrs=(0.1, 0.3, 0.7, 1.5, 3.0),
            seeds=3,
        ),
        Workload(
            "cifar",
            {
                "data": {
                    "name": "cifar10",
                    "train_examples": 4000,
                    "held_out_examples": 1000,
                    "test_examples": 2000,
                    "image_size": 16,
                    "augment": True,
                },
                "model": {"name": "conv3"},
                "recipe": {"batch_size": 32},
                "stages": {"final": {"epochs": 5}},
            },
            CONV,
            lrs=(0.02, 0.04, 0.07, 0.12, 0.2),
            seeds=2,
            needs_cifar=True,
        ),
    )
}


def in_parallel(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> list[Any]:
    """Return `work` of each item, in order, by so many processes of one thread each."""
    if workers == 1:
        return [work(item) for item in items]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(work, items, chunksize=1))


def workers() -> int:
    """Return how many processes to use: one a core, or what ORCHESTRATOR_WORKERS says."""
    return int(os.environ.get("ORCHESTRATOR_WORKERS", os.cpu_count() or 1))


def finite(values: Iterable[float]) -> list[float]:
    """Return the finite values."""
    return [v for v in values if math.isfinite(v)]
