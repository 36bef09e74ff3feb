"""What can be switched on in `optimizer` and `objective`: each by what it does."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator import build
from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.config.sections import DataConfig, ModelConfig, OwnDataConfig, TrainingConfig
from orchestrator.errors import ConfigError
from orchestrator.objectives import StopRun
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Recipe
from orchestrator.report.snippet import pytorch
from orchestrator.schedules import Schedule
from orchestrator.testing import FakeSession
from orchestrator.training.memory import probe
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Trainer
from tests.trainings import DIGITS, Hard, a_run, losses, objective, train

ON: dict[str, dict[str, Any]] = {
    "no decay": {"decay_norms_and_biases": False},
    "frozen": {"frozen": ("conv.*",)},
    "clipped": {"max_grad_norm": 0.5},
    "smoothed": {"label_smoothing": 0.1},
    "averaged": {"ema": 0.9},
}


class HalfFrozen(Hard):
    """Its author took the convolution out of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.requires_grad_(False)


NET = OwnConfig(_target_="tests.trainings.Hard")


def with_options(model: ModelConfig | OwnConfig | None = None, **on: Any) -> TrainingObjective:
    return objective(model=model, optimizer=OptimizerConfig(**on))


def a_trainer(made: TrainingObjective, **changes: Any) -> Trainer:
    return Trainer(made._setup, a_run(**changes))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- all of them


@pytest.mark.parametrize("on", ON.values(), ids=ON)
def test_a_resumed_run_with_the_option_is_bit_equal(on: dict[str, Any]) -> None:
    """Cut after a report and gone on: the losses and the model of the undisturbed run."""
    run = a_run(steps=12, points=2, opens_test=True)
    whole, _ = train(with_options(NET, **on), run)
    cut = FakeSession(run, stop_at=1)
    with pytest.raises(StopRun):
        with_options(NET, **on)(run, cut)
    resumed = FakeSession(run, cut.checkpoint)
    with_options(NET, **on)(run, resumed)
    assert resumed.points[:1] == cut.points  # their seconds, too: not trained again
    assert losses(resumed) == losses(whole)
    assert resumed.model == whole.model


@pytest.mark.parametrize("on", ON.values(), ids=ON)
def test_the_option_changes_the_losses_and_the_key(on: dict[str, Any]) -> None:
    """It is heard, and what was trained without it is another run."""
    plain, other, run = objective(model=NET), with_options(NET, **on), a_run(steps=12, points=2)
    assert losses(train(plain, run)[0]) != losses(train(other, run)[0])
    assert run.key(plain.context(run)) != run.key(other.context(run))


def test_options_that_are_off_stay_out_of_the_key() -> None:
    """What was trained before there were options stays known."""
    assert objective().context(a_run())["optimizer"] == {"name": "sgd", "nesterov": True}
    assert not {"micro_batch_size", "deterministic"} & set(objective().context(a_run()))
    told = objective(objective=TrainingConfig(micro_batch_size=8)).context(a_run())
    assert told["micro_batch_size"] == 8


def test_options_travel_with_the_recipe() -> None:
    """They stand in its values, as plain ones, while they are on; recipe.yaml brings them back."""
    given = {"optimizer": {"label_smoothing": 0.1, "frozen": ["0.*"]}, "recipe": {"max_lr": 1}}
    recipe = build.recipe(Config.from_mapping(given), QuadraticObjective().facts)
    assert recipe.values()["optimizer_options"] == given["optimizer"]
    assert yaml.safe_load(yaml.safe_dump(recipe.values())) == recipe.values()
    assert "optimizer_options" not in Recipe().values()
    assert recipe.at_lr(2.0).optimizer_options == recipe.optimizer_options


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("ema", 1, "less than 1"),
        ("ema", 0, "greater than 0"),
        ("label_smoothing", 1.0, "less than 1"),
        ("max_grad_norm", 0, "greater than 0"),
        ("frozen", "0.*", "a list in square brackets"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: object, must: str) -> None:
    """One line with the key, the value and what is allowed."""
    with pytest.raises(ConfigError, match=rf"optimizer\.{key}: .* must be {must}"):
        Config.from_mapping({"optimizer": {key: value}})


# --- no decay on norms and biases


def test_norms_and_biases_do_not_decay() -> None:
    """With gradients of nothing, weights shrink under weight decay; norms and biases stay."""
    trainer = a_trainer(with_options(NET, decay_norms_and_biases=False), weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    same = {n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])}
    assert same == {"conv.0.bias", "conv.1.weight", "head.1.bias"} | {"conv.1.bias"}


def test_all_groups_follow_the_schedule() -> None:
    """Parameters that do not decay have the same lr and momentum as those that do."""
    trainer = a_trainer(with_options(NET, decay_norms_and_biases=False))
    trainer.advance(3)
    rates = trainer.run.schedule.at(2 / 40)
    assert [(g["lr"], g["momentum"]) for g in trainer.optimizer.param_groups] == [tuple(rates)] * 2


# --- frozen


@pytest.mark.parametrize("how", ["by name", "by its author"])
def test_frozen_parameters_stay_as_they_are(how: str) -> None:
    """Not a bit of them changes, not by weight decay either; the others learn."""
    by_name = with_options(NET, frozen=("conv.*",))
    by_author = objective(model=OwnConfig(_target_=f"{__name__}.HalfFrozen"))
    trainer = a_trainer(by_name if how == "by name" else by_author)
    before = state(trainer.model)
    trainer.advance(3)
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"head.1.weight", "head.1.bias"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("conf.*",), r"'conf\.\*' matches none of the model's 6 parameters \(conv\.0\.weight"),
        (("*",), "leaves nothing to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(
    patterns: tuple[str, ...], message: str
) -> None:
    """One line, before any training, that names the pattern."""
    with pytest.raises(ConfigError, match=rf"optimizer\.frozen: .*{message}"):
        with_options(NET, frozen=patterns)


# --- clipping


def test_long_gradients_are_cut_to_the_norm() -> None:
    """The first step without momentum's memory is lr times a gradient of that length."""
    still = Schedule("constant", 1.0, 1.0, 0.0, 0.0)
    made = with_options(NET, max_grad_norm=0.25, nesterov=False)
    trainer = a_trainer(made, schedule=still, weight_decay=0.0)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.advance(1)
    moved = [(p - b).flatten() for p, b in zip(trainer.model.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.25, rel=1e-4)


def test_a_norm_that_is_never_reached_changes_nothing() -> None:
    """Gradients shorter than the norm are left alone, to the last bit."""
    plain, _ = train(objective(), a_run(steps=6, points=1))
    clipped, _ = train(with_options(max_grad_norm=1e6), a_run(steps=6, points=1))
    assert losses(plain) == losses(clipped)


# --- label smoothing


def test_smoothing_is_in_the_gradient_but_not_in_what_is_reported() -> None:
    """Gradients are those of the smoothed loss; train and held-out loss are plain ones."""
    made = with_options(label_smoothing=0.2)
    trainer = a_trainer(made)
    x, y = next(a_trainer(made).batches)
    reported = trainer.gradient()
    found = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    trainer.model.zero_grad()
    scores = trainer.model(x)
    F.cross_entropy(scores, y, label_smoothing=0.2).backward()
    assert reported.item() == pytest.approx(F.cross_entropy(scores, y).item(), rel=1e-6)
    expected = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
    held_out = made._setup.inputs.held_out
    assert trainer.evaluate(held_out) == a_trainer(objective()).evaluate(held_out)


# --- EMA


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    """avg <- decay * avg + (1 - decay) * weights, the decay (1 + t) / (10 + t) in early steps."""
    trainer = a_trainer(with_options(NET, ema=0.3))
    expected = state(trainer.model)
    for step in range(6):
        trainer.advance(1)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, value in trainer.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    for name, value in trainer.answer.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_the_average_is_evaluated_and_saved() -> None:
    """Held-out loss, test loss and model are the average's, the training goes on undisturbed."""
    made, run = with_options(NET, ema=0.9), a_run(steps=12, points=2, opens_test=True)
    session, result = train(made, run)
    plain, _ = train(objective(model=NET), run)
    assert [p.train_loss for p in session.points] == [p.train_loss for p in plain.points]
    assert session.model is not None
    trainer = Trainer(made._setup, run)
    trainer.model.load_state_dict(torch.load(BytesIO(session.model), weights_only=True))
    setup = made._setup
    trainer.average = None
    assert trainer.evaluate(setup.inputs.held_out)[0] == session.points[-1].held_out_loss
    test = setup.inputs.on_device(setup.data.open_test())
    assert trainer.evaluate(test)[0] == result.test_loss


def test_a_ramp_is_not_averaged() -> None:
    """It is to show where the weights themselves break."""
    ramp = a_run(kind="ramp", steps=12, points=2)
    averaged, _ = train(with_options(NET, ema=0.9), ramp)
    plain, _ = train(objective(model=NET), ramp)
    assert losses(averaged) == losses(plain)


# --- gradient accumulation


@pytest.mark.parametrize("micro", [8, 20])
def test_pieces_of_a_batch_give_the_gradient_of_the_whole(micro: int) -> None:
    """Without batch norm and dropout, also where the last piece is smaller."""
    how = TrainingConfig(micro_batch_size=micro)
    whole, _ = train(objective(), a_run())
    parts, _ = train(objective(objective=how), a_run())
    for a, b in zip(losses(whole), losses(parts), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_only_a_piece_goes_through_the_network_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are of about one size; small batches go through as they are."""
    made = objective(objective=TrainingConfig(micro_batch_size=20))
    trainer, seen = a_trainer(made), []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trainer.advance(1)
    assert seen == [16, 16]
    small = a_trainer(made, batch_size=16)
    small.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    small.advance(1)
    assert seen == [16, 16, 16]


def test_a_batch_that_fits_in_pieces_fits() -> None:
    """The memory probe counts what goes through the network at once."""
    run = a_run(kind="probe", batch_sizes=(32, 256))
    setup = objective(model=NET)._setup
    whole = probe(setup, run).measured["bytes"]
    parts = probe(replace(setup, micro_batch_size=32), run).measured["bytes"]
    assert parts["32"] == parts["256"] == whole["32"] < whole["256"]


# --- the command line


def test_options_are_taken_from_the_command_line(here: Path) -> None:
    """They are keys of the groups `optimizer` and `objective`."""
    from orchestrator.config.compose import compose, parse

    composed = compose(parse(["optimizer.ema=0.99", "++objective.micro_batch_size=16"]))
    assert composed is not None
    config = Config.from_mapping(composed)
    assert config.optimizer.options == {"ema": 0.99}
    assert isinstance(config.objective, TrainingConfig)
    assert config.objective.micro_batch_size == 16


def grey(*shape: int) -> tuple[Any, ...]:
    """A user's function: inputs far from normal, of any shape."""
    x = torch.randn(200, *shape, generator=torch.Generator().manual_seed(0)) * 7 + 30
    return x, torch.arange(200) % 3, x[:9], torch.arange(9) % 3


def many() -> tuple[Any, ...]:
    """Features, one of them constant."""
    x, *rest = grey(6)
    x[:, 2] = 5
    return x, *rest


def few() -> tuple[Any, ...]:
    """Signals of two channels."""
    return grey(2, 9)


@pytest.mark.parametrize("data", [DIGITS, DataConfig(scale=0.5), many, few])
def test_the_code_to_paste_normalises_as_we_do(data: Any) -> None:
    """Given raw inputs it makes of them what our network gets; their numbers are in the code."""
    own_data = OwnDataConfig(_target_=f"{__name__}.{data.__name__}") if callable(data) else data
    made = objective(own_data)
    found, inputs = made._setup.data, made._setup.inputs
    code = pytorch(Recipe(max_lr=0.1), 1, made.describe().inputs)
    assert code is not None
    assert ("MEAN, STD = torch.tensor([" in code) == (data is not many)
    assert "model(normalised(inputs))" in code
    space: dict[str, Any] = {"loader": [(part, None) for part in found.train.x.split(50)]}
    exec(code[: code.index("optimizer =")], space)
    ours = inputs.normalised(inputs.train.x)
    assert torch.allclose(space["normalised"](found.train.x), ours, atol=1e-5)


def test_the_code_to_paste_says_what_else_was_done_to_images() -> None:
    """Shifts and mirrors are not in the code: it says so, and of tokens nothing."""
    augmented = objective(DataConfig(train_examples=100, augment=True)).describe().inputs
    code = pytorch(Recipe(max_lr=0.1), 1, augmented) or ""
    assert "# It also had training inputs shifted by up to 1 pixel at random.\n" in code
    assert "normalised" not in (pytorch(Recipe(max_lr=0.1), 1, None) or "")


@pytest.mark.parametrize("on", [*ON.values(), {k: v for o in ON.values() for k, v in o.items()}])
def test_the_code_to_paste_trains_as_we_do(on: dict[str, Any]) -> None:
    """The report's snippet, given our batches and first weights, ends at our weights."""
    made = with_options(NET, **on)
    run = a_run(steps=12)
    trainer, twin = (Trainer(made._setup, run) for _ in range(2))
    schedule = run.schedule
    recipe = Recipe(
        max_lr=schedule.max_lr,
        min_lr=schedule.min_lr,
        max_momentum=schedule.max_momentum,
        min_momentum=schedule.min_momentum,
        weight_decay=run.weight_decay,
        batch_size=run.batch_size,
        schedule=schedule.name,
        optimizer_options=made._setup.optimizer.options,
    )
    code = pytorch(recipe, 1)
    assert code is not None
    space: dict[str, Any] = {
        "model": twin.model.requires_grad_(True),
        "loader": [next(twin.batches) for _ in range(run.steps)],
        "loss_function": nn.CrossEntropyLoss(),
    }
    torch.manual_seed(0)
    trainer.advance(run.steps)
    torch.manual_seed(0)
    exec(code, space)
    pasted = state(space.get("average", space["model"]))
    for name, value in state(trainer.answer).items():
        assert torch.allclose(value, pasted[name], atol=1e-5), name
