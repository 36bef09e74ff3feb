"""Optuna's own pruners beside the clue rules: by config, and as they see a stage."""

import hashlib
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Curve, Outcome, Point, Result, State
from orchestrator.errors import ConfigError
from orchestrator.pruners import CluePruner
from orchestrator.pruners.peers import Peers
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule

CHANCE = math.log(10)
CONF = Path(__file__).parent.parent / "conf/pruner"


def a_run(lr: float, replicate: int = 0, steps: int = 200, schedule: str = "paper") -> Run:
    return Run("train", Schedule(schedule, lr / 10, lr, 0.85, 0.9), 1e-3, 64, steps, replicate)


def points(run: Run, end: float) -> list[Point]:
    """Return a curve that falls from chance to `end`."""
    shares = [step / run.steps for step in run.report_steps()]
    losses = [CHANCE * (end / CHANCE) ** share for share in shares]
    return [
        Point(step, share, 0.1, 0.9, loss, loss)
        for step, share, loss in zip(run.report_steps(), shares, losses, strict=True)
    ]


def ended(run: Run, end: float, state: State = "finished", upto: int = 20) -> Outcome:
    curve = Curve.of(points(run, end)[:upto])
    key = f"{run.schedule.max_lr} {run.replicate} {run.steps}"
    return Outcome(run, key, state, curve, Result(1.0, run.examples))


def pruner_of(also: dict[str, Any] | None, **rules: Any) -> CluePruner:
    config = Config.from_mapping({"pruner": {"behind": None, **rules, "also": also}})
    made = build.pruner(config, CHANCE)
    assert made is not None
    return made


def judged(
    pruner: CluePruner, peers: Sequence[Outcome], run: Run, end: float, place: int = 0
) -> tuple[int | None, str]:
    """Train a run as an executor does; return the per cent at which it was pruned, and why."""
    pruner.compare_with(Peers(peers))
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    pruner.start(trial.number, run, place)
    return reported(trial, pruner, run, end)


def reported(
    trial: optuna.Trial, pruner: CluePruner, run: Run, end: float
) -> tuple[int | None, str]:
    for point in points(run, end):
        pruner.observe(trial.number, point)
        trial.report(point.held_out_loss, point.step)
        if trial.should_prune():
            return round(100 * point.progress), pruner.reason(trial.number)
    return None, ""


PEERS = [ended(a_run(0.1 * (i + 1)), 0.3 + 0.05 * i) for i in range(6)]
MEDIAN = {"name": "median", "n_warmup_steps": 75}


@pytest.mark.parametrize(
    ("also", "at", "who"),
    [
        ({"name": "median"}, 5, "MedianPruner"),
        (MEDIAN, 75, "MedianPruner"),
        ({"name": "percentile", "percentile": 25.0, "n_warmup_steps": 50}, 50, "PercentilePruner"),
        ({"name": "hyperband", "min_resource": 30}, 90, "HyperbandPruner"),  # by its bracket
        ({"name": "successive_halving", "min_resource": 60}, 60, "SuccessiveHalvingPruner"),
        ({"name": "successive_halving"}, 5, "SuccessiveHalvingPruner"),
        ({"name": "threshold", "upper": 1.0, "n_warmup_steps": 40}, 40, "ThresholdPruner"),
        ({"name": "patient", "patience": 3, "wrapped_pruner": MEDIAN}, None, ""),
        ({"name": "patient", "patience": 3}, None, ""),
        ({"name": "wilcoxon"}, None, ""),
    ],
)
def test_a_bad_run_is_pruned_at_the_per_cent_that_the_pruner_means(
    also: dict[str, Any], at: int | None, who: str
) -> None:
    """A step is a per cent of the cycle, whatever the number of training steps."""
    for steps in (200, 1000):
        peers = [ended(a_run(o.run.schedule.max_lr, steps=steps), o.held_out_loss) for o in PEERS]
        reason = f"pruned by {who} at {at} % of the cycle" if at else ""
        assert judged(pruner_of(also), peers, a_run(9.0, steps=steps), 1.5) == (at, reason)
        assert judged(pruner_of(also), peers, a_run(9.0, steps=steps), 0.2)[0] is None


def test_patience_stops_a_run_that_no_longer_improves_and_asks_what_it_wraps() -> None:
    """Without a wrapped pruner it stops by itself; with one, only where that one would too."""
    run = a_run(9.0)

    def at(also: dict[str, Any], peers: Sequence[Outcome]) -> int | None:
        pruner = pruner_of(also)
        pruner.compare_with(Peers(peers))
        trial = optuna.create_study(pruner=pruner).ask()
        pruner.start(trial.number, run, 0)
        for i, point in enumerate(points(run, 0.8)):
            loss = point.held_out_loss if i < 5 else 1.9
            pruner.observe(trial.number, Point(point.step, point.progress, 0.1, 0.9, loss, loss))
            trial.report(loss, point.step)
            if trial.should_prune():
                return round(100 * point.progress)
        return None

    alone = {"name": "patient", "patience": 3}
    assert at(alone, []) == 45  # the fourth point without an improvement
    assert at({**alone, "wrapped_pruner": MEDIAN}, PEERS) == 75
    assert at({**alone, "wrapped_pruner": MEDIAN}, []) is None


@pytest.mark.parametrize("also", [{"name": "median"}, {"name": "successive_halving"}])
def test_runs_of_another_length_schedule_or_seed_are_not_seen(also: dict[str, Any]) -> None:
    """A step of one is no step of the other; by the clue rules neither."""
    pruner = pruner_of(also, behind=1.5)
    for run in (a_run(9.0, steps=400), a_run(9.0, schedule="linear"), a_run(9.0, replicate=3)):
        assert judged(pruner, PEERS, run, 1.5) == (None, "")


def test_a_run_far_behind_the_best_finished_one_of_its_seed_is_pruned() -> None:
    """Paired, as the stages compare; a pruned peer is no measure."""
    pruner = pruner_of(None, behind=2.0)
    at, reason = judged(pruner, PEERS, a_run(9.0), 1.5)
    assert at == 25
    assert reason.startswith(
        "behind: held-out loss is down to 2.07 from the untrained loss (2.3) at 25 %"
    )
    assert judged(pruner, PEERS, a_run(9.0), 0.8) == (None, "")
    assert judged(pruner, PEERS, a_run(9.0, replicate=1), 1.5) == (None, "")
    pruned = [ended(a_run(0.1), 0.3, "pruned", upto=16)]
    assert judged(pruner, pruned, a_run(9.0), 1.5) == (None, "")


def test_a_candidate_whose_seeds_are_surely_worse_gets_no_further_one() -> None:
    """Wilcoxon pairs seeds, not points: it needs four of each at p = 0.1, and asks at the start."""
    good = [ended(a_run(0.1, seed), 0.3 + 0.01 * seed) for seed in range(5)]
    bad = [ended(a_run(0.5, seed), 0.4 + 0.013 * seed) for seed in range(5)]  # no ties: slow
    pruner = pruner_of({"name": "wilcoxon", "p_threshold": 0.1})
    assert judged(pruner, good + bad[:4], a_run(0.5, 4), 0.4) == (
        5,
        "pruned by WilcoxonPruner after 4 other seeds",
    )
    assert judged(pruner, good + bad[:3], a_run(0.5, 3), 0.4) == (None, "")
    assert judged(pruner, good[:4] + bad, a_run(0.1, 4), 0.3) == (None, "")
    unpaired = [ended(a_run(0.5, seed), 0.4) for seed in range(5, 9)]
    assert judged(pruner, good + unpaired, a_run(0.5, 4), 0.4) == (None, "")


def test_a_verdict_depends_on_nothing_but_the_earlier_rounds() -> None:
    """Asked twice, after another stage, or in another process: the same run has the same fate."""
    rng = np.random.default_rng(0)
    peers = [ended(a_run(0.01 * (i + 1)), float(rng.uniform(0.2, 1.5))) for i in range(9)]
    runs = [(a_run(1 + i), float(rng.uniform(0.2, 1.5)), i) for i in range(5)]
    for also in ({"name": "hyperband"}, {"name": "percentile", "percentile": 40.0}):
        used = pruner_of(also)
        first = [judged(used, peers, *run) for run in runs]
        assert len({at for at, _ in first}) > 1
        judged(used, PEERS, a_run(3.0, steps=50), 1.0)
        judged(used, [], a_run(3.0), 1.0)
        assert [judged(used, peers, *run) for run in reversed(runs)] == first[::-1]
        sent = pickle.loads(pickle.dumps(used))
        assert [judged(sent, peers, *run) for run in runs] == first


@pytest.mark.parametrize("also", [None, MEDIAN, {"name": "wilcoxon", "n_startup_steps": 2}])
def test_a_worker_is_sent_only_what_its_run_is_compared_with(also: dict[str, Any] | None) -> None:
    """A thousand other runs of the stage change neither the verdict nor what is sent."""
    run = a_run(3.0, replicate=3)
    alike = [ended(a_run(0.1, seed), 0.3) for seed in range(4)]
    alike += [ended(a_run(3.0, seed), 1.9) for seed in range(3)]
    alike += [ended(a_run(0.1 * (i + 2), replicate=3), 0.31) for i in range(4)]
    others = [ended(a_run(0.2, seed, steps=50), 0.3) for seed in range(1000)]
    used, verdicts, sizes = pruner_of(also, behind=2.0), [], []
    for peers in (alike, alike + others):
        verdicts.append(judged(used, peers, run, 1.9))
        sent = pickle.dumps(used.only_for(run))
        sizes.append(len(sent))
        copy = pickle.loads(sent)
        study = optuna.create_study(pruner=copy)
        trial = study.ask()
        copy.start(trial.number, run, 0)
        verdicts.append(reported(trial, copy, run, 1.9))
    assert len(set(verdicts)) == 1
    assert verdicts[0][0] is not None
    assert sizes[0] == sizes[1]


def test_outcomes_taken_round_by_round_are_those_taken_at_once() -> None:
    """The best of them and the name of what was seen, which is kept with pruned trials."""
    run = a_run(0.5)
    rounds = [[ended(a_run(0.1 * i, seed), 0.3 + i / 10) for i in (5, 2, 4)] for seed in (0, 1)]
    rounds.append([ended(a_run(0.7), 0.2, "pruned", 5), ended(a_run(0.8), math.nan)])
    rounds.append([ended(a_run(0.9, steps=50), 0.1)])
    all_of_them = [outcome for outcomes in rounds for outcome in outcomes]
    grown = Peers()
    for outcomes in rounds:
        grown.add(outcomes)
    for peers in (grown, Peers(all_of_them), pickle.loads(pickle.dumps(grown))):
        seen = [(o.key, o.state, len(o.curve)) for o in all_of_them[:-1]]
        assert peers.digest(run) == hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
        assert peers.digest(a_run(0.5, steps=70)) == ""
        assert peers.best(run, 200) == pytest.approx(0.5)
        assert peers.best(run, 100) == pytest.approx(math.sqrt(CHANCE * 0.5))
        assert math.isnan(peers.best(a_run(0.5, replicate=7), 200))


# --- config


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_pruner_that_ships_can_be_chosen(file: Path) -> None:
    """pruner=<name> composes, and its values make the same config again."""
    import yaml

    config = Config.from_mapping({"pruner": yaml.safe_load(file.read_text())})
    assert Config.from_mapping(config.as_mapping()) == config
    made = build.pruner(config, CHANCE)
    if file.stem in ("clue", "none"):
        assert getattr(made, "also", None) is None
    else:
        assert made is not None
        name = type(made.also).__name__.removesuffix("Pruner").lower()
        assert name == file.stem.replace("_", "")


@pytest.mark.parametrize(
    ("pruner", "line"),
    [
        (
            {"also": {"name": "medan"}},
            "pruner.also.name: 'medan' is not allowed: must be one of median, percentile, hyperband"
            ", successive_halving, wilcoxon, patient, threshold; did you mean median?",
        ),
        ({"also": {}}, "pruner.also.name: None is not allowed: must be one of median"),
        ({"also": "median"}, "pruner.also: 'median' is not allowed: must be a mapping of keys"),
        (
            {"also": {"name": "hyperband", "max_resorce": 100}},
            "pruner.also.max_resorce: unknown key: must be one of name, min_resource, max_resource,"
            " reduction_factor, bootstrap_count; did you mean max_resource",
        ),
        (
            {"also": {"name": "hyperband", "reduction_factor": "three"}},
            "pruner.also.reduction_factor: 'three' is not allowed: must be a whole number",
        ),
        (
            {"also": {"name": "hyperband", "min_resource": 50, "max_resource": 20}},
            "pruner.also: min_resource=50 is above max_resource=20",
        ),
        (
            {"also": {"name": "hyperband", "reduction_factor": 1}},
            "pruner.also: Optuna's HyperbandPruner(min_resource=1, max_resource='auto', reduct",
        ),
        (
            {"also": {"name": "successive_halving", "min_resource": 500}},
            "pruner.also: min_resource=500: a step is a per cent of the cycle here, so choose 1 to"
            " 100",
        ),
        ({"also": {"name": "percentile"}}, "pruner.also.percentile: missing: must be given"),
        (
            {"also": {"name": "percentile", "percentile": 150}},
            "pruner.also: Optuna's PercentilePruner(percentile=150.0",
        ),
        (
            {"also": {"name": "threshold"}},
            "pruner.also: Optuna's ThresholdPruner(lower=None, upper",
        ),
        (
            {"also": {"name": "patient", "patience": 2, "wrapped_pruner": {"name": "wilcoxon"}}},
            "pruner.also.wrapped_pruner.name: 'wilcoxon' is not allowed: must be one of median",
        ),
        ({"audit": 1.5}, "pruner.audit: 1.5 is not allowed: must be at most 1"),
        ({"behind": 1}, "pruner.behind: 1 is not allowed: must be greater than 1"),
    ],
)
def test_each_mistake_in_a_pruner_is_one_line(pruner: dict[str, Any], line: str) -> None:
    """Where, what, and what is allowed; nothing runs and no stack trace is shown."""
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"pruner": pruner})
    (problem,) = caught.value.lines
    assert problem.startswith(line)
    assert "\n" not in problem


def test_a_run_is_stuck_beside_finished_ones_of_its_seed_and_length() -> None:
    """Whatever `behind` is; what it was compared with is kept with the trial."""
    pruner, run = pruner_of(None), a_run(3.0)
    others = [ended(a_run(0.1, replicate=1), 0.3), ended(a_run(0.1, steps=50), 0.3)]
    assert judged(pruner, others, run, CHANCE) == (None, "")
    seen = pruner.seen(run, 0)
    at, reason = judged(pruner, [*others, ended(a_run(0.1), 0.3)], run, CHANCE)
    assert at == 35
    assert reason.startswith("stuck: 3 points in a row at the untrained loss")
    assert pruner.seen(run, 0) != seen
