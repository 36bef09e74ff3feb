"""A training function of the user's own as an objective."""

from __future__ import annotations

import difflib
import gc
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import orchestrator
from orchestrator import Trial, tune
from orchestrator import __main__ as cli
from orchestrator.config import user_code
from orchestrator.config.options import OwnConfig
from orchestrator.config.user_modules import code_of
from orchestrator.curve import Result
from orchestrator.errors import ConfigError
from orchestrator.objectives import StopRun
from orchestrator.recipe import Recipe, Run
from orchestrator.schedules import Schedule
from orchestrator.testing import FakeSession, execute
from orchestrator.training.function.measure import summed_up
from orchestrator.training.function.objective import FunctionObjective, FunctionSettings

ROOT = Path(__file__).parent.parent
CONSTANT = Schedule("constant", 0.1, 0.1, 0.8, 0.8)
QUICK = ["tracking=none", "threads=1", "plan=[lr_range,final]", "stages.final.seeds=1"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples(count: int = 600) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(5))
    return x, (2 * x[:, :3]).argmax(1)


X, Y = examples()
TRAIN, HELD_OUT, TEST = slice(0, 400), slice(400, 500), slice(500, 600)


def held_out_loss(model: nn.Module, part: slice = HELD_OUT) -> Tensor:
    with torch.no_grad():
        return nn.functional.cross_entropy(model.eval()(X[part]), Y[part])


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def update(trial: Trial, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    """One step of a plain loop, on a random batch."""
    trial.apply(optimizer, step)
    rows = torch.randint(400, (trial.batch_size,))
    loss = nn.functional.cross_entropy(model.train()(X[rows]), Y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def train(trial: Trial, width: int = 16) -> Result:
    """A loop that does all as it should."""
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
    optimizer = sgd(model)
    for step in range(trial.steps):
        loss = update(trial, model, optimizer, step)
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=held_out_loss(model))
    return trial.result(test=lambda: held_out_loss(model, TEST), model=model)


def objective(function: Callable[..., object] = train, **settings: Any) -> FunctionObjective:
    own = OwnConfig(_target_=user_code.named(function))
    given = {"steps": 60, "batch_size": 20, **settings}
    return FunctionObjective(function, FunctionSettings(own, **given))


def run(**changes: Any) -> Run:
    given: dict[str, Any] = {"kind": "train", "schedule": CONSTANT, "weight_decay": 1e-3}
    given |= {"batch_size": 20, "steps": 40, "replicate": 0, "points": 4}
    return Run(**{**given, **changes})


def looping(body: Callable[..., Any], ending: str = "result") -> Callable[[Trial], object]:
    """Return a training function whose reports are those of `body(trial, step, loss, model)`."""

    def function(trial: Trial) -> object:
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            body(trial, step, update(trial, model, optimizer, step), model)
        return getattr(trial, ending)() if ending else None

    return function


def reported(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
    if trial.due(step):
        trial.report(step, train_loss=loss, held_out_loss=held_out_loss(model))


# --- what is found out


def test_what_a_function_does_not_say_is_found_out() -> None:
    """Untrained loss, optimiser, lengths in steps: from two steps of it."""
    facts = objective().facts
    assert facts.chance_loss == pytest.approx(math.log(3), rel=0.3)
    assert (facts.optimizer, facts.nesterov, facts.metric) == ("sgd", True, None)
    assert facts.steps(0.5, 20) == 30
    assert facts.steps(1, 40) == 30
    assert facts.final_epochs == 1
    assert objective(train_examples=400).facts.final_epochs == 3


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: torch.optim.AdamW(p, lr=1e-3), "adamw"),
        (lambda p: torch.optim.RMSprop(p, lr=1e-3), "torch.optim.rmsprop.RMSprop"),
    ],
)
def test_the_recipe_names_the_functions_optimiser(make: Callable[..., Any], name: str) -> None:
    """One of ours by its name there, another one by where it is from."""

    def function(trial: Trial) -> Result:
        model = net()
        optimizer = make(model.parameters())
        for step in range(trial.steps):
            reported(trial, step, update(trial, model, optimizer, step), model)
        return trial.result()

    facts = objective(function).facts
    assert (facts.optimizer, facts.nesterov) == (name, False)


def test_a_run_reports_where_it_is_due_and_is_repeatable() -> None:
    """The points have the rates of their steps; the same run gives the same; seeds differ."""
    trains = objective()
    first, again, other = (execute(trains, run(replicate=r)) for r in (0, 0, 1))
    assert first.curve.step.tolist() == [10, 20, 30, 40]
    assert set(first.curve.lr) == {0.1}
    assert set(first.curve.momentum) == {0.8}
    assert first.curve.held_out_loss.tolist() == again.curve.held_out_loss.tolist()
    assert first.held_out_loss != other.held_out_loss
    assert first.held_out_loss < trains.facts.chance_loss
    assert first.result.seconds > 0
    assert first.result.examples == 800
    assert math.isnan(first.result.test_loss)


def test_the_test_is_called_only_where_it_is_opened() -> None:
    """`test` runs in no other run; its result and the model are kept."""
    called = []

    def function(trial: Trial) -> Result:
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            reported(trial, step, update(trial, model, optimizer, step), model)
        return trial.result(test=lambda: (called.append(1), (0.5, 0.9))[1], model=model)

    trains = objective(function)
    assert execute(trains, run()).state == "finished"
    assert called == []
    session = FakeSession(asked := run(opens_test=True))
    result = trains(asked, session)
    assert (result.test_loss, result.test_metric, called) == (0.5, 0.9, [1])
    assert session.model is not None


def test_a_metric_has_the_name_that_it_is_reported_by() -> None:
    """`accuracy=...` beside the losses is the study's metric."""

    def body(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
        if trial.due(step):
            trial.report(step, train_loss=loss, held_out_loss=held_out_loss(model), f1=0.25)

    trains = objective(looping(body), larger_is_better=False)
    assert (trains.facts.metric, trains.facts.larger_is_better) == ("f1", False)
    assert execute(trains, run()).metric == 0.25


def test_the_end_may_have_another_loss() -> None:
    """The held-out loss of `result`, of averaged weights say, is that of the last point."""

    def function(trial: Trial) -> Result:
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            reported(trial, step, update(trial, model, optimizer, step), model)
        return trial.result(held_out_loss=0.125)

    done = execute(objective(function), run())
    assert done.held_out_loss == 0.125
    assert len(done.curve) == 4


def test_groups_keep_their_ratios_and_decays() -> None:
    """A tenth of the rate stays a tenth, half of the decay half of it, and no decay none."""
    seen: dict[str, list[float]] = {}

    def function(trial: Trial) -> Result:
        model = net()
        groups = [
            {"params": model[0].parameters(), "lr": 0.01, "weight_decay": 0.1},
            {"params": [model[2].weight], "weight_decay": 0.05},
            {"params": [model[2].bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.001)
        for step in range(trial.steps):
            loss = update(trial, model, optimizer, step)
            for key in ("lr", "weight_decay"):
                seen[key] = [group[key] for group in optimizer.param_groups]
            seen["betas"] = [group["betas"] for group in optimizer.param_groups]
            reported(trial, step, loss, model)
        return trial.result()

    execute(objective(function), run(weight_decay=0.02))
    assert seen["lr"] == pytest.approx([0.1, 0.01, 0.01])
    assert seen["weight_decay"] == pytest.approx([0.02, 0.01, 0])
    assert seen["betas"] == [(0.8, 0.999)] * 3


def test_without_a_decay_of_their_own_all_groups_get_the_studys() -> None:
    """A plain SGD says 0: that is no choice of its user."""
    decays = []

    def body(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
        decays.extend(group["weight_decay"] for group in trial.groups.optimizer.param_groups)
        reported(trial, step, loss, model)

    execute(objective(looping(body)), run(weight_decay=0.02))
    assert set(decays[-40:]) == {0.02}


def test_the_callers_random_states_are_left_alone() -> None:
    """Each trial seeds Python's, NumPy's and torch's, and gives them back."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    execute(objective(), run())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


# --- mistakes


def carried_over() -> Callable[[Trial], object]:
    model = net()

    def function(trial: Trial) -> Result:
        optimizer = sgd(model)
        for step in range(trial.steps):
            reported(trial, step, update(trial, model, optimizer, step), model)
        return trial.result()

    return function


def shuffled_otherwise() -> Callable[[Trial], object]:
    generator = torch.Generator().manual_seed(0)

    def function(trial: Trial) -> Result:
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            trial.apply(optimizer, step)
            rows = torch.randint(400, (trial.batch_size,), generator=generator)
            loss = nn.functional.cross_entropy(model(X[rows]), Y[rows])
            loss.backward()
            optimizer.step()
            reported(trial, step, loss, model)
        return trial.result()

    return function


def of_fixed_length(trial: Trial) -> Result:
    model = net()
    optimizer = sgd(model)
    for step in range(50):
        reported(trial, step, update(trial, model, optimizer, step), model)
    return trial.result()


def without_rates(trial: Trial) -> Result:
    model = net()
    for step in range(trial.steps):
        reported(trial, step, torch.ones(()), model)
    return trial.result()


def two_optimizers(trial: Trial) -> Result:
    first, second = net(), net()
    one, two = sgd(first), torch.optim.Adam(second.parameters())
    for step in range(trial.steps):
        trial.apply(one, step)
        trial.apply(two, step)
    return trial.result()


def without_memory(trial: Trial) -> Result:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def wrong(trial: Trial) -> Result:
    return 1 + ""  # type: ignore[operator, no-any-return]


def given(loss: float, **more: Any) -> Callable[..., None]:
    def body(trial: Trial, step: int, _: Tensor, model: nn.Module) -> None:
        if trial.due(step):
            trial.report(step, train_loss=1.0, held_out_loss=loss, **more)

    return body


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (looping(lambda *_: None), r"returned without a report: call trial.report\(...\) where"),
        (looping(given(math.nan)), "held-out loss of nan before any training: it must be finite"),
        (looping(given(0.0)), "held-out loss of 0 before any training: it must be finite and abov"),
        (looping(given(-1.0)), "held-out loss of -1: it must not be below 0"),
        (looping(given(1.0, a=1, b=2)), "reports a, b: give one metric at most"),
        (looping(reported, ""), r"must return trial.result\(...\), got NoneType"),
        (of_fixed_length, r"goes on to step 2 after step 1 of 2: loop over range\(trial.steps\)"),
        (without_rates, r"never calls trial.apply\(optimizer, step\)"),
        (two_optimizers, r"one trial to two optimisers \(SGD and Adam\): a study searches one max"),
        (carried_over(), "begins with another network in a second run of one seed"),
        (shuffled_otherwise(), "trains otherwise in a second run of one seed"),
        (without_memory, "runs out of memory with batch size 20: choose a smaller one"),
        (wrong, r"raised TypeError: .* \(test_function.py, line \d+\)"),
    ],
)
def test_a_mistake_is_one_line_before_the_study(function: Callable[..., Any], line: str) -> None:
    """It names the function and ends in what to do."""
    with pytest.raises(ConfigError, match=line) as caught:
        objective(function)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"{__name__}.")


def test_a_plan_that_the_function_cannot_follow_is_refused() -> None:
    """No test for a final stage, a fixed batch size for a stage that compares sizes."""

    def fixed(trial: Trial) -> Result:
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            trial.apply(optimizer, step)
            loss = nn.functional.cross_entropy(model(X[:20]), Y[:20])
            loss.backward()
            optimizer.step()
            reported(trial, step, loss, model)
        return trial.result()

    with pytest.raises(ConfigError, match=r"gives no test: return trial\.result"):
        objective(fixed, opens_test=True)
    with pytest.raises(ConfigError, match=r"does not read trial\.batch_size: leave the batch_size"):
        objective(fixed, compares_sizes=True)


def test_a_function_that_knows_no_seed_is_told() -> None:
    """Its seeds would be one: noise that is not there."""

    def function(trial: Trial) -> Result:
        torch.manual_seed(0)
        return train(trial)

    assert any("two seeds" in note for note in objective(function).describe().notes)
    assert not any("two seeds" in note for note in objective().describe().notes)


def test_a_report_that_is_not_due_is_refused() -> None:
    """Where to report is the study's choice: it pays for each."""

    def body(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
        trial.report(step, train_loss=loss, held_out_loss=held_out_loss(model))

    with pytest.raises(ConfigError, match=r"report only where trial.due\(step\), next at step 9"):
        objective(looping(body))(run(), FakeSession(run()))


# --- what happens to runs


def test_a_run_that_is_lost_ends_there() -> None:
    """A loss that is not finite is its last point; the run counts as finished, and lost."""
    schedule = Schedule("constant", 1e8, 1e8, 0.9, 0.9)
    done = execute(objective(), run(schedule=schedule, steps=200, points=20))
    assert done.held_out_loss == math.inf
    assert len(done.curve) < 20


def test_a_loss_of_0_is_next_to_nothing() -> None:
    """Losses are compared by factors."""

    def body(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
        if trial.due(step):
            trial.report(step, train_loss=1.0, held_out_loss=0.0 if step else 2.0)

    done = execute(objective(looping(body)), run())
    assert 0 < done.held_out_loss < 1e-6


def test_evaluations_are_not_training_time() -> None:
    """What passes between `due` and `report`, asked once or twice, is told apart."""

    def body(trial: Trial, step: int, loss: Tensor, model: nn.Module) -> None:
        if trial.due(step):
            assert trial.due(step)
            time.sleep(0.1)
            trial.report(step, train_loss=1.0, held_out_loss=held_out_loss(model))

    result = execute(objective(looping(body)), run()).result
    assert result.seconds < 0.4 <= result.evaluation_seconds < 0.8


def test_a_run_that_runs_out_of_memory_says_so(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After it has begun: here it is the final run."""

    def mine(trial: Trial) -> Result:
        if trial.batch_size == 20 and trial.steps > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return train(trial)

    record = tune(
        mine, steps=120, batch_size=20, overrides=[*QUICK, "recipe.max_lr=0.1"], quiet=True
    )
    assert record.status == "failed"
    assert "a smaller recipe.batch_size may fit" in record.reason
    assert "out of memory" in Path("runs/mine/study.log").read_text()


def test_a_run_is_stopped_from_outside() -> None:
    """What a report raises passes through the function."""
    session = FakeSession(run(), stop_at=2)
    with pytest.raises(StopRun, match="stop_at"):
        objective()(run(), session)
    assert [point.step for point in session.points] == [10, 20]


def saving(steps: list[int]) -> Callable[[Trial], Result]:
    """Return a training function with `save` and `load` that notes its steps."""

    def function(trial: Trial) -> Result:
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.Linear(16, 3))
        optimizer = torch.optim.SGD(
            [{"params": [*model.parameters()][:2]}, {"params": model[2].parameters(), "lr": 0.01}],
            lr=0.1,
        )
        for step in range(trial.load(model=model, optimizer=optimizer), trial.steps):
            reported(trial, step, update(trial, model, optimizer, step), model)
            steps.append(step)
            trial.save(step, model=model, optimizer=optimizer)
        return trial.result(test=lambda: sum(p.sum() for p in model.parameters()))

    return function


def test_a_function_that_saves_its_end_is_tested_without_training_again() -> None:
    """The sealed run has the reports and the network of the kept one; without `save` it trains."""
    steps: list[int] = []
    trains, kept = objective(saving(steps)), run(kept=True)
    assert trains.describe().continues
    assert not objective(train).describe().continues
    ended = FakeSession(kept)
    trains(kept, ended)
    steps.clear()
    sealed, whole = replace(kept, opens_test=True), FakeSession(kept)
    tested = FakeSession(sealed, ended.checkpoint)
    again = trains(sealed, tested)
    assert steps == []
    assert [p.held_out_loss for p in tested.points] == [p.held_out_loss for p in ended.points]
    assert again.test_loss == trains(sealed, whole).test_loss
    assert len(steps) == kept.steps


def test_a_run_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `save` and `load` a run that was interrupted ends like one that was not, bit for bit."""
    monkeypatch.setattr("orchestrator.training.checkpoint.INTERVAL_SECONDS", -1.0)
    steps: list[int] = []
    trains = objective(saving(steps))
    asked = run(schedule=Schedule("paper", 0.01, 0.1, 0.8, 0.9))
    whole, cut = FakeSession(asked), FakeSession(asked, stop_at=3, stop=KeyboardInterrupt())
    trains(asked, whole)
    with pytest.raises(KeyboardInterrupt):
        trains(asked, cut)
    steps.clear()
    resumed = FakeSession(asked, cut.checkpoint)
    trains(asked, resumed)
    assert steps[0] > 0
    assert [(p.step, p.held_out_loss) for p in resumed.points] == [
        (p.step, p.held_out_loss) for p in whole.points
    ]


def test_memory_is_tried_out() -> None:
    """A size that runs out of memory does not fit, nor do those above; nothing else is tried."""
    tried = []

    def function(trial: Trial) -> Result:
        tried.append(trial.batch_size)
        if trial.batch_size >= 200:
            raise MemoryError
        return train(trial)

    trains = objective(function)
    tried.clear()
    measured = trains(run(kind="probe", batch_sizes=(20, 200, 400)), FakeSession(run())).measured
    assert measured["fits"] == {"20": True, "200": False, "400": False}
    assert tried == [20, 200]


def test_steps_are_timed() -> None:
    """Each batch size has its seconds per step, without those of making the model."""

    def function(trial: Trial) -> Result:
        time.sleep(0.05)
        model = net()
        optimizer = sgd(model)
        for step in range(trial.steps):
            time.sleep(trial.batch_size * 1e-4)
            reported(trial, step, update(trial, model, optimizer, step), model)
        return trial.result()

    asked = run(kind="calibrate", batch_sizes=(20, 80), timed=True)
    measured = objective(function)(asked, FakeSession(asked)).measured
    assert 0.002 <= measured["seconds_per_step"]["20"] < 0.02
    assert measured["seconds_per_step"]["80"] > measured["seconds_per_step"]["20"]
    assert set(measured["spread"]) == {"20", "80"}


def test_a_slow_round_does_not_move_the_ratio_of_two_sizes() -> None:
    """Times are medians over the rounds, of ratios to the first size."""
    measured: Any = summed_up((20, 80), [[1.0, 2.0], [5.0, 10.0], [1.0, 2.0]])
    assert measured["seconds_per_step"] == {"20": 1.0, "80": 2.0}
    assert measured["spread"] == {"20": 0.0, "80": 0.0}


# --- whole studies


@pytest.mark.usefixtures("here", "without_figures")
def test_tune_finds_a_recipe_for_a_local_function(capsys: pytest.CaptureFixture[str]) -> None:
    """From Python, the study is called after the function; the same call trains nothing again."""
    trials = 0

    def mine(trial: Trial) -> Result:
        nonlocal trials
        trials += 1
        return train(trial)

    record = tune(mine, steps=150, batch_size=20, overrides=QUICK, quiet=True)
    assert record.status == "complete"
    assert record.folder == Path("runs/mine")
    assert record.recipe.batch_size == 20
    assert 0.01 < record.recipe.max_lr < 10
    summary = record.summary()
    assert summary["final"]["test_loss"]["mean"] < 0.8 < math.log(3)
    assert Path("runs/mine/model.pt").is_file()
    assert capsys.readouterr() == ("", "")
    trials = 0
    assert tune(mine, steps=150, batch_size=20, overrides=QUICK, quiet=True).recipe == record.recipe
    assert trials == 3  # the rehearsal


@pytest.mark.usefixtures("without_figures")
def test_a_training_function_on_the_command_line(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, with an argument of its own and the study's settings beside it."""
    (here / "mytrain.py").write_text(
        "from test_function import train as theirs\n"
        "def train(trial, width):\n    assert width == 8\n    return theirs(trial, width)\n"
    )
    monkeypatch.syspath_prepend(here)
    words = ["objective._target_=mytrain.train", "objective.width=8", "objective.steps=120"]
    more = ["recipe.batch_size=20", "objective.train_examples=400", "study_name=x", "quiet=true"]
    assert cli.run([*words, *more, *QUICK]) == 0
    summary = json.loads((here / "runs/x/summary.json").read_text())
    assert summary["final"]["epochs"] == 6
    assert "mytrain.train trains 120 steps" in summary["notes"][0]
    del sys.modules["mytrain"]


@pytest.mark.usefixtures("here")
def test_the_steps_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else says how long a final run is."""
    with pytest.raises(ConfigError, match=r"objective\.steps: must be given with test_function"):
        orchestrator.run_study({"objective": {"_target_": "test_function.train"}})


@pytest.mark.usefixtures("here")
def test_a_local_function_is_not_for_other_processes() -> None:
    """A worker could not import it."""

    def mine(trial: Trial) -> Result:
        return train(trial)

    with pytest.raises(ConfigError, match=r"'processes' cannot import .*mine: put the function"):
        tune(mine, steps=100, batch_size=20, overrides=["executor=processes"])


@pytest.mark.parametrize("given", [lambda t: t, Recipe, 3])
def test_what_is_no_training_function_is_refused(given: Any) -> None:
    """Its first argument is called trial."""
    with pytest.raises(ConfigError, match="must be a function whose first argument is called tri"):
        tune(given, steps=100, batch_size=20)


def test_a_function_trains_by_a_recipe_alone() -> None:
    """What a study found is trained without one; seeded, with the test where it is asked for."""
    recipe = Recipe(max_lr=0.1, batch_size=20)
    trial = orchestrator.trial_of(recipe, steps=80, seed=3, test=True)
    result = train(trial)
    assert len(trial.points) == 20
    assert max(point.lr for point in trial.points) == pytest.approx(0.1, rel=0.1)
    assert result.test_loss < 1
    again = train(orchestrator.trial_of(recipe, steps=80, seed=3))
    assert math.isnan(again.test_loss)


def test_what_a_local_function_captures_is_part_of_its_code() -> None:
    """Another value, another helper: other results; where it is written does not matter."""

    def made(width: int, helper: Callable[[], int]) -> Callable[[Trial], int]:
        def function(trial: Trial) -> int:
            return width + helper()

        return function

    def code(function: Callable[[Trial], int]) -> str:
        return code_of(user_code.named(function)).source

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    assert code(made(1, one)) == code(made(1, one))
    assert len({code(made(1, one)), code(made(2, one)), code(made(1, two))}) == 3


def test_a_cell_of_a_notebook_is_known_by_what_it_does() -> None:
    """Without a file: the helper that it calls, the class and the number that it uses."""

    def code(number: int, helper: str) -> str:
        text = f"N = {number}\nclass Net:\n    def f(self): return {helper}\n"
        text += "def helper(): return Net().f() + N\ndef cell(trial): return helper()\n"
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(text, names)
        from orchestrator.config.captured import captured

        return captured(names["cell"])

    assert code(1, "1") == code(1, "1")
    assert len({code(1, "1"), code(2, "1"), code(1, "2")}) == 3


def test_a_name_goes_with_its_function() -> None:
    """Nothing is kept of a function that nobody has any more."""

    def mine(trial: Trial) -> None: ...

    name = user_code.named(mine)
    assert user_code.resolve(name) is mine
    del mine
    gc.collect()
    assert not user_code.is_given(name)


# --- the example


def test_ten_lines_of_a_plain_loop_change() -> None:
    """The example before and after: lines added, changed or taken away."""
    folder = ROOT / "examples/plain_loop"
    before, after = ((folder / f"{n}.py").read_text().splitlines() for n in ("before", "after"))
    changes = difflib.SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes()
    changed = sum(max(b - a, d - c) for kind, a, b, c, d in changes if kind != "equal")
    assert 0 < changed <= 10
