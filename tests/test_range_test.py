"""`orchestrator.lr_range_test`: models, loaders and optimisers of the user's own."""

import doctest
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from orchestrator import LRRangeResult, figures, lr_range_test
from orchestrator.recipe import Recipe
from orchestrator.record import StageRecord
from orchestrator.stages.ramps import POINTS
from orchestrator.training.standalone import loaders, range_loop, range_test

CLASSES, FEATURES, BATCH = 3, 6, 16
LOSS = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """So small a network is fastest on one."""
    torch.set_num_threads(1)


def examples(count: int = 480, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs (n, 6) and their classes, which a linear layer can learn."""
    x = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return x, (2 * x[:, :CLASSES]).argmax(1)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*examples()), batch_size=BATCH, shuffle=True, **options)


def network(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 16), *more, nn.ReLU(), nn.Linear(16, CLASSES))


def short(model: nn.Module, **options: Any) -> LRRangeResult:
    """Return the answer of a test with short ramps."""
    given = {"loss": LOSS, "train": loader(), "held_out": examples(120, seed=1), "steps": 40}
    return lr_range_test(model, **{**given, **options})


def everything(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> list[Any]:
    """Return all that has to be left as found, comparable by `same`."""
    state = [] if optimizer is None else [optimizer.state_dict()["state"], optimizer.param_groups]
    return [
        [t.detach().clone() for t in (*model.parameters(), *model.buffers())],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [m.training for m in model.modules()],
        [[{k: v for k, v in g.items() if k != "params"} for g in s] for s in state[1:]],
        [{i: dict(entry) for i, entry in s.items()} for s in state[:1]],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def used(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Any:
    """Return a model and its optimiser in the middle of a training: state, gradients, modes."""
    model = network(nn.BatchNorm1d(16), nn.Dropout(0.2))
    optimizer = kind(model.parameters(), **options)
    for x, y in list(loader())[:3]:
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    model[1].eval()  # a batch norm that its user has frozen
    return model, optimizer


def test_finds_a_rate_that_trains() -> None:
    """The default: one bracket and three linear ramps; the answer lies in its interval."""
    found = short(network())
    assert found.answered
    assert [r.shape for r in found.ramps] == ["exponential", "linear", "linear", "linear"]
    assert found.interval is not None
    assert found.max_lr is not None
    assert found.interval[0] <= found.max_lr <= found.interval[1]
    assert 0.01 < found.max_lr < 2
    assert found.min_lr == pytest.approx(found.max_lr / 10)
    assert set(found.rules) >= {"within_drop", "steepest", "valley", "minimum_tenth"}
    assert found.initial_loss == pytest.approx(np.log(CLASSES), rel=0.3)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


def test_ramps_of_adam_leave_room_below() -> None:
    """For fine-tuning the best rate may be far lower: interval and reason say so, not of SGD."""
    model = network()
    found, sgd = short(model, optimizer=adamw(model)), short(model)
    assert found.interval is not None
    assert sgd.interval is not None
    assert found.max_lr is not None
    assert found.interval[0] <= 0.2 * found.max_lr * 1.01
    assert found.max_lr <= found.interval[1] <= 3 * found.max_lr
    assert "for fine-tuning the best rate may be as low as" in found.reason
    assert sgd.interval[0] > 0.3 * sgd.interval[1]
    assert "fine-tuning" not in sgd.reason


@pytest.mark.parametrize("final_steps", [120, 1200])
def test_cycles_decide_if_the_length_of_the_training_is_given(final_steps: int) -> None:
    """After one ramp, unless that is long beside the training; everything is left as found."""
    model = network()
    optimizer = adamw(model)
    before = everything(model, optimizer)
    found = short(model, optimizer=optimizer, final_steps=final_steps, schedule="fastai")
    assert same(everything(model, optimizer), before)
    assert found.answered
    cycles = [o for o in found.outcomes if o.run.kind == "train"]
    assert len(found.ramps) == len(found.outcomes) - len(cycles) == (final_steps == 1200)
    assert {o.run.schedule.name for o in cycles} == {"fastai"}
    assert all(o.run.steps <= final_steps / 4 for o in cycles)
    assert found.max_lr is not None
    assert found.max_lr < min(cycles, key=lambda o: o.held_out_loss).run.schedule.max_lr * 3**0.5
    assert f"{final_steps} steps need a lower rate" in found.reason
    assert "fine-tuning" not in found.reason
    assert found.plot(Figure().add_subplot()).lines
    assert str(found).splitlines()[-1]


def test_the_end_of_a_cycle_is_measured_on_all_held_out_examples() -> None:
    """As a final run is, also where its reports use a part of them."""
    sizes: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                sizes.append(len(x))
            return self.net(x)

    model = Counting()
    held_out = examples(2000, seed=1)
    found = short(model, optimizer=adamw(model), final_steps=200, held_out=held_out)
    cycle = next(o for o in found.outcomes if o.run.kind == "train")
    assert 0 < cycle.run.held_out_examples < sizes[-1] == max(sizes)


def test_same_seed_same_answer() -> None:
    """The answer does not depend on the random state that the caller happens to have."""
    model = network()
    first = short(model)
    torch.rand(7)
    assert short(model).max_lr == first.max_lr


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.003}),
        (torch.optim.AdamW, {"lr": torch.tensor(0.003)}),
    ],
)
def test_leaves_everything_as_found(kind: Any, options: dict[str, Any]) -> None:
    """Weights, buffers, gradients, modes, optimiser and random states: bit by bit, same objects."""
    model, optimizer = used(kind, **options)
    before, grads = everything(model, optimizer), [p.grad for p in model.parameters()]
    groups = list(optimizer.param_groups)
    assert short(model, optimizer=optimizer).ramps
    assert same(everything(model, optimizer), before)
    assert all(a is p.grad for a, p in zip(grads, model.parameters(), strict=True))
    assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaves_everything_as_found_after_an_interruption(error: type[BaseException]) -> None:
    """An error in the user's loss, or Ctrl-C, in the middle of a ramp."""
    model, optimizer = used(torch.optim.SGD, lr=0.03, momentum=0.9)
    before, calls = everything(model, optimizer), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 100:
            raise error
        return LOSS(outputs, targets)

    with pytest.raises(error):
        short(model, loss=loss, optimizer=optimizer)
    assert same(everything(model, optimizer), before)


def test_a_loaders_own_generator_is_left_as_found() -> None:
    """It drives the order of the ramps, and is where it was afterwards."""
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    found = short(network(), train=loader(generator=generator))
    assert torch.equal(generator.get_state(), before)
    linear = [r.held_out_loss.tolist() for r in found.ramps if r.shape == "linear"]
    assert linear[0] != linear[1]  # another order for each ramp


def test_a_buffer_that_a_module_replaces_is_put_back() -> None:
    """The very tensor, not only its values."""

    class Counting(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            return x

    counting = Counting()
    seen = counting.seen
    short(network(counting))
    assert counting.seen is seen
    assert float(seen) == 0


def test_a_given_optimizer_is_used_as_it_is_set() -> None:
    """Only lr is ramped; groups keep their ratios, and max_lr is that of the first."""
    model = network()
    seen: list[tuple[float, float, float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            first, second = self.param_groups
            seen.append((first["lr"], second["lr"], first["momentum"]))
            return super().step(closure)

    optimizer = Watched(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}],
        lr=0.02,
        momentum=0.5,
    )
    found = short(model, optimizer=optimizer)
    assert {m for _, _, m in seen} == {0.5}
    assert all(second == pytest.approx(first / 10) for first, second, _ in seen)
    assert max(first for first, _, _ in seen) == pytest.approx(
        max(float(r.lr[-1]) for r in found.ramps), rel=0.5
    )


class OwnSGD(torch.optim.SGD):
    """SGD under another name."""


class Sign(torch.optim.Optimizer):
    """Not one of torch's."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.001})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Go down by lr."""
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (None, {"momentum": 0.8, "weight_decay": 1e-3}, ("sgd", 0.8, 1e-3)),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.7}, ("sgd", 0.7, 0.0)),
        (OwnSGD, {"lr": 0.1}, ("sgd", 0.0, 0.0)),
        (torch.optim.Adam, {"lr": 0.1}, ("adam", 0.9, 0.0)),
        (torch.optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.99)}, ("adamw", 0.8, 0.01)),
        (torch.optim.RMSprop, {"lr": 0.1}, ("rmsprop", 0.0, 0.0)),
        (Sign, {}, ("sign", 0.0, 0.0)),
    ],
)
def test_the_stage_is_told_whose_ramps_it_reads(
    kind: Any, options: dict[str, Any], told: tuple[str, float, float], monkeypatch: Any
) -> None:
    """The optimiser by its name in torch, its momentum (or first beta) and its weight decay."""
    seen: list[Recipe] = []
    walk = range_test.walk
    monkeypatch.setattr(range_test, "walk", lambda s, r, go: (seen.append(r), walk(s, r, go))[1])
    model = network()
    given = {"optimizer": kind(model.parameters(), **options)} if kind else options
    found = short(model, **given)
    assert [(r.optimizer, r.max_momentum, r.weight_decay) for r in seen] == [told]
    assert (found.ramps[0].lr[-1] > 0.2) == (told[0] == "sgd")  # the bracket of others ends at .1


def test_evaluations_cost_at_most_half_of_the_training() -> None:
    """Counted: examples that go through the model without a gradient, a third each."""
    counted = {True: 0, False: 0}

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counted[torch.is_grad_enabled()] += len(x)
            return x

    found = short(network(Counting()), held_out=examples(5000, seed=1))
    first = 5000  # once, before any training: at most all that is given
    assert counted[False] - first <= 1.5 * counted[True]
    assert all(len(r.lr) <= POINTS for r in found.ramps)


def test_batch_norm_is_measured_with_batch_statistics() -> None:
    """Running statistics far off the mark do not make every rate look bad."""
    model = network(nn.BatchNorm1d(16))
    model[1].running_mean.fill_(50.0)
    found = short(model)
    assert found.answered
    assert found.initial_loss < 2


def test_regression_is_answered_in_its_own_unit() -> None:
    """Mean squared error of targets around 100: chance is what the model starts with."""
    x, _ = examples()
    y = 100 + 30 * x[:, :1]
    train = DataLoader(TensorDataset(x[:400], y[:400]), batch_size=BATCH, shuffle=True)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 1))
    found = short(model, loss=nn.MSELoss(), train=train, held_out=(x[400:], y[400:]))
    assert found.initial_loss > 5000
    assert found.answered


def test_a_list_of_batches_and_a_stream_are_loaders_too() -> None:
    """A list comes in another order each time; any iterable that starts over will do."""

    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter(loader())

    found = short(network(), train=list(loader()), held_out=list(loader()))
    linear = [r.held_out_loss.tolist() for r in found.ramps if r.shape == "linear"]
    assert linear[0] != linear[1]
    assert short(network(), train=Stream()).ramps


def test_inputs_may_be_nests_of_tensors() -> None:
    """A model that takes a dict of tensors gets one."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, batch: dict[str, Tensor]) -> Any:
            return self.net(batch["features"])

    batches = [({"features": x}, y) for x, y in loader()]
    assert short(Named(), train=batches, held_out=batches[:5]).answered


def test_an_epoch_is_the_length_of_a_ramp_within_bounds() -> None:
    """80 to 400 steps, 100 without a length."""
    assert range_test._steps(loader()) == 80
    assert range_test._steps([0] * 123) == 123
    assert range_test._steps([0] * 1000) == 400
    assert range_test._steps(iter(())) == 100


def test_the_held_out_subset_is_stratified_and_frozen() -> None:
    """Data sorted by class, as folders of images are: every class has its share."""
    x, y = examples(900)
    order = torch.argsort(y)
    data = TensorDataset(x[order], y[order])
    for held_out in ((x[order], y[order]), DataLoader(data, batch_size=50)):
        batches = loaders.frozen_subset(held_out, 120, seed=0)
        labels = torch.cat([y for _, y in batches])
        assert len(labels) == 120
        assert torch.bincount(labels[:60]).min() > 10
        again = loaders.frozen_subset(held_out, 120, seed=0)
        assert same([list(b) for b in batches], [list(b) for b in again])


class Stuck(nn.Module):
    """Learns nothing: its output does not depend on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return 0 * self.layer(x)


class Exploding:
    """A loss that is lost as soon as there is training."""

    def __init__(self) -> None:
        self.trained = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.trained |= torch.is_grad_enabled()
        return LOSS(outputs, targets) * (torch.inf if self.trained else 1)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (Stuck(), {}, "no answer: held-out loss is flat"),
        (network(), {"loss": Exploding()}, "no answer: it diverges at once"),
    ],
)
def test_no_answer_is_said_plainly(model: nn.Module, options: dict[str, Any], reason: str) -> None:
    """`answered` is False, the numbers are None, and there still is a figure."""
    found = short(model, **options)
    assert found.reason.startswith(reason)
    assert str(found) == found.reason
    assert (found.answered, found.max_lr, found.min_lr, found.interval) == (False, *[None] * 3)
    assert "no answer" in found._repr_html_()
    assert found.plot(Figure().add_subplot()).get_title("left") == "no answer"


def frozen() -> nn.Module:
    return network().requires_grad_(False)


def optimizer_of_another() -> torch.optim.Optimizer:
    return torch.optim.SGD(network().parameters(), lr=0.1)


def lbfgs() -> torch.optim.Optimizer:
    return torch.optim.LBFGS(network().parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": frozen()}, "the model has no parameters that can be trained (requires_grad)"),
        (
            {"schedule": "cosine"},
            "schedule must be one of linear, constant, paper, author, fastai, ",
        ),
        ({"final_steps": 20}, "short cycles need 50 final steps or more, got final_steps=20"),
        ({"model": nn.LazyLinear(3)}, "lazy parameters: call it on one batch first"),
        ({"optimizer": optimizer_of_another()}, "trains none of this model's parameters"),
        (
            {"optimizer": lbfgs()},
            "LBFGS has a line search and its own steps: give another optimizer",
        ),
        ({"train": []}, "train has no batches"),
        ({"train": [(torch.zeros(2, 6),) * 3]}, "got 3 values (Tensor, Tensor, Tensor): return tw"),
        ({"held_out": []}, "held_out has no batches"),
        ({"held_out": examples(0)}, "held_out has 0 inputs for 0 targets"),
        ({"train": iter(loader())}, "train can be read only once"),
        ({"train": (b for b in loader())}, "train can be read only once (generator)"),
        ({"train": examples()}, "train must give batches (x, y)"),
        ({"train": 3}, "train must give batches (x, y)"),
        ({"train": [torch.zeros(2, 6)]}, "batches of train must be pairs (x, y), got Tensor"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss must return a scalar tensor"),
        ({"loss": lambda o, t: LOSS(o, t) - 5}, "it must not be negative"),
        ({"loss": lambda o, t: LOSS(o, t) * torch.nan}, "is nan before training"),
        ({"start_lr": 1.0, "end_lr": 0.1}, "need 0 < start_lr < end_lr < inf"),
        ({"end_lr": float("nan")}, "need 0 < start_lr < end_lr < inf"),
        ({"steps": 3}, "a ramp needs 10 steps or more, got steps=3"),
        ({"ramps": 0}, "need ramps >= 1"),
        ({"lr_factor": 1.5}, "0 < lr_factor <= 1"),
    ],
)
def test_mistakes_are_one_clear_line(options: dict[str, Any], message: str) -> None:
    """ValueError, before or instead of training, that says what is wrong."""
    given = {"model": network(), **options}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        short(**given)
    assert "\n" not in str(caught.value)


def test_an_optimizer_class_is_no_optimizer() -> None:
    """TypeError, for it lacks the parameters."""
    with pytest.raises(TypeError, match="optimizer must be an instance"):
        short(network(), optimizer=torch.optim.AdamW)


def column(**options: Any) -> LRRangeResult:
    """Return the answer for outputs (n, 1) and targets (n,)."""
    x, y = examples()[0], examples()[0].sum(1)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 400, BATCH)]
    return short(nn.Linear(FEATURES, 1), train=batches, held_out=(x[400:], y[400:]), **options)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), lambda o, t: ((o - t) ** 2).mean()])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_and_targets_that_torch_broadcasts_are_refused(loss: Any) -> None:
    """(n, 1) and (n,) are n x n pairs: nothing can be learnt from them, and torch only warns."""
    with pytest.raises(ValueError, match=r"returns \(\d+, 1\) for targets \(\d+,\)"):
        column(loss=loss)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: nn.functional.mse_loss(o.squeeze(-1), t),
        lambda o, t: nn.functional.mse_loss(o[:, 0], t),
        lambda o, t: nn.functional.mse_loss(o, t.unsqueeze(1)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_may_take_off_the_last_dimension_itself(loss: Any) -> None:
    """Nothing is refused that pairs each output with its target."""
    assert column(loss=loss).answered


def test_reads_well_in_a_terminal_and_in_a_notebook() -> None:
    """The numbers, the sentence and the other rules; in HTML with the figure."""
    found = short(network())
    lines = str(found).splitlines()
    assert lines[0].startswith("max_lr ")
    assert "min_lr" in lines[0]
    assert "held-out loss stays near its minimum" in lines[1]
    assert lines[2].startswith("rules, without a margin: within drop ")
    html = found._repr_html_()
    assert "max_lr" in html
    assert 'src="data:image/png;base64,iVBOR' in html


def test_plot_draws_the_figure_of_the_report_into_given_axes() -> None:
    """The same curves, interval, names of rates and legend as the figure of a study has."""
    found, ax = short(network()), Figure().add_subplot()
    stage = StageRecord(replace(found.decision, kind="lr_range"), Recipe(), found.outcomes)
    figure = figures.of(stage)
    assert figure is not None
    [[panel]] = figure.columns
    assert found.plot(ax) is ax
    assert ax.get_xscale() == "log"
    assert ax.get_ylim() == panel.y.range
    drawn = [line.get_ydata() for line in ax.get_lines()]
    assert len(panel.lines) == 3 * len(found.ramps)
    for line, y in zip(panel.lines, drawn, strict=False):
        assert np.array_equal(line.y, y, equal_nan=True)
    assert len(ax.patches) == sum(span.low < span.high for span in panel.spans)
    assert {text.get_text() for text in ax.texts} == {s.text for s in panel.spans if s.text}
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [entry.label for entry in figure.legend]
    assert any(label.startswith("valley: ") for label in legend)


def test_training_is_imported_without_matplotlib() -> None:
    """It is paid for where something is drawn."""
    code = (
        "import sys, orchestrator.training, orchestrator.training.standalone.range_test;"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_example_in_the_docstring_runs() -> None:
    """As it stands there."""
    test = doctest.DocTestFinder().find(
        range_test.lr_range_test,
        "lr_range_test",
        globs={**vars(torch.nn), "torch": torch, "nn": nn, "DataLoader": DataLoader}
        | {"lr_range_test": lr_range_test},
    )[0]
    from matplotlib import pyplot

    torch.manual_seed(0)
    result = doctest.DocTestRunner().run(test)
    pyplot.close("all")
    assert result.attempted >= 6
    assert result.failed == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_works_on_a_gpu_and_leaves_its_random_state() -> None:
    """Batches are moved there; CUDA's random state is put back."""
    model = network(nn.Dropout(0.2)).cuda()
    before = torch.cuda.get_rng_state()
    assert short(model).ramps
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_loop_does_not_touch_modes_its_user_has_set() -> None:
    """A batch norm in eval mode in a model that trains stays so during the ramps."""
    model, optimizer = used(torch.optim.SGD, lr=0.03)
    mean = model[1].running_mean.clone()
    original = range_loop.RampLoop._advance

    def advance(self: Any, *args: Any) -> float:
        assert not model[1].training
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_loop.RampLoop, "_advance", advance)
        short(model, optimizer=optimizer)
    assert torch.equal(model[1].running_mean, mean)
