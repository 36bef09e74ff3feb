"""Losses and metrics: what they give, what guessing costs, what does not fit together."""

import io
import math
import re
import warnings
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from trainings import objective

from orchestrator.config import checks
from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.config.sections import (
    LossConfig,
    MetricConfig,
    ModelConfig,
    OwnDataConfig,
    OwnMetricConfig,
    TrainingConfig,
)
from orchestrator.errors import ConfigError
from orchestrator.recipe import Recipe, Run
from orchestrator.report.snippet import pytorch
from orchestrator.report.terminal import Terminal
from orchestrator.schedules import Schedule
from orchestrator.study.walk import run_study
from orchestrator.testing import FakeSession
from orchestrator.training.chance import chance_loss, remarks
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.task import Task, TaskError
from orchestrator.training.trainer import Trainer

RUN = Run("train", Schedule("constant", 0.05, 0.05, 0.9, 0.9), 1e-4, 16, 40, 0, points=2)
N, VOCABULARY, LENGTH = 120, 5, 7


def regression(scale: float = 1.0, shift: float = 0.0, outputs: int | None = None) -> Any:
    """A user's data: numbers to be predicted from four features."""
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    y = x @ torch.ones(4, outputs or 1) * scale + shift
    y = y if outputs else y[:, 0]
    return x, y, x[:20], y[:20]


def labels() -> Any:
    """A user's data: three labels, each 0 or 1."""
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :3] > 0).long(), x[:20], (x[:20, :3] > 0).long()


def signals() -> tuple[TensorDataset, TensorDataset]:
    """A user's Datasets: one channel of 64 values, a slow wave or a fast one, far from 0."""
    y = torch.arange(N) % 2
    phase = 6 * torch.rand(N, 1, 1, generator=torch.Generator().manual_seed(0))
    x = 50 + 9 * torch.sin(torch.arange(64) * (0.2 + 0.8 * y[:, None, None]) + phase)
    return TensorDataset(x, y), TensorDataset(x[:20], y[:20])


def convolution() -> nn.Module:
    """A network for signals."""
    pooled = (nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
    return nn.Sequential(nn.Conv1d(1, 8, 9), *pooled, nn.Linear(8, 2))


def text() -> Any:
    """A user's data: tokens, and for each the next one, which is one larger."""
    x = torch.randint(VOCABULARY, (N, LENGTH), generator=torch.Generator().manual_seed(0))
    return x, (x + 1) % VOCABULARY, x[:20], (x[:20] + 1) % VOCABULARY


def mostly_one() -> Any:
    """A user's data: one of the three classes is frequent."""
    x, *_ = regression()
    y = torch.zeros(N, dtype=torch.int64)
    y[:: N // 12], y[1 :: N // 12] = 1, 2
    return x, y, x[:20], y[:20]


def constant() -> Any:
    """A user's data with nothing to learn."""
    x, y, *_ = regression()
    return x, y * 0 + 3, x[:20], y[:20] * 0 + 3


class Tokens(nn.Module):
    """A network of tokens: scores with classes last, or second as torch has them."""

    def __init__(self, num_classes: int, last: bool = True) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(num_classes, num_classes), last

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        assert x.dtype == torch.int64
        scores: Tensor = self.embedding(x)
        return scores if self.last else scores.movedim(-1, 1)


class Recurrent(nn.Module):
    """A recurrent network of tokens."""

    def __init__(self, num_classes: int, layer: str) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_classes, 4), nn.Linear(6, num_classes)
        self.layer = getattr(nn, layer)(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.head(self.layer(self.embedding(x))[0])
        return scores


def poisson(scores: Tensor, targets: Tensor, offset: float = 0.0) -> Tensor:
    """A user's loss."""
    return F.mse_loss(scores.squeeze(-1), targets) + offset


def not_a_mean(scores: Tensor, targets: Tensor) -> Tensor:
    """A loss that forgot to average."""
    return (scores.squeeze(-1) - targets) ** 2


def detached(scores: Tensor, targets: Tensor) -> Tensor:
    """A loss that nothing can be learnt from."""
    return scores.detach().mean()


def r2(scores: Tensor, targets: Tensor) -> Tensor:
    """A user's metric, of a whole part."""
    return 1 - ((scores.squeeze(-1) - targets) ** 2).mean() / targets.var(unbiased=False)


def broken(scores: Tensor, targets: Tensor) -> float:
    """A user's metric with a mistake."""
    raise KeyError("oops")


def my(name: str, **arguments: Any) -> OwnConfig:
    return OwnConfig(_target_=f"{__name__}.{name}", **arguments)


def metric(function: str, **more: Any) -> OwnMetricConfig:
    return OwnMetricConfig(_target_=f"{__name__}.{function}", **more)


def made(data: OwnConfig, loss: Any, model: Any = None, **more: Any) -> TrainingObjective:
    own = OwnDataConfig(_target_=data.target, **data.arguments)
    chosen = {"model": model or ModelConfig(), "loss": loss or LossConfig()}
    return objective(data=own, **chosen, **more)


def trained(made: TrainingObjective) -> FakeSession:
    session = FakeSession(RUN)
    made(RUN, session)
    return session


@pytest.mark.parametrize(
    ("loss", "chance"),
    [
        (LossConfig(name="mse"), lambda y: y.var(unbiased=False)),
        (LossConfig(name="l1"), lambda y: (y - y.median()).abs().mean()),
        (LossConfig(name="huber", delta=100.0), lambda y: y.var(unbiased=False) / 2),
        (my("poisson"), lambda y: y.var(unbiased=False)),
        (my("poisson", offset=1.0), lambda y: y.var(unbiased=False) + 1),
        (OwnConfig(_target_="torch.nn.L1Loss"), None),
    ],
)
def test_chance_is_the_loss_of_the_best_constant_prediction(loss: Any, chance: Any) -> None:
    """Of the training targets; a network without knowledge of the input cannot do better."""
    y = torch.randn(501, generator=torch.Generator().manual_seed(1)) * 3 + 5
    if chance is None:
        y = y[:, None]
    found = chance_loss(Task(loss), y, 1, torch.zeros(2, 1))
    wanted = (y - y.median()).abs().mean() if chance is None else chance(y)
    assert found == pytest.approx(float(wanted), rel=1e-3)


def test_chance_of_labels_and_classes_is_the_entropy_of_their_frequencies() -> None:
    """For nearly balanced classes it is the logarithm of their number."""
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    task = Task(LossConfig(name="bce_with_logits"))
    assert chance_loss(task, y, 2, torch.zeros(2, 2)) == pytest.approx(entropy, rel=1e-4)
    rare, even = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 0, 1])
    found = chance_loss(Task(), rare, 2, torch.zeros(2, 2))
    assert found == pytest.approx(entropy, rel=1e-4)
    assert chance_loss(Task(), even, 2, torch.zeros(2, 2)) == math.log(2)


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_a_regression_learns_without_a_metric(name: Any, outputs: int | None) -> None:
    """Targets (n,) and (n, k): our networks give as many scores; there is no accuracy."""
    found = made(my("regression", outputs=outputs), LossConfig(name=name))
    assert found.facts.metric is None
    points = trained(found).points
    assert points[-1].held_out_loss < 0.3 * found.facts.chance_loss
    assert all(math.isnan(p.metric) for p in points)


def test_where_an_untrained_network_costs_more_than_chance_that_is_known() -> None:
    """Far from 0 a regression starts far above its best constant; centred, it does not."""
    mse = LossConfig(name="mse")
    away = made(my("regression", shift=30.0), mse).facts
    assert away.start_loss == away.untrained_loss > 50 * away.chance_loss
    centred = made(my("regression"), mse).facts
    assert centred.start_loss < 1.2 * centred.chance_loss
    assert made(my("text"), None, my("Tokens")).facts.untrained_loss == 0
    rare = made(my("mostly_one"), None).facts
    assert rare.start_loss == pytest.approx(math.log(3), rel=0.01)
    assert rare.chance_loss < 0.6 * rare.start_loss


def test_labels_have_an_accuracy() -> None:
    """The share of labels that are right."""
    found = made(my("labels"), LossConfig(name="bce_with_logits"))
    assert found.facts.metric == "accuracy"
    assert trained(found).points[-1].metric > 0.85


@pytest.mark.parametrize("last", [True, False])
def test_tokens_go_untouched_to_the_network(last: bool) -> None:
    """Whole numbers (n, t) with targets (n, t); scores with classes last or second."""
    found = made(my("text"), None, my("Tokens", last=last))
    assert found.facts.chance_loss == math.log(VOCABULARY)
    point = trained(found).points[-1]
    assert point.held_out_loss < 1.5
    assert point.metric > 0.9


def column() -> nn.Module:
    """A network that gives (n, 1)."""
    return nn.Linear(4, 1)


def numbers() -> Any:
    """A user's data: whole numbers to be predicted."""
    x, y, *_ = regression(scale=3)
    y = y.round().long()
    return x, y, x[:20], y[:20]


PASTED = {  # data, loss, model, and what the pasted code says
    "a column of scores": ("regression", {"name": "mse"}, my("column"), "torch.nn.MSELoss()"),
    "whole numbers": ("numbers", {"name": "l1"}, my("column"), "torch.nn.L1Loss()"),
    "huber": ("regression", {"name": "huber", "delta": 0.5}, None, "HuberLoss(delta=0.5)"),
    "labels": ("labels", {"name": "bce_with_logits"}, None, "torch.nn.BCEWithLogitsLoss()"),
    "classes last": ("text", {}, my("Tokens"), ".movedim(-1, 1)"),
    "classes second": ("text", {}, my("Tokens", last=False), "model(inputs), targets)"),
}


@pytest.mark.parametrize("case", PASTED)
def test_the_code_to_paste_has_the_loss_of_the_study(case: str) -> None:
    """Given the data as they are and our first weights, it ends where our training ends."""
    data, loss, model, said = PASTED[case]
    found = made(my(data), LossConfig(**loss), model)
    setup, schedule = found._setup, RUN.schedule
    recipe = Recipe(
        max_lr=schedule.max_lr, max_momentum=0.9, weight_decay=RUN.weight_decay, batch_size=16,
        schedule="constant",
    )  # fmt: skip
    code = pytorch(recipe, 10, found.describe().inputs, found.describe().task)
    assert code is not None
    assert said in code
    assert f"trained on {len(setup.data.train)} examples;" in code
    x, y = setup.data.train  # as our batches have them, but raw
    y = y if data != "numbers" else y.long()
    first = Trainer(setup, RUN).model
    everything = DataLoader(TensorDataset(x, y), 16, shuffle=True, drop_last=True)
    space: dict[str, Any] = {"model": first, "loader": everything}
    torch.manual_seed(0)
    exec(code, space)
    given = setup.data.held_out.x
    given = space["normalised"](given) if found.describe().inputs else given
    with torch.no_grad():
        pasted = float(setup.task.mean(first.eval()(given), setup.data.held_out.y))
    ours = trained(found).points[-1].held_out_loss
    assert pasted < max(2 * ours, 0.1 * found.facts.chance_loss)


def noisy() -> Any:
    """A user's data: what four features say of a number, and as much that they do not."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(600, n, generator=generator) for n in (4, 1))
    y = (x.sum(1, keepdim=True) / 2 + noise)[:, 0]
    return x[:400], y[:400], x[400:], y[400:]


@pytest.mark.usefixtures("here", "without_figures")
def test_a_pasted_report_is_as_good_as_its_study() -> None:
    """Scores (n, 1) for targets (n,): the page's code, run as it stands, tests as the study did."""
    config = {
        "study_name": "s",
        "data": {"_target_": f"{__name__}.noisy"},
        "model": {"_target_": f"{__name__}.column"},
        "loss": {"name": "mse"},
        "plan": ["lr_range", "final"],
        "stages": {"final": {"epochs": 8}},
        "recipe": {"batch_size": 16},
        "device": "cpu",
        "threads": 1,
        "tracking": {"name": "none"},
    }
    record = run_study(Config.from_mapping(config), Terminal(stream=io.StringIO()))
    assert record.status == "complete"
    page = Path("runs/s/report.html").read_text()
    (code,) = re.findall("<pre>([^<]*)</pre>", page)
    assert "trained on 333 examples;" in code  # a sixth of them is held out
    x, y, x_test, y_test = noisy()
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, drop_last=True)
    space: dict[str, Any] = {"model": column(), "loader": loader}
    exec(unescape(code), space)
    with torch.no_grad():
        scores = space["model"](space["normalised"](x_test))[:, 0]
    found = record.summary()["final"]["test_loss"]["mean"]
    assert float(F.mse_loss(scores, y_test)) == pytest.approx(found, rel=0.2)
    assert found < 0.7 * float(y_test.var())


def test_the_code_to_paste_names_a_loss_of_ones_own() -> None:
    """With its arguments; it cannot be written out."""
    found = made(my("regression"), my("poisson", offset=1.0))
    code = pytorch(Recipe(max_lr=0.1), 1, found.describe().inputs, found.describe().task) or ""
    assert f"# loss_function: {__name__}.poisson(offset=1.0)\n" in code
    assert "loss_function(model(normalised(inputs)), targets)" in code


@pytest.mark.parametrize("resident", [True, False])
def test_signals_go_to_the_network_as_they_are(resident: bool, tmp_path: Path) -> None:
    """(n, channels, length) of a Dataset, nothing added; resident, streamed and exported."""
    how = TrainingConfig(resident=resident)
    found = made(my("signals"), None, my("convolution"), objective=how)
    session = FakeSession(run := replace(RUN, opens_test=True))
    found(run, session)
    assert session.points[-1].metric > 0.9
    assert session.model is not None
    (tmp_path / "model.pt").write_bytes(session.model)
    shapes = found._export(tmp_path / "model.pt", tmp_path / "model.pt2")
    assert shapes["input_shape"] == [1, 64]
    raw, labels = found._setup.data.open_test()
    scores = torch.export.load(tmp_path / "model.pt2").module()(raw)
    assert (scores.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("layer", ["GRU", "LSTM", "RNN"])
def test_a_recurrent_network_is_exported_without_a_word(layer: str, tmp_path: Path) -> None:
    """Torch warns of weights that it keeps twice; the program gives what the network does."""
    found = made(my("text"), None, my("Recurrent", layer=layer))
    torch.save(found._setup.make_model().state_dict(), weights := tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found._export(weights, tmp_path / "model.pt2")
    network = found._setup.make_model()
    network.load_state_dict(torch.load(weights))
    tokens, _ = found._setup.data.open_test()
    scores = torch.export.load(tmp_path / "model.pt2").module()(tokens)
    assert torch.allclose(scores, network.eval()(tokens), atol=1e-6)


def test_a_mean_is_a_mean_over_all_that_a_target_holds() -> None:
    """What is reported of a part is what the loss gives for the whole of it."""
    task, generator = Task(), torch.Generator().manual_seed(0)
    scores = torch.randn(6, 4, VOCABULARY, generator=generator)
    y = torch.randint(VOCABULARY, (6, 4), generator=generator)
    assert float(task.total(scores, y)) / 6 == pytest.approx(float(task.mean(scores, y)))
    for name in ("mse", "l1", "huber", "bce_with_logits"):
        task = Task(LossConfig(name=name))  # type: ignore[arg-type]
        y = torch.rand(6, 4, generator=generator)
        x = torch.randn(6, 4, 1, generator=generator)
        assert float(task.total(x, y)) / 6 == pytest.approx(float(task.mean(x, y)))
        assert float(task.mean(x, y)) == pytest.approx(float(task.mean(x[..., 0], y)))


def test_a_metric_of_ones_own_has_its_name_and_direction() -> None:
    """It sees the whole part at once."""
    found = made(
        my("regression"),
        my("poisson"),
        metric=metric("r2", name="R2", larger_is_better=False),
    )
    assert (found.facts.metric, found.facts.larger_is_better) == ("R2", False)
    session, setup = trained(found), found._setup
    y = setup.data.held_out.y
    expected = 1 - session.points[-1].held_out_loss / float(y.var(unbiased=False))
    assert session.points[-1].metric == pytest.approx(expected, abs=1e-4)
    assert made(my("regression"), my("poisson"), metric=metric("r2")).facts.metric == "r2"


def test_classification_keeps_its_keys() -> None:
    """What is default says nothing; each other loss and metric has keys of its own."""
    plain = objective().context(RUN)
    assert not {"loss", "metric"} & set(plain)
    assert objective(loss=LossConfig(), metric=MetricConfig()).context(RUN) == plain
    losses = [LossConfig(name="mse"), LossConfig(name="huber"), my("poisson")]
    contexts = [made(my("regression"), loss).context(RUN) for loss in losses]
    contexts.append(made(my("regression"), losses[0], metric=metric("r2")).context(RUN))
    assert len({RUN.key(c) for c in contexts}) == 4


@pytest.mark.parametrize(
    ("data", "loss", "more", "line"),
    [
        ("regression", None, {}, "cross_entropy needs whole-number labels, got torch.float32"),
        ("constant", "mse", {}, "the training targets are all the same"),
        ("regression", "bce_with_logits", {}, "needs labels from 0 to 1"),
        ("regression", "detached", {}, "its value does not depend on the scores"),
        ("regression", "not_a_mean", {}, r"must return a scalar tensor, the mean, got \(2,\)"),
        ("labels", "poisson", {}, r"it cannot take scores \(2, .*\) and targets"),
        ("regression", "mse", {"model": my("Wide")}, r"a score per target for loss mse, shape \("),
        (
            "labels",
            "bce_with_logits",
            {"model": my("Wide", channel=True)},
            r"examples: squeeze\(1\)$",
        ),
        ("text", None, {}, r"model.name=mlp: whole-number inputs \(7,\) are tokens"),
        ("text", None, {"model": my("Flat")}, r"shape \(examples, 7, 5\) or \(examples, 5, 7\)"),
        ("regression", "mse", {"metric": metric("broken")}, "metric broken: it cannot take .*oops"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_trial(
    data: str, loss: str | None, more: dict[str, Any], line: str
) -> None:
    """Targets, loss, scores and metric: one line with what is wanted and what is there."""
    known = ("mse", "bce_with_logits")
    chosen: Any = LossConfig(name=loss) if loss in known else (my(loss) if loss else None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=line) as caught:
        made(my(data), chosen, **more)
    assert len(caught.value.lines) == 1


class Wide(nn.Module):
    """A network with too many scores."""

    def __init__(self, channel: bool = False) -> None:
        super().__init__()
        self.linear, self.channel = nn.Linear(4, 3), channel

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, perhaps (n, 1, 3)."""
        out: Tensor = self.linear(x)
        return out[:, None] if self.channel else out


class Flat(Tokens):
    """A network with one score row for a whole sequence."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return super().forward(x).mean(1)


def test_a_loss_below_zero_is_refused() -> None:
    """At the start, and where it falls below 0 in the course of a run."""
    with pytest.raises(TaskError, match=r"a finite number above 0.*: add a constant to it"):
        made(my("regression"), my("poisson", offset=-100.0))
    with pytest.raises(TaskError, match=": loss=cross_entropy also takes log-probabilities"):
        objective(loss=OwnConfig(_target_="torch.nn.NLLLoss"))
    found = made(my("regression"), my("poisson", offset=-2.0))
    with pytest.raises(ValueError, match="it must not be negative"):
        trained(found)


@pytest.mark.parametrize(
    ("scale", "shift", "said"),
    [(1.0, 0.0, ""), (1.0, 50.0, "subtract their mean"), (1000.0, 0.0, "divide them by")],
)
def test_targets_on_a_strange_scale_are_used_and_told(
    scale: float, shift: float, said: str
) -> None:
    """Nothing is changed silently; the notes say what would be better."""
    found = made(my("regression", scale=scale, shift=shift), LossConfig(name="mse"))
    assert any("The loss is mse: " in note for note in found.describe().notes)
    assert said in " ".join(found.describe().notes)
    assert ("targets are not changed" in " ".join(found.describe().notes)) == bool(said)


def test_classes_taken_as_numbers_are_told() -> None:
    """A regression on labels 0..9 is allowed, but seldom meant."""
    told = " ".join(objective(loss=LossConfig(name="mse")).describe().notes)
    assert "Labels 0 to 9 are taken as numbers" in told
    floats = made(my("regression"), LossConfig(name="mse"))
    assert "taken as numbers" not in " ".join(floats.describe().notes)


def softmax(num_classes: int) -> nn.Module:
    """A network that gives probabilities."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.Softmax(1))


def test_probabilities_for_cross_entropy_are_told() -> None:
    """It would take the softmax of a softmax, and learn slowly at any rate."""
    said = "cross_entropy needs the scores before the softmax"
    assert said in " ".join(objective(model=my("softmax")).describe().notes)
    assert said not in " ".join(objective().describe().notes)
    spread = remarks(Task(), torch.zeros(2, 3).long(), 1.0, torch.full((2, 3, 4), 0.25))
    assert said in " ".join(spread)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"loss": {"name": "mae"}}, "loss.name: 'mae' is not allowed: must be one of"),
        ({"loss": {"nme": "mse"}}, "loss.nme: unknown key"),
        ({"loss": {"name": "huber", "delta": 0}}, "loss.delta: 0 is not allowed"),
        ({"loss": {"name": "mse", "delta": 2.0}}, "loss.delta: 2.0 is not allowed: loss mse has"),
        ({"loss": {"_target_": "torch.nn.Nope"}}, "loss._target_: torch.nn.Nope: torch.nn has no"),
        ({"loss": {"_target_": "torch.nn.MSELoss", "x": 1}}, "loss._target_: torch.nn.MSELoss tak"),
        ({"metric": {"name": "f1"}}, "metric.name: 'f1' is not allowed: must be one of"),
        (
            {"loss": {"name": "mse"}, "metric": {"name": "accuracy"}},
            "metric.name: 'accuracy' is not allowed: only losses cross_entropy and bce",
        ),
        (
            {"loss": {"name": "mse"}, "optimizer": {"label_smoothing": 0.1}},
            "optimizer.label_smoothing: 0.1 is not allowed: only loss cross_entropy",
        ),
        ({"metric": {"_target_": "os.system"}}, "metric._target_: os.system is not allowed"),
        (
            {"metric": {"_target_": f"{__name__}.r2", "larger_is_better": "perhaps"}},
            "metric.larger_is_better: 'perhaps' is not allowed",
        ),
        (
            {"metric": {"_target_": f"{__name__}.r2", "name": "1/x"}},
            "metric.name: '1/x' is not allowed",
        ),
    ],
)
def test_wrong_requests_are_one_line(sections: dict[str, Any], line: str) -> None:
    """Unknown names and keys, values out of range, choices that do not go together."""
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(sections)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)


def test_a_wrong_part_is_not_checked_further() -> None:
    """A loss that is wrong in itself has told its own line."""
    assert checks.loss_lines(None, MetricConfig(), OptimizerConfig()) == []


def test_losses_are_chosen_on_the_command_line(here: Path) -> None:
    """As groups, and the user's own as a key."""
    from orchestrator.config.compose import compose, parse

    composed = compose(parse(["loss=huber", "loss.delta=2", f"+metric._target_={__name__}.r2"]))
    assert composed is not None
    config = Config.from_mapping(composed)
    assert config.loss == LossConfig(name="huber", delta=2)
    assert config.metric == metric("r2")
    composed = compose(parse([f"+loss._target_={__name__}.poisson", "+loss.offset=1.0"]))
    assert composed is not None
    assert Config.from_mapping(composed).loss == my("poisson", offset=1.0)
