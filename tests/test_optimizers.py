"""Optimisers other than SGD: what a step does, what a run of them keeps, how they are asked for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim import Optimizer
from trainings import objective

from orchestrator import build
from orchestrator.config.optimizer import (
    AdamWConfig,
    AnyOptimizer,
    OptimizerConfig,
    OwnOptimizerConfig,
)
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.objectives import StopRun
from orchestrator.recipe import Facts, Recipe, Run
from orchestrator.report.snippet import pytorch
from orchestrator.schedules import Schedule
from orchestrator.stages.final import Final
from orchestrator.stages.weight_decay import WeightDecay
from orchestrator.testing import FakeSession
from orchestrator.training.trainer import Trainer

NET = OwnConfig(_target_="trainings.Hard")
PAPER = Schedule("paper", 1e-4, 1e-3, 0.85, 0.95)
FACTS = Facts(train_examples=1000, held_out_examples=200, chance_loss=2.3, final_epochs=10)


def a_run(**changes: Any) -> Run:
    told: dict[str, Any] = {"weight_decay": 0.1, "batch_size": 32, "steps": 12, "replicate": 0}
    return Run("train", PAPER, **{**told, "points": 2, **changes})


def own(name: str, **arguments: Any) -> OwnOptimizerConfig:
    return OwnOptimizerConfig(_target_=name, **arguments)


def no_optimizer(params: object) -> int:
    """A user's function that gives something else."""
    return 3


class NoDecay(Optimizer):
    """An optimiser without weight decay."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})


OPTIMIZERS: dict[str, AnyOptimizer] = {
    "adamw": AdamWConfig(),
    "rmsprop": own("torch.optim.RMSprop", alpha=0.9),
    "nadam": own("torch.optim.NAdam", decoupled_weight_decay=True),
    "adagrad": own("torch.optim.Adagrad"),
}


def test_the_steps_are_those_of_torch_adamw() -> None:
    """lr and beta1 follow the schedule, weight decay is decoupled."""
    trainer = Trainer(objective(optimizer=AdamWConfig(beta2=0.99))._setup, a_run())
    twin = Trainer(objective(optimizer=AdamWConfig(beta2=0.99))._setup, a_run())
    plain = torch.optim.AdamW(twin.model.parameters(), betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(6):
        lr, momentum = PAPER.at(step / 12)
        plain.param_groups[0].update(lr=lr, betas=(momentum, 0.99))
        x, y = next(twin.batches)
        plain.zero_grad()
        nn.functional.cross_entropy(twin.model(x), y).backward()
        plain.step()
    trainer.advance(6)
    for mine, its in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_run_is_bit_equal(optimizer: AnyOptimizer) -> None:
    """Cut after a report and gone on: losses, model and the state of the optimiser."""
    run = a_run(opens_test=True)
    whole = FakeSession(run)
    objective(model=NET, optimizer=optimizer)(run, whole)
    cut = FakeSession(run, stop_at=1)
    with pytest.raises(StopRun):
        objective(model=NET, optimizer=optimizer)(run, cut)
    resumed = FakeSession(run, cut.checkpoint)
    objective(model=NET, optimizer=optimizer)(run, resumed)
    assert resumed.points[:1] == cut.points  # their seconds, too: not trained again
    assert [p.held_out_loss for p in resumed.points] == [p.held_out_loss for p in whole.points]
    assert resumed.model == whole.model


def test_the_optimizer_is_part_of_the_key() -> None:
    """SGD's key is as it always was; each other one has a key of its own."""
    made = [objective(optimizer=o) for o in (OptimizerConfig(), *OPTIMIZERS.values())]
    assert made[0].context(a_run())["optimizer"] == {"name": "sgd", "nesterov": True}
    assert len({a_run().key(m.context(a_run())) for m in made}) == len(made)
    assert made[1].context(a_run())["optimizer"] == {"name": "adamw"}


def test_what_decays_by_itself_is_not_counted_on() -> None:
    """Parameters that are not to decay say so: AdamW has a decay of its own."""
    options = AdamWConfig(decay_norms_and_biases=False)
    trainer = Trainer(objective(model=NET, optimizer=options)._setup, a_run())
    assert [g["weight_decay"] for g in trainer.optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"name": "adamw", "nesterov": True}, "optimizer.nesterov: unknown key"),
        ({"name": "adamw", "beta2": 1}, "optimizer.beta2: 1 is not allowed: must be less than 1"),
        ({"name": "adamw", "eps": 0}, "optimizer.eps: 0 is not allowed: must be greater than 0"),
        ({"name": "adam"}, "optimizer.name: 'adam' is not allowed: must be one of sgd, adamw"),
        ({"_target_": "torch.optim.Nope"}, "optimizer._target_: torch.optim.Nope: torch.optim has"),
        ({"_target_": "torch.optim.Adam", "bets": 1}, "optimizer._target_: torch.optim.Adam takes"),
        ({"_target_": "torch.optim.Adam", "ema": 2}, "optimizer.ema: 2 is not allowed"),
    ],
)
def test_wrong_requests_are_one_line(section: dict[str, Any], line: str) -> None:
    """Keys of another optimiser, values out of range, names of nothing."""
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"optimizer": section})
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (f"{__name__}.no_optimizer", "returns a int, not an Optimizer"),
        (f"{__name__}.NoDecay", "has no weight_decay, which the recipe sets"),
        ("torch.optim.LBFGS", "has no weight_decay, which the recipe sets"),
    ],
)
def test_an_own_optimizer_that_cannot_be_used_is_told_at_the_start(target: str, line: str) -> None:
    """Before any trial, and by name."""
    with pytest.raises(ConfigError, match=f"optimizer {target}: {line}"):
        objective(optimizer=own(target))


@pytest.mark.parametrize(
    ("section", "back"),
    [
        ({"name": "adamw", "beta2": 0.95}, {"name": "adamw", "beta2": 0.95}),
        (
            {"_target_": "torch.optim.RMSprop", "alpha": 0.9, "ema": 0.99},
            {"_target_": "torch.optim.RMSprop", "ema": 0.99, "alpha": 0.9},
        ),
    ],
)
def test_the_recipe_brings_the_optimizer_back(
    section: dict[str, Any], back: dict[str, Any], file_of: Callable[[Recipe], str]
) -> None:
    """recipe.yaml has it as it was asked for, without what is SGD's alone."""
    config = Config.from_mapping({"optimizer": section})
    written = yaml.safe_load(file_of(build.recipe(config, FACTS)))
    assert written["optimizer"] == back
    assert Config.from_mapping({"optimizer": written["optimizer"]}).optimizer == config.optimizer


@pytest.fixture
def file_of() -> Callable[[Recipe], str]:
    from orchestrator.record import StudyRecord
    from orchestrator.study.results import recipe_file

    return lambda recipe: recipe_file(
        StudyRecord("s", "complete", recipe, [], "cpu", "here", {}, None, True, 1.0)
    )


@pytest.mark.parametrize(("epochs", "written"), [(40.0, 40), (0.5, 0.5)])
def test_the_recipe_is_for_final_runs_of_a_length(epochs: float, written: float) -> None:
    """recipe.yaml holds it: another length would want another recipe."""
    from orchestrator.record import StudyRecord
    from orchestrator.study.results import recipe_file

    record = StudyRecord("s", "complete", Recipe(), [], "cpu", "here", {}, None, True, 1.0)
    text = recipe_file(replace(record, final_epochs=epochs))
    assert yaml.safe_load(text)["stages"] == {"final": {"epochs": written}}
    assert "stages" not in yaml.safe_load(recipe_file(record))


def test_the_recipe_of_adamw_can_be_composed(here: Path, file_of: Callable[[Recipe], str]) -> None:
    """As a study of Hydra's, over a default that is SGD."""
    from orchestrator.config.compose import compose, parse

    recipe = build.recipe(Config.from_mapping({"optimizer": {"name": "adamw", "eps": 1e-6}}), FACTS)
    (here / "conf/study").mkdir(parents=True)
    (here / "conf/study/mine.yaml").write_text(file_of(recipe))
    composed = compose(parse(["+study=[digits,mine]"]))
    assert composed is not None
    assert Config.from_mapping(composed).optimizer == AdamWConfig(eps=1e-6)


def test_the_snippet_trains_with_adamw() -> None:
    """The pasted code runs, and sets lr and beta1."""
    recipe = Recipe(max_lr=1e-2, optimizer="adamw", optimizer_options={"beta2": 0.9})
    code = pytorch(recipe, 2.0)
    assert code is not None
    model = nn.Linear(3, 2)
    loader = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))] * 3
    space = {"model": model, "loader": loader, "loss_function": nn.CrossEntropyLoss()}
    exec(code, space)
    group = space["optimizer"].param_groups[0]  # type: ignore[attr-defined]
    assert group["betas"][0] == space["rates"](5 / 6)[1]  # type: ignore[operator]
    assert group["betas"][1] == 0.9
    assert group["weight_decay"] == 5e-4
    assert pytorch(Recipe(max_lr=1e-2, optimizer="torch.optim.Adam"), 2.0) is None


def test_defaults_that_are_sgds_give_way() -> None:
    """AdamW has decays of its own to try, and an untuned baseline that makes sense."""
    recipe = Recipe(max_lr=1e-2, optimizer="adamw")
    assert WeightDecay(name="w", facts=FACTS).grid(recipe) == [0.1, 0.01, 0.001, 0.0]
    assert WeightDecay(name="w", facts=FACTS, preset="large").grid(recipe)[0] == 1e-4
    untuned = Final(name="final", facts=FACTS)._recipes(recipe)["untuned"]
    assert (untuned.max_lr, untuned.weight_decay, untuned.optimizer) == (1e-3, 0.01, "adamw")
