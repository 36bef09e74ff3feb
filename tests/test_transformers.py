"""Hugging Face: its Trainer runs the trials; what is the user's is left as found."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from orchestrator import LRRangeResult
from orchestrator import __main__ as cli
from orchestrator.config import user_code
from orchestrator.errors import ConfigError
from orchestrator.transformers import lr_find

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own remarks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sequences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Tokens that count by a step of 1 to 5."""
    generator = torch.Generator().manual_seed(seed)
    starts, steps = (torch.randint(1, 6, (count, 1), generator=generator) for _ in range(2))
    rows = (starts + steps * torch.arange(10)) % 20
    return [{"input_ids": row, "labels": row} for row in rows]


def sealed() -> list[dict[str, Any]]:
    return sequences(40, seed=2)


def trainer(learning_rate: float = 1e-3, callbacks: Any = None, **options: Any) -> hf.Trainer:
    """A small causal language model, made on the spot."""
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = hf.GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2, **ends)
    given = {"output_dir": "out", "per_device_train_batch_size": 8, "report_to": [], **options}
    arguments = hf.TrainingArguments(use_cpu=True, learning_rate=learning_rate, **given)
    parts = {"train_dataset": sequences(160), "eval_dataset": sequences(40, seed=1)}
    return hf.Trainer(hf.GPT2LMHeadModel(config), arguments, callbacks=callbacks, **parts)


def found(used: hf.Trainer, **options: Any) -> LRRangeResult:
    return lr_find(used, **{"num_training": 40, "ramps": 1, **options})


class Watched(hf.TrainerCallback):
    """Notes what each update was made with."""

    lrs: list[list[float]] = []  # noqa: RUF012  # the callback is copied
    decays: list[list[float]] = []  # noqa: RUF012

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        groups = given["optimizer"].param_groups
        self.lrs.append([group["lr"] for group in groups])
        self.decays.append([group["weight_decay"] for group in groups])


@pytest.fixture
def watched() -> Iterator[Watched]:
    """The callback, with nothing seen yet."""
    yield Watched()
    Watched.lrs.clear()
    Watched.decays.clear()


@pytest.mark.usefixtures("here")
def test_it_finds_a_rate_on_the_evaluation_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A rate at which such a model learns; that the scheduler plays no part is said."""
    result = found(trainer(), num_training=60)
    assert result.answered
    assert 1e-3 < result.max_lr < 0.1
    assert "The lr scheduler of the Trainer is left out: the study sets the rates." in caplog.text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "options", "final_steps"),
    [
        ({"num_train_epochs": 4}, {}, 80),
        ({"max_steps": 90}, {}, 90),
        ({"max_steps": 90}, {"final_steps": 120}, 120),
        ({"num_train_epochs": 4, "gradient_accumulation_steps": 2}, {}, None),  # 40: too few
        ({"max_steps": 90}, {"final_steps": 0}, None),
    ],
)
def test_the_rate_is_for_the_training_of_its_arguments(
    arguments: dict[str, Any], options: dict[str, Any], final_steps: int | None
) -> None:
    """Short cycles find it then, with linear decay; ramps alone where it is too short, or asked."""
    result = found(trainer(**arguments), **options)
    cycles = [o.run for o in result.outcomes if o.run.kind == "train"]
    assert {run.schedule.name for run in cycles} == ({"linear"} if final_steps else set())
    assert (f" {final_steps} steps need a lower rate" in result.reason) is bool(final_steps)


@pytest.mark.usefixtures("here")
def test_the_rates_are_those_of_the_updates(watched: Watched) -> None:
    """Of accumulated batches, and without the trainer's own decay to 0."""
    result = found(trainer(callbacks=[watched], gradient_accumulation_steps=2))
    lrs, ramp = [a for a, _ in watched.lrs], result.ramps[0].lr
    bracket = lrs[6 : lrs.index(ramp[-1], 6) + 1]  # after three rehearsals of two steps
    assert bracket == sorted(set(bracket))
    assert set(ramp) <= set(bracket)
    assert 30 < len(bracket) <= 40


def test_everything_is_left_as_found(here: Path) -> None:
    """Weights, mode, config, arguments, callbacks, state, random states, and no files."""
    used = trainer(callbacks=[hf.EarlyStoppingCallback()], eval_strategy="steps", max_steps=6)
    used.model.eval()
    weights, config = copy.deepcopy(used.model.state_dict()), copy.deepcopy(used.model.config)
    arguments, callbacks = used.args.to_dict(), list(used.callback_handler.callbacks)
    random, files = torch.get_rng_state(), sorted(here.rglob("*"))
    found(used)
    assert all(torch.equal(weights[k], v) for k, v in used.model.state_dict().items())
    assert not used.model.training
    assert used.model.config == config
    assert used.args.to_dict() == arguments
    assert used.callback_handler.callbacks == callbacks
    assert (used.optimizer, used.lr_scheduler, used.state.global_step) == (None, None, 0)
    assert torch.equal(random, torch.get_rng_state())
    assert sorted(here.rglob("*")) == files


@pytest.mark.usefixtures("here")
def test_an_optimiser_of_the_users_is_left_as_found() -> None:
    """Its state, its rates and its own scheduler."""
    used = trainer()
    optimizer = torch.optim.SGD(used.model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    used.optimizer, used.lr_scheduler = optimizer, scheduler
    before = copy.deepcopy(optimizer.state_dict())
    found(used)
    assert optimizer.state_dict() == before
    assert (used.optimizer, used.lr_scheduler) == (optimizer, scheduler)


@pytest.mark.usefixtures("here")
def test_a_trainer_without_a_loss_to_go_by_is_one_line() -> None:
    """No data to evaluate on."""
    used = trainer()
    used.eval_dataset = None
    with pytest.raises(ConfigError, match="eval_dataset") as caught:
        found(used)
    assert len(caught.value.lines) == 1


def watching(batch_size: int, **options: Any) -> hf.Trainer:
    """What a study is given; it is offered the batch size."""
    return trainer(callbacks=[Watched()], **options)


def study(*words: str) -> int:
    given = ["objective=transformers", "objective.trainer._target_=test_transformers.watching"]
    given += ["objective.test_dataset._target_=test_transformers.sealed", "objective.steps=60"]
    given += ["tracking=none", "threads=1", "plan=[lr_range,final]", "stages.final.seeds=1"]
    return cli.run([*given, "study_name=x", "quiet=true", *words])


@pytest.mark.usefixtures("without_figures", "watched")
def test_a_study_of_a_trainer(here: Path) -> None:
    """`objective=transformers`: to a test result; norms and biases keep no decay."""
    words = ["recipe.batch_size=16", "objective.trainer.gradient_accumulation_steps=2"]
    assert study(*words, "recipe.weight_decay=0.05") == 0
    summary = json.loads((here / "runs/x/summary.json").read_text())
    assert summary["recipe"]["optimizer"] == "adamw"
    assert summary["final"]["test_loss"]["mean"] < 2.0 < 3.0  # ln 20
    assert [0.05, 0.0] in Watched.decays
    assert {decay for _, decay in Watched.decays} == {0.0}


@pytest.mark.usefixtures("here", "watched")
def test_a_batch_size_that_cannot_be_made_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Batches are whole numbers of accumulated pieces."""
    assert study("recipe.batch_size=9", "objective.trainer.gradient_accumulation_steps=2") == 2
    assert "cannot make batches of 9 from 2 pieces" in capsys.readouterr().err


def test_without_transformers_the_line_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    monkeypatch.delitem(sys.modules, "orchestrator.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'orchestrator\[transformers\]'"):
        user_code.resolve("orchestrator.transformers.train")
