"""Optimisers other than SGD: what a step does, what a run of them keeps, how they are asked for."""

import copy
import math
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

from orchestrator import build, lr_range_test
from orchestrator.config.optimizer import (
    AdamWConfig,
    AnyOptimizer,
    MuonConfig,
    OptimizerConfig,
    OwnOptimizerConfig,
)
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.objectives import StopRun
from orchestrator.recipe import Facts, Recipe, Run, usual_weight_decay
from orchestrator.report.snippet import pytorch
from orchestrator.schedules import Schedule
from orchestrator.stages.expected.lr_search import LRSearch
from orchestrator.stages.final import Final
from orchestrator.stages.stage import schedule_of
from orchestrator.stages.weight_decay import WeightDecay
from orchestrator.testing import FakeSession
from orchestrator.training.muon import MuonAdamW, matrices
from orchestrator.training.optimizer import set_rates
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
    "muon": MuonConfig(),
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
    run, net = a_run(opens_test=True), NET
    if isinstance(optimizer, MuonConfig):
        net = OwnConfig(_target_=f"{__name__}.deep")
    whole = FakeSession(run)
    objective(model=net, optimizer=optimizer)(run, whole)
    cut = FakeSession(run, stop_at=1)
    with pytest.raises(StopRun):
        objective(model=net, optimizer=optimizer)(run, cut)
    resumed = FakeSession(run, cut.checkpoint)
    objective(model=net, optimizer=optimizer)(run, resumed)
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
        (
            {"name": "adam"},
            "optimizer.name: 'adam' is not allowed: must be one of sgd, adamw, muon",
        ),
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
        ({"name": "muon", "eps": 1e-6}, {"name": "muon", "eps": 1e-6}),
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


@pytest.mark.parametrize("optimizer", [AdamWConfig(eps=1e-6), MuonConfig(eps=1e-6)])
def test_the_recipe_can_be_composed(
    optimizer: AdamWConfig | MuonConfig, here: Path, file_of: Callable[[Recipe], str]
) -> None:
    """As a study of Hydra's, over a default that is SGD."""
    from orchestrator.config.compose import compose, parse

    section = {"name": optimizer.name, "eps": 1e-6}
    recipe = build.recipe(Config.from_mapping({"optimizer": section}), FACTS)
    (here / "conf/study").mkdir(parents=True)
    (here / "conf/study/mine.yaml").write_text(file_of(recipe))
    composed = compose(parse(["+study=[digits,mine]"]))
    assert composed is not None
    assert Config.from_mapping(composed).optimizer == optimizer


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


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_defaults_that_are_sgds_give_way(name: str) -> None:
    """Optimisers with decoupled decay have decays to try, and an untuned baseline, of their own."""
    recipe = Recipe(max_lr=1e-2, optimizer=name)
    assert WeightDecay(name="w", facts=FACTS).grid(recipe) == [0.1, 0.01, 0.001, 0.0]
    assert WeightDecay(name="w", facts=FACTS, preset="large").grid(recipe)[0] == 1e-4
    untuned = Final(name="final", facts=FACTS)._recipes(recipe)["untuned"]
    assert (untuned.max_lr, untuned.weight_decay, untuned.optimizer) == (1e-3, 0.01, name)
    assert usual_weight_decay(name, FACTS) == 0.01


class Tokens(nn.Module):
    """Every kind of parameter: embedding, places, attention, norms, a convolution, the last layer.

    The embedding and the last layer are no hidden layers, places are no weights of one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(5, 4), nn.Parameter(torch.zeros(3, 4))
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(
            self.layer(self.conv(self.tokens(x) + self.places)).mean(1)
        )
        return scores


def test_muon_takes_the_matrices_of_hidden_layers() -> None:
    """AdamW all others; frozen ones are nobody's; biases and norms may go without decay."""
    model = Tokens()
    model.layer.linear1.weight.requires_grad_(False)
    names = {p: name for name, p in model.named_parameters()}
    made = MuonAdamW(model, weight_decay=0.1, decay_norms_and_biases=False)
    groups = [{names[p] for p in group["params"]} for group in made.param_groups]
    assert groups[0] == {
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.out_proj.weight",
        "layer.linear2.weight",
    }
    assert groups[1] == {"tokens.weight", "places", "conv.weight", "head.weight"}
    assert all(model.get_parameter(name).ndim == 1 for name in groups[2])
    assert sum(map(len, groups)) == len(names) - 1
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.1, 0.0]


def test_a_step_is_that_of_torchs_two_optimizers() -> None:
    """At the rates that are set on its groups, also after its state was loaded."""
    models = [Tokens(), Tokens(), Tokens()]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    made = MuonAdamW(models[0], momentum=0.9)
    known = set(matrices(models[1]))
    plain = [
        torch.optim.Muon(list(known), 1e-3, 0.01, 0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [p for p in models[1].parameters() if p not in known], 1e-3, (0.9, 0.999)
        ),
    ]
    x, y = torch.randint(5, (6, 3)), torch.randint(2, (6,))

    def step(model: nn.Module, *optimizers: Optimizer, lr: float) -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    for lr in (1e-3, 3e-3):
        step(models[0], made, lr=lr)
        step(models[1], *plain, lr=lr)
    models[2].load_state_dict(models[0].state_dict())
    loaded = MuonAdamW(models[2])
    loaded.load_state_dict(copy.deepcopy(made.state_dict()))
    step(models[0], made, lr=2e-3)
    step(models[1], *plain, lr=2e-3)
    step(models[2], loaded, lr=2e-3)
    for name in models[0].state_dict():
        mine, others, again = (model.get_parameter(name) for model in models)
        if "in_proj_bias" not in name:  # that of the keys has no gradient but rounding
            torch.testing.assert_close(mine, others)
        assert torch.equal(mine, again)


def test_a_network_without_hidden_matrices_is_told_so() -> None:
    """One line, before any trial; AdamW alone would train it."""
    with pytest.raises(ConfigError, match="optimizer muon: the model has no matrix but"):
        objective(model=OwnConfig(_target_=f"{__name__}.linear"), optimizer=MuonConfig())
    with pytest.raises(ValueError, match="use AdamW"):
        MuonAdamW(nn.Linear(3, 2))


def deep(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """A user's network with a hidden matrix."""
    first = nn.Linear(math.prod(input_shape), 8)
    return nn.Sequential(nn.Flatten(), first, nn.Dropout(0.2), nn.Linear(8, num_classes))


def linear(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """A user's network with one layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))


def test_the_snippet_trains_as_muon_does() -> None:
    """The pasted code ends at the weights of a loop over ours."""
    recipe = Recipe(max_lr=1e-2, optimizer="muon", optimizer_options={"beta2": 0.9})
    code = pytorch(recipe, 2.0)
    assert code is not None
    models = [Tokens(), Tokens()]
    models[1].load_state_dict(models[0].state_dict())
    loader = [(torch.randint(5, (6, 3)), torch.randint(2, (6,))) for _ in range(3)]
    space = {"model": models[0], "loader": loader, "loss_function": nn.CrossEntropyLoss()}
    exec(code, space)
    ours = MuonAdamW(models[1], beta2=0.9, weight_decay=recipe.weight_decay)
    for step in range(6):
        set_rates(ours.param_groups, schedule_of(recipe).at(step / 6))
        x, y = loader[step % 3]
        ours.zero_grad()
        nn.functional.cross_entropy(models[1](x), y).backward()
        ours.step()
    for name in models[0].state_dict():
        if "in_proj_bias" not in name:  # that of the keys has no gradient but rounding
            torch.testing.assert_close(*(model.get_parameter(name) for model in models))


def test_a_range_test_with_muon() -> None:
    """`lr_range_test` takes it as any optimiser, and restores it."""
    torch.manual_seed(0)
    x = torch.randn(240, 4)
    y = (x[:, 0] > x[:, 1]).long()
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    optimizer = MuonAdamW(model)
    train = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 200, 20)]
    found = lr_range_test(
        model, nn.CrossEntropyLoss(), train, (x[200:], y[200:]), optimizer=optimizer
    )
    assert found.answered
    assert found.outcomes[0].run.schedule.max_lr == 0.1  # as with AdamW
    assert not optimizer.state


@pytest.mark.parametrize(("given", "sets_decay"), [(None, True), (0.02, False)])
def test_a_weight_decay_of_the_users_own_stays(given: float | None, sets_decay: bool) -> None:
    """Otherwise the range test of a study with AdamW sets it, by rate and length."""
    config = Config.from_mapping(
        {
            "data": {"name": "digits", "train_examples": 200, "test_examples": 50},
            "model": {"name": "mlp", "width": 0.25},
            "optimizer": {"name": "adamw"},
            "recipe": {"weight_decay": given},
            "threads": 1,
        }
    )
    made = build.objective(config)
    assert made.facts.from_scratch
    stage = build.stages(config, made.facts)[0]
    assert isinstance(stage, LRSearch)
    assert stage.sets_decay is sets_decay
