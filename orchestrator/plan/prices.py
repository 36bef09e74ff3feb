"""What runs cost in seconds on this machine: probed before a study, or learnt from its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.objectives import Objective, describe
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.schedules import Schedule

Clock = Callable[[], float]
STEPS = 20  # of the probe
REPORTS = 4  # of the probe; the first one also holds what comes before a first step
MOST_SECONDS = 5.0  # that the probe spends on a batch size beside the recipe's own
FORWARD = 1 / 3  # of a training step: what an evaluation takes per example, until it is measured
CALIBRATION_STEPS = 29  # of each batch size that a calibration measures
ROUND_SECONDS = 0.14  # and at least so long where steps are short


@dataclass(frozen=True)
class Prices:
    """Seconds of the parts that a run is made of.

    `step`: of a training step, by batch size. `example`: of evaluating one example. `report`: of a
    report without its examples. `run`: of what comes before a run's first step. `scale` multiplies
    all of it. `memory`: bytes that training takes and `fits`: whether there are as many, both by
    batch size, as far as they were measured. `test_examples`: size of the sealed test.
    """

    facts: Facts
    step: Mapping[int, float]
    example: float = 0.0
    report: float = 0.0
    run: float = 0.0
    scale: float = 1.0
    memory: Mapping[int, int] = field(default_factory=dict)
    fits: Mapping[int, bool] = field(default_factory=dict)
    test_examples: int = 0

    def step_seconds(self, batch_size: int) -> float:
        """Return the seconds of a step: as measured, between two sizes or beyond on a line.

        With one size only, time is taken to be proportional to the examples: what is compared has
        equal time in any case.
        """
        sizes = sorted(self.step)
        if batch_size in self.step or len(sizes) < 2:
            return self.step.get(batch_size, self.step[sizes[0]] * batch_size / sizes[0])
        above = next((i for i, s in enumerate(sizes) if s > batch_size), len(sizes) - 1)
        low, high = sizes[max(0, above - 1)], sizes[max(1, above)]
        slope = (self.step[high] - self.step[low]) / (high - low)
        return max(self.step[low] + slope * (batch_size - low), min(self.step.values()) / 2)

    def of(self, run: Run, progress: float = 1.0) -> float:
        """Return the seconds of a run that ends after the fraction `progress` of its steps."""
        if run.kind == "probe":
            return self.scale * self.run * len(run.batch_sizes)
        if run.kind == "calibrate":
            steps = (CALIBRATION_STEPS * self.step_seconds(b) for b in run.batch_sizes)
            return self.scale * sum(
                self.run + max(s, ROUND_SECONDS * (self.run > 0)) for s in steps
            )
        reports, seen = self._evaluated(run, progress)
        trained = progress * run.steps * self.step_seconds(run.batch_size)
        return self.scale * (self.run + trained + reports * self.report + seen * self.example)

    def _evaluated(self, run: Run, progress: float) -> tuple[float, float]:
        """Return how many reports a run makes, and of how many examples."""
        reports, whole = progress * len(run.report_steps()), self.facts.held_out_examples
        part = min(run.held_out_examples or whole, whole)
        seen = reports * part
        if run.kind == "train" and progress == 1:  # the last report uses all
            seen += whole - part
        return reports, seen + self.test_examples * run.opens_test


def progress(outcome: Outcome) -> float:
    """Return which share of its steps a run made, 1 for one that makes none."""
    return float(outcome.curve.progress[-1]) if len(outcome.curve) else 1.0


def learnt(facts: Facts, outcomes: Iterable[Outcome], scale: float = 1.0) -> Prices | None:
    """Return the prices that outcomes tell of, None while they tell of none.

    A calibration is believed more than single runs. Evaluations are taken to cost what a forward
    pass does; `scale` says by how much the sum is off.
    """
    seconds: dict[int, float] = {}
    steps: dict[int, float] = {}
    calibrated: dict[int, float] = {}
    for o in outcomes:
        if o.run.kind == "calibrate":
            table: Mapping[str, Any] = o.result.measured.get("seconds_per_step", {})
            calibrated |= {int(b): float(s) for b, s in table.items()}
        elif o.result.seconds > 0 and o.result.examples:
            b = o.run.batch_size
            seconds[b] = seconds.get(b, 0.0) + o.result.seconds
            steps[b] = steps.get(b, 0.0) + o.result.examples / b
    if not steps:
        return None
    step = {b: seconds[b] / steps[b] for b in steps}
    if known := step.keys() & calibrated.keys():  # it knows ratios, the runs know the level
        level = median(step[b] / calibrated[b] for b in known)
        step |= {b: level * s for b, s in calibrated.items() if b not in step}
    most = max(step)
    return Prices(facts, step, example=FORWARD * step[most] / most, scale=scale)


def probe(
    objective: Objective, recipe: Recipe, sizes: Sequence[int], clock: Clock = time.perf_counter
) -> Prices:
    """Train a few steps of each batch size and return what they cost.

    The recipe's own size is trained for 20 steps, other sizes for as many as `MOST_SECONDS` allow;
    those that allow none, and all above, are left to a line through the two before. `clock`: of the
    seconds outside of training.
    """
    facts, own = objective.facts, recipe.batch_size
    test_examples = describe(objective).test_examples
    memory = _memory(objective, recipe, sizes)
    fits = {int(b): bool(v) for b, v in memory.get("fits", {}).items()}
    _trial(objective, recipe, own, REPORTS, clock)  # the very first steps are slow
    first = _trial(objective, recipe, own, STEPS, clock)
    step = {own: first.step}
    for size in sorted({b for b in sizes if b != own and fits.get(b, True)}):
        guess = Prices(facts, step).step_seconds(size)
        steps = min(STEPS, int(MOST_SECONDS / guess) - 2) if guess else STEPS
        if steps < REPORTS:
            break
        step[size] = _trial(objective, recipe, size, steps, clock).step
    return Prices(
        facts,
        step,
        example=first.example,
        report=first.report,
        run=first.run,
        memory={int(b): int(n) for b, n in memory.get("bytes", {}).items()},
        fits=fits,
        test_examples=facts.held_out_examples if test_examples is None else test_examples,
    )


@dataclass(frozen=True)
class _Trial:
    """Seconds of a step, of an evaluated example, of a report and of what comes before it all."""

    step: float
    example: float
    report: float
    run: float


class _Timed:
    """A session that notes when each report came."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.marks: list[tuple[Point, float]] = []

    def report(self, point: Point) -> None:
        """Note the time."""
        self.marks.append((point, self._clock()))

    def save(self, state: bytes) -> None:
        """Nothing is kept."""

    def load(self) -> bytes | None:
        """There is nothing to go on from."""
        return None

    def save_model(self, state: bytes) -> None:
        """Nothing is kept."""


def _trial(objective: Objective, recipe: Recipe, size: int, steps: int, clock: Clock) -> _Trial:
    whole = objective.facts.held_out_examples
    part = max(1, whole // 4)
    run = _run(recipe, size, steps, part)
    session, start = _Timed(clock), clock()
    objective(run, session)
    points, times = zip(*session.marks, strict=True)
    per_report = steps / len(points)
    train = [b.seconds - a.seconds for a, b in pairwise(points)]
    wall = [b - a for a, b in pairwise(times)]
    away = [max(0.0, w - t) for w, t in zip(wall, train, strict=True)]
    partly = median(away[:-1])
    example = max(0.0, (away[-1] - partly) / (whole - part)) if whole > part else 0.0
    return _Trial(
        step=median(train) / per_report,
        example=example,
        report=max(0.0, partly - part * example),
        run=max(0.0, times[0] - start - points[0].seconds - partly),
    )


def _run(recipe: Recipe, size: int, steps: int, held_out_examples: int) -> Run:
    """Return a run at an lr so small that nothing happens."""
    return Run(
        kind="train",
        schedule=Schedule("constant", 1e-4, 1e-4, recipe.max_momentum, recipe.max_momentum),
        weight_decay=recipe.weight_decay,
        batch_size=size,
        steps=steps,
        replicate=0,
        points=REPORTS,
        held_out_examples=held_out_examples,
        prunable=False,
        dropout=recipe.dropout,
        label=f"probe of batch size {size}",
    )


def _memory(objective: Objective, recipe: Recipe, sizes: Sequence[int]) -> Mapping[str, Any]:
    """Return what the objective's own memory probe measures."""
    ordered = tuple(sorted({recipe.batch_size, *sizes}))
    run = replace(_run(recipe, ordered[-1], 1, 0), kind="probe", batch_sizes=ordered)
    return objective(run, _Timed(time.perf_counter)).measured
