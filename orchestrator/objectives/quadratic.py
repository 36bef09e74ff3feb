"""The fake objective: a noisy quadratic model of training, exact, seeded and fast (numpy only).

Source: Zhang et al. 2019 (arXiv 1907.04164), "Which algorithmic choices matter at which batch
sizes?": independent directions of curvature h, gradient noise of variance proportional to h / B.
Ours: the held-out minimum lies between the start and the train minimum, most so in directions of
low curvature, so that training too long overfits and weight decay has a best value above 0; and a
cost model with a fake clock, so that equal-time trials are exact and instant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.curve import Floats, Point, Result
from orchestrator.objectives import Description, Session
from orchestrator.recipe import Facts, Run, run_seed
from orchestrator.stages.stage import option


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """The problem's constants. Losses are in nats, curvatures in 1 / lr, times in seconds."""

    train_examples: int = option(2000, "training examples, sets the length of an epoch", ge=10)
    held_out_examples: int = option(500, "held-out examples", ge=10)
    directions: int = option(24, "independent directions", ge=1, le=1000)
    curvature: float = option(5.0, "largest curvature: lr above about 2 / this diverges", gt=0)
    condition: float = option(1e3, "largest over smallest curvature", ge=1)
    noise: float = option(4.0, "gradient noise: variance at batch size 1 over curvature", ge=0)
    overfit: float = option(
        0.4, "share by which the train minimum overshoots, in [0, 1)", ge=0, lt=1
    )
    start_loss: float = option(math.log(10), "loss above the floor at the start", gt=0)
    floor: float = option(0.05, "loss that no weights get below", ge=0)
    seconds_per_step: float = option(1e-3, "fixed cost of a step on the fake clock", gt=0)
    seconds_per_example: float = option(2e-5, "further cost of an example on the fake clock", ge=0)
    largest_batch: int = option(4096, "largest batch size that fits into the fake memory", ge=1)
    problem_seed: int = option(0, "where the minimum lies", ge=0)


class QuadraticObjective:
    """The objective over a `Quadratic` problem. Same run, same numbers, on any machine."""

    def __init__(
        self, problem: Quadratic | None = None, *, seed: int = 0, final_epochs: float = 10
    ) -> None:
        self.problem = problem or Quadratic()
        self.seed = seed
        self.facts = Facts(
            train_examples=self.problem.train_examples,
            held_out_examples=self.problem.held_out_examples,
            chance_loss=self.held_out_loss(np.zeros(self.problem.directions)),
            final_epochs=final_epochs,
        )

    def describe(self) -> Description:
        """Return its description: the time of a study is that of the fake clock."""
        note = "The objective is a noisy quadratic model, not a network."
        return Description(device="fake clock", notes=(note,), continues=True, fake_clock=True)

    def context(self, run: Run) -> Mapping[str, Any]:
        """Return the problem and the seed: nothing else determines a result."""
        return {"objective": "quadratic", "seed": self.seed, **asdict(self.problem)}

    @cached_property
    def curvature(self) -> Floats:
        """Curvatures, shape (directions,), log-spaced from the largest down."""
        p = self.problem
        return p.curvature * np.logspace(0, -math.log10(p.condition), p.directions)

    @cached_property
    def train_minimum(self) -> Floats:
        """Where the train loss is least, shape (directions,); all directions cost about as much."""
        rng = np.random.default_rng(self.problem.problem_seed)
        loss = rng.dirichlet(np.full(self.problem.directions, 5.0)) * self.problem.start_loss
        sign = rng.choice([-1.0, 1.0], self.problem.directions)
        return sign * np.sqrt(2 * loss / self.curvature)

    @cached_property
    def held_out_minimum(self) -> Floats:
        """Where the held-out loss is least: short of the train minimum, most in flat directions."""
        flatness = np.linspace(0, 1, self.problem.directions)
        return self.train_minimum * (1 - self.problem.overfit * flatness)

    def held_out_loss(self, weights: Floats) -> float:
        """Return the exact held-out loss of `weights`, shape (directions,)."""
        return self._loss(weights - self.held_out_minimum)

    def train_loss(self, weights: Floats) -> float:
        """Return the exact train loss of `weights`, shape (directions,), without weight decay."""
        return self._loss(weights - self.train_minimum)

    def _loss(self, gap: Floats) -> float:
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverged is no error
            return float(self.problem.floor + 0.5 * np.sum(self.curvature * gap * gap))

    def step_seconds(self, batch_size: int) -> float:
        """Return the seconds that one step takes on the fake clock."""
        return self.problem.seconds_per_step + batch_size * self.problem.seconds_per_example

    def __call__(self, run: Run, session: Session) -> Result:
        """Do the run (see `Objective`)."""
        if run.kind == "probe":
            sizes = {str(b): b <= self.problem.largest_batch for b in run.batch_sizes}
            return Result(measured={"fits": sizes, "bytes": {b: int(b) for b in sizes}})
        if run.kind == "calibrate":
            seconds = {str(b): self.step_seconds(b) for b in run.batch_sizes}
            spread = dict.fromkeys(seconds, 0.0)
            return Result(measured={"seconds_per_step": seconds, "spread": spread})
        return self._train(run, session)

    def _train(self, run: Run, session: Session) -> Result:
        h, minimum, size = self.curvature, self.train_minimum, self.problem.directions
        rng = np.random.default_rng(run_seed(self.seed, run.replicate, "noise"))
        scale = np.sqrt(self.problem.noise * h / run.batch_size)
        weights = 0.01 * rng.standard_normal(size) * minimum
        velocity = np.zeros(size)
        noise = rng.standard_normal((run.steps, size)) * scale
        report_at, seconds, losses = set(run.report_steps()), 0.0, []
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(run.steps):
                lr, momentum = run.schedule.at(step / run.steps)
                losses.append(self.train_loss(weights))
                gradient = h * (weights - minimum) + noise[step] + run.weight_decay * weights
                velocity = momentum * velocity + gradient
                weights = weights - lr * (gradient + momentum * velocity)  # Nesterov, as in torch
                seconds += self.step_seconds(run.batch_size)
                if step + 1 in report_at:
                    session.report(
                        Point(
                            step=step + 1,
                            progress=(step + 1) / run.steps,
                            lr=lr,
                            momentum=momentum,
                            train_loss=float(np.mean(losses)),
                            held_out_loss=self.held_out_loss(weights),
                            seconds=seconds,
                        )
                    )
                    losses = []
        test = self.held_out_loss(weights) if run.opens_test else math.nan
        if run.opens_test:
            session.save_model(weights.tobytes())
        return Result(seconds=seconds, examples=run.examples, test_loss=test)

    def expected_loss(self, run: Run) -> float:
        """Return the exact expectation, over the noise, of the held-out loss at the end of a run.

        Mean and covariance of (weights, velocity) follow a linear recursion in each direction.
        inf if it overflows.
        """
        h, size = self.curvature, self.problem.directions
        variance = self.problem.noise * h / run.batch_size
        state = np.zeros((2, size))  # mean of weights and velocity
        cov = np.zeros((3, size))  # var(weights), cov(weights, velocity), var(velocity)
        pull, target = h + run.weight_decay, h * self.train_minimum
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(run.steps):
                lr, m = run.schedule.at(step / run.steps)
                # velocity' = m v + g; weights' = w - lr (g + m velocity'); g = pull w - target
                a, b = 1 - lr * (1 + m) * pull, -lr * m * m
                w, v = state
                gradient = pull * w - target
                state = np.array([w - lr * ((1 + m) * gradient + m * m * v), m * v + gradient])
                ww, wv, vv = cov
                kick = lr * (1 + m)  # how far one noise sample moves the weights
                cov = np.array(
                    [
                        a * a * ww + 2 * a * b * wv + b * b * vv + kick**2 * variance,
                        a * pull * ww + (a * m + b * pull) * wv + b * m * vv - kick * variance,
                        pull * pull * ww + 2 * pull * m * wv + m * m * vv + variance,
                    ]
                )
            loss = self.held_out_loss(state[0]) + 0.5 * float(np.sum(h * cov[0]))
        return loss if math.isfinite(loss) else math.inf


def random_problem(seed: int) -> Quadratic:
    """Return one of a family of problems that differ in everything that moves the optimum."""
    rng = np.random.default_rng([seed, 1907])
    return replace(
        Quadratic(),
        curvature=float(10 ** rng.uniform(0, 2.5)),
        condition=float(10 ** rng.uniform(2, 5)),
        noise=float(10 ** rng.uniform(-1.5, 0.5)),
        overfit=float(rng.uniform(0, 0.5)),
        floor=float(10 ** rng.uniform(-2, -0.5)),
        problem_seed=seed,
    )
