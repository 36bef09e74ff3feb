"""torch.compile: off unless asked for, shared by all runs, chosen only where right and faster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainings import a_run, objective, train

from orchestrator.config.sections import DataConfig, ModelConfig, TrainingConfig
from orchestrator.training import compiled
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Forward, eager

DATA = DataConfig(train_examples=128, held_out_examples=64, test_examples=32)


def made(how: bool | str, cache: Path = Path("unused"), **options: Any) -> TrainingObjective:
    return objective(DATA, objective=TrainingConfig(compile=how), cache=cache, **options)


def note(made: TrainingObjective) -> str:
    (sentence,) = (note for note in made.describe().notes if "compiled" in note)
    return sentence


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Compile with torch's front end alone, which takes no time; keep each graph it makes."""
    found: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        found.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(
        compiled, "compiled", lambda: torch.compile(eager, dynamic=False, backend=backend)
    )
    return found


def test_the_network_is_compiled_once_for_all_runs_of_one_batch_size(graphs: list[object]) -> None:
    """A second run, with weights of its own, needs no new graph; another batch size does."""
    trained = made(True)
    train(trained, a_run(steps=4, replicate=0))
    once = len(graphs)
    train(trained, a_run(steps=4, replicate=1))
    assert once == len(graphs) == 1
    train(trained, a_run(steps=4, batch_size=16))
    assert len(graphs) == 2


def test_a_compiled_run_is_known_apart_from_an_eager_one(graphs: list[object]) -> None:
    """The two differ in the last bits, so their keys do; here the front end changes nothing."""
    eager, ours = made(False), made(True)
    assert "compile" not in eager.context(a_run())
    assert ours.context(a_run())["compile"] is True
    assert train(eager, a_run())[0].points[-1].held_out_loss == pytest.approx(
        train(ours, a_run())[0].points[-1].held_out_loss, rel=1e-6
    )


def test_a_short_study_is_not_even_probed(tmp_path: Path) -> None:
    """Compiling would cost more than the whole study, and the answer says so."""
    chosen = made("auto", tmp_path)
    assert "not compiled: the study takes some" in note(chosen)
    assert "compile" not in chosen.context(a_run())


def _wrong(model: nn.Module, x: Tensor) -> Tensor:
    return eager(model, x) * 1.1


def _failing(model: nn.Module, x: Tensor) -> Tensor:
    raise RuntimeError("no\ncompiler")


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_wrong, "not compiled: its gradients differ by"),
        (_failing, "not compiled: the compiler fails (no compiler)"),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_compiler_that_is_wrong_or_fails_is_not_used(
    forward: Forward, reason: str, dropout: float, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where dropout makes no two passes alike: they are then compared without it."""
    monkeypatch.setattr(compiled, "LEAST_SECONDS", 0)
    monkeypatch.setattr(compiled, "compiled", lambda: forward)
    assert reason in note(made("auto", tmp_path, model=ModelConfig(width=0.25, dropout=dropout)))


@pytest.mark.parametrize(("speed", "on"), [(0.8, False), (3.0, True)])
def test_what_is_faster_by_more_than_it_costs_is_chosen_and_remembered(
    speed: float, on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command reads the answer, whatever a second probe would say."""
    monkeypatch.setattr(compiled, "LEAST_SECONDS", 0)
    monkeypatch.setattr(compiled, "compiled", lambda: lambda model, x: eager(model, x))

    def seconds(trainer: Any, steps: int) -> float:
        return 1.0 if trainer.setup.forward is eager else 1 / speed

    monkeypatch.setattr(compiled, "per_step", seconds)
    first = made("auto", tmp_path)
    assert ("compile" in first.context(a_run())) is on
    assert f"{speed:.2f} times as fast" in note(first)
    monkeypatch.delattr(compiled, "_tried")
    assert note(made("auto", tmp_path)) == note(first)


def test_in_bfloat16_a_compiler_may_round_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that rounds less differs from the eager pass by percents, yet is not further off."""

    def exacter(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return eager(model, x)

    monkeypatch.setattr(compiled, "LEAST_SECONDS", 0)
    monkeypatch.setattr(compiled, "compiled", lambda: exacter)
    how = TrainingConfig(compile="auto")
    model = ModelConfig(name="resnet9", width=0.125)
    assert "times as fast" in note(
        objective(DATA, objective=how, precision="bfloat16", cache=tmp_path, model=model)
    )


@pytest.mark.slow
def test_a_really_compiled_network_learns_what_the_eager_one_does(tmp_path: Path) -> None:
    """The whole compiler, with batch norm: losses agree, and a repeat is equal bit for bit."""
    torch.compiler.reset()
    model = ModelConfig(name="resnet9", width=0.0625)
    eager, ours = made(False, model=model), made(True, model=model)
    losses = [train(o, a_run(steps=8))[0].points[-1].held_out_loss for o in (eager, ours, ours)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] == losses[2]
