"""Lightning: its Trainer runs the trials; what is the user's is left as found."""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from orchestrator import LRRangeResult
from orchestrator import __main__ as cli
from orchestrator.config import user_code
from orchestrator.errors import ConfigError
from orchestrator.lightning import lr_find

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own remarks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(pl.LightningModule):
    """A small network as many modules are; its schedule ends at once."""

    def __init__(self, width: int = 16, scale: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, 3)
        self.seen: list[int] = []
        self.scale = scale

    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.net(x)) * self.scale, y)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen.append(len(batch[0]))
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        decaying = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": decaying, "weight_decay": 0.01}, {"params": others, "lr": 0.01}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=1e-9)]


class Data(pl.LightningDataModule):
    """Six features, of which the largest of three is the class."""

    def __init__(self, batch_size: int = 20) -> None:
        super().__init__()
        self.batch_size = batch_size
        x = torch.randn(700, 6, generator=torch.Generator().manual_seed(1))
        self.parts = [TensorDataset(x[s], x[s, :3].argmax(1)) for s in _slices()]

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts[1], 100)

    def test_dataloader(self) -> Any:
        return DataLoader(self.parts[2], 100)


def _slices() -> list[slice]:
    return [slice(0, 500), slice(500, 600), slice(600, 700)]


class Counting(Callback):
    """A callback of the user's."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": False}
    return pl.Trainer(**{**quiet, **given, **options})


def found(model: Any = None, data: Any = None, **options: Any) -> LRRangeResult:
    return lr_find(trainer(**options), model or Net(), data or Data(), num_training=40, ramps=1)


def test_it_finds_a_rate_on_validation_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A rate at which such a network learns; that the module's schedule plays no part is said."""
    result = found()
    assert result.suggestion() == result.max_lr is not None
    assert 0.01 < result.max_lr < 3
    assert all(ramp.held_out_loss.min() < 0.8 * result.initial_loss for ramp in result.ramps)
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "The lr schedulers of Net are left out: the study sets the rates."
    ]


def test_it_is_called_like_the_tuners_with_loaders_too() -> None:
    """Trainer and model by place, loaders by name; the same data give the same answer."""
    torch.manual_seed(0)
    model, data = Net(), Data()
    by_loaders = lr_find(
        trainer(),
        model,
        train_dataloaders=data.train_dataloader(),
        val_dataloaders=data.val_dataloader(),
        num_training=40,
        ramps=1,
    )
    assert by_loaders.max_lr == lr_find(trainer(), model, data, num_training=40, ramps=1).max_lr


def test_everything_is_left_as_found() -> None:
    """Weights, statistics, modes, attributes, callbacks, data, trainer and random states."""
    model, data, counting = Net(), Data(), Counting()
    model.net.eval()
    used = trainer(callbacks=[counting, EarlyStopping("val_loss", patience=0)])
    weights = copy.deepcopy(model.state_dict())
    mine, theirs = dict(vars(data)), list(used.callbacks)
    random, level = torch.get_rng_state(), logging.getLogger("lightning.pytorch").level
    lr_find(used, model, data, num_training=40, ramps=1)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert not model.net.training
    assert model.head.training
    assert model.seen == []
    assert model._trainer is None
    assert vars(data) == mine
    assert used.callbacks == theirs
    assert (used.global_step, used.max_epochs, counting.batches) == (0, 2, 0)
    assert torch.equal(random, torch.get_rng_state())
    assert logging.getLogger("lightning.pytorch").level == level
    used.fit(model, data)
    assert used.global_step > 0


def test_a_step_is_an_update_of_accumulated_batches() -> None:
    """The rates move with updates, and there are as many as asked for."""
    lrs: list[float] = []

    class Watched(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
            lrs.append(optimizer.param_groups[0]["lr"])

    result = found(Watched(), accumulate_grad_batches=4, precision="bf16-mixed")
    ramp = result.ramps[0].lr
    bracket = lrs[6 : lrs.index(ramp[-1], 6) + 1]  # after three rehearsals of two steps
    assert bracket == sorted(set(bracket))
    assert set(ramp) <= set(bracket)
    assert 30 < len(bracket) <= 40


class Adversaries(Net):
    """Two optimisers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(p.parameters(), lr=1e-3) for p in (self.net, self.head)]


class Plateau(Net):
    """Has a scheduler that waits for a metric which validation does not log."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        more = {"monitor": "train_accuracy", "interval": "step", "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **more}}


def test_a_scheduler_that_waits_for_something_else_does_not_matter() -> None:
    """It is left out."""
    assert found(Plateau()).answered


class Unlogged(Net):
    """Logs its loss under another name."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/ce", self.loss(batch))


class Unvalidated(Data):
    """No validation."""

    val_dataloader = pl.LightningDataModule.val_dataloader


@pytest.mark.parametrize(
    ("model", "data", "line"),
    [
        (
            Adversaries(),
            Data(),
            r"to two optimisers \(Adam and Adam\): a study searches one max_lr",
        ),
        (
            Unlogged(),
            Data(),
            r"no 'val_loss' that validation_step logs \(it logs val/ce\): name the",
        ),
        (Net(), Unvalidated(), "validates nothing: it needs validation_step and its data"),
        (Net(scale=float("nan")), Data(), "held-out loss of nan before any training"),
    ],
)
def test_what_cannot_be_used_is_one_line(model: Any, data: Any, line: str) -> None:
    """ConfigError, before any ramp."""
    with pytest.raises(ConfigError, match=line) as caught:
        found(model, data)
    assert len(caught.value.lines) == 1


def test_a_used_trainer_is_refused() -> None:
    """Its steps would count."""
    used = trainer(max_steps=2)
    used.fit(Net(), Data())
    with pytest.raises(ConfigError, match="has made 2 steps: give it a new one"):
        lr_find(used, Net(), Data())


@pytest.mark.usefixtures("without_figures")
def test_a_study_of_a_module_and_its_data(here: Path) -> None:
    """`objective=lightning`: to a test result, with the batch sizes of the data module."""
    words = ["objective=lightning", "objective.module._target_=test_lightning.Net"]
    words += ["objective.module.width=24", "objective.datamodule._target_=test_lightning.Data"]
    words += [
        "objective.steps=60",
        "objective.trainer.accelerator=cpu",
        "objective.trainer.logger=false",
        "recipe.batch_size=25",
    ]
    more = ["tracking=none", "threads=1", "plan=[lr_range,final]", "stages.final.seeds=1"]
    assert cli.run([*words, *more, "study_name=x", "quiet=true"]) == 0
    summary = json.loads((here / "runs/x/summary.json").read_text())
    assert summary["final"]["test_loss"]["mean"] < 0.8
    assert any("lr schedulers of Net" in note for note in summary["notes"])
    assert sorted(path.name for path in here.iterdir()) == ["runs"]  # nothing of Lightning's


def test_without_lightning_the_line_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    monkeypatch.delitem(sys.modules, "orchestrator.lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'orchestrator\[lightning\]'"):
        user_code.resolve("orchestrator.lightning.train")
