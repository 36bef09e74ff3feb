import math
import random
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import DataConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.objectives import StopRun
from orchestrator.recipe import run_seed
from orchestrator.schedules import Schedule
from orchestrator.testing import FakeSession
from orchestrator.training import checkpoint
from orchestrator.training.batches import Inputs, batches
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import Part
from orchestrator.training.device import private_random, seed_random
from orchestrator.training.evaluate import evaluate
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.trainer import Trainer
from tests.trainings import DIGITS, a_run, losses, objective, train

# --- what a run gives


def test_the_losses_of_this_version_of_the_training_code() -> None:
    """Golden losses: if they move on purpose, raise TRAINING_VERSION and write the new ones here.

    They hold for any CPU to the tolerance, which is far below what a change of method makes.
    """
    session, _ = train(objective(), a_run())
    expected = [(2.2838, 2.2085), (1.96, 1.3769), (0.8712, 0.6404), (0.4298, 0.498)]
    assert np.array(losses(session)) == pytest.approx(np.array(expected), rel=1e-3)


def test_a_run_reports_rates_progress_and_results() -> None:
    """Points stand where the run says, with the rates of the step just made."""
    run = a_run(points=3)
    session, result = train(objective(), run)
    assert [p.step for p in session.points] == run.report_steps() == [13, 27, 40]
    for point in session.points:
        assert point.progress == point.step / 40
        assert (point.lr, point.momentum) == run.schedule.at((point.step - 1) / 40)
        assert 0 <= point.metric <= 1
    assert result.examples == 40 * 32
    assert result.seconds == session.points[-1].seconds > session.points[0].seconds > 0
    assert math.isnan(result.test_loss)


def test_the_steps_are_those_of_torch_sgd() -> None:
    """The loop equals a hand-written one: nesterov, coupled decay, rates set before each step."""
    made = objective(seed=5)
    run = a_run(steps=12, points=1, replicate=2)
    session, _ = train(made, run)
    setup = made._setup
    torch.manual_seed(run_seed(5, 2, "weights"))
    model = setup.make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, weight_decay=1e-3, nesterov=True)
    feed = batches(setup.inputs, 32, run_seed(5, 2, "order"))
    total = 0.0
    for step in range(12):
        sgd.param_groups[0].update(run.schedule.at(step / 12)._asdict())
        x, y = next(feed)
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        sgd.step()
        total += loss.item() / 12
    assert session.points[0].train_loss == pytest.approx(total, rel=1e-5)


def test_a_run_is_repeatable_and_replicates_differ() -> None:
    """Twice the same run: the same bits, whatever ran before. Another replicate: others."""
    made = objective()
    first, _ = train(made, a_run())
    other, _ = train(made, a_run(replicate=1))
    again, _ = train(objective(), a_run())
    assert losses(first) == losses(again) != losses(other)


def test_candidates_are_paired() -> None:
    """With a learning rate near zero and any momentum, all runs of a replicate start alike."""
    made = objective()
    tiny = {"steps": 2, "points": 2, "weight_decay": 0.0}
    low = Schedule("constant", 1e-12, 1e-12, 0.5, 0.5)
    high = Schedule("constant", 1e-12, 1e-12, 0.99, 0.99)
    one, _ = train(made, a_run(**tiny, schedule=low))
    two, _ = train(made, a_run(**tiny, schedule=high))
    assert np.array(losses(one)) == pytest.approx(np.array(losses(two)), rel=1e-6)


def test_training_leaves_the_callers_random_state_alone() -> None:
    """The study's seed decides; torch's global state is what it was."""
    before = torch.get_rng_state()
    train(objective(model=ModelConfig(dropout=0.5)), a_run())
    assert torch.equal(before, torch.get_rng_state())


def test_reports_use_the_frozen_subset_but_the_last_uses_all() -> None:
    """Of a "train" run; a ramp uses the subset throughout. (The network stands still here.)"""
    still = {"held_out_examples": 10, "schedule": Schedule("constant", 1e-12, 1e-12, 0.9, 0.9)}
    made = objective()
    session, _ = train(made, a_run(**still))
    ramp, _ = train(made, a_run(kind="ramp", **still))
    subset, whole = session.points[0].held_out_loss, session.points[-1].held_out_loss
    assert subset != pytest.approx(whole, rel=1e-3)
    assert [p.held_out_loss for p in ramp.points] == pytest.approx([subset] * 4, rel=1e-6)
    torch.manual_seed(run_seed(0, 0, "weights"))
    expected, _ = evaluate(
        made._setup.make_model(), made._setup.inputs, made._setup.inputs.held_out
    )
    assert whole == pytest.approx(expected, rel=1e-6)


def test_a_run_that_diverged_ends_with_that_report() -> None:
    """A loss that is not finite is reported once; no time is spent on the rest."""
    wild = Schedule("constant", 1e6, 1e6, 0.9, 0.9)
    session, result = train(objective(), a_run(schedule=wild, points=10))
    assert len(session.points) < 10
    assert not all(math.isfinite(v) for v in losses(session)[-1])
    assert result.examples == session.points[-1].step * 32


def test_the_sealed_test_is_opened_by_runs_that_say_so() -> None:
    """Such a run gives test loss and accuracy, and the trained network as a state_dict file."""
    made = objective()
    session, result = train(made, a_run(opens_test=True))
    assert 0 < result.test_loss < 2.3
    assert result.test_metric * 50 == pytest.approx(round(result.test_metric * 50))
    assert session.model is not None
    model = made._setup.make_model()
    model.load_state_dict(torch.load(BytesIO(session.model), weights_only=True))
    found = made._setup
    loss, _ = evaluate(model, found.inputs, found.inputs.on_device(found.data.open_test()))
    assert loss == pytest.approx(result.test_loss, rel=1e-5)


def test_real_digits_are_learned() -> None:
    """A small network on all digits, two epochs: most of the test is right."""
    _, result = train(objective(DataConfig()), a_run(steps=74, points=1, opens_test=True))
    assert result.test_metric > 0.85


def test_too_large_a_batch_is_one_clear_line() -> None:
    """The message names batch and data size."""
    with pytest.raises(ValueError, match=r"batch_size=301: choose 1 to 300"):
        train(objective(), a_run(batch_size=301))


def test_bfloat16_trains() -> None:
    """With autocast the losses are those of float32 to two digits."""
    exact, _ = train(objective(), a_run())
    rough, _ = train(objective(precision="bfloat16"), a_run())
    assert losses(exact) != losses(rough)
    assert np.array(losses(rough)) == pytest.approx(np.array(losses(exact)), rel=0.1)


# --- batches


def feed(augment: bool = True, first: int = 0, count: int = 20) -> list[tuple[Tensor, Tensor]]:
    config = DataConfig(**{**DIGITS.model_dump(), "augment": augment})
    inputs = Inputs(load(config, Path("unused")), torch.device("cpu"))
    made = batches(inputs, 32, seed=1, first=first)
    return [next(made) for _ in range(count)]


@pytest.mark.parametrize("first", [0, 3, 9, 13])
def test_batches_are_a_pure_function_of_their_step(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever begins at step n gets what others get there, also within a chunk."""
    monkeypatch.setattr("orchestrator.training.batches.CHUNK_BYTES", {"cpu": 4 * 4 * 32 * 64})
    for (x, y), (x2, y2) in zip(feed()[first:], feed(first=first, count=20 - first), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_an_epoch_sees_each_example_once() -> None:
    """300 examples make nine batches of 32, all different; the rest waits for another epoch."""
    seen = torch.cat([x for x, _ in feed(augment=False, count=9)]).flatten(1)
    assert len(torch.unique(seen, dim=0)) == 9 * 32


def test_crops_move_images_by_at_most_the_border() -> None:
    """With augmentation an image is one of the nine windows of its bordered self."""
    data = load(DataConfig(**{**DIGITS.model_dump(), "augment": True}), Path("unused"))
    inputs = Inputs(data, torch.device("cpu"))
    x, _ = inputs.gather(
        inputs.train, torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)
    )
    border = inputs.train.x[0, :, :, 0]
    windows = [border[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    expected = torch.stack([inputs.normalised(w[None, :, :, None])[0] for w in windows])
    distances = (x[:, None] - expected[None]).abs().amax((2, 3, 4))
    assert distances.amin(1).max() == 0
    assert len(distances.argmin(1).unique()) == 9


def test_colour_images_are_mirrored_half_of_the_time() -> None:
    """Digits never are; other images in half of the draws."""
    data = load(DataConfig(**{**DIGITS.model_dump(), "augment": True}), Path("unused"))
    inputs = Inputs(data, torch.device("cpu"))
    inputs.mirrored, inputs.border = True, 0
    inputs.train = inputs.on_device(data.train)
    x, _ = inputs.gather(
        inputs.train, torch.zeros(400, dtype=torch.int64), torch.Generator().manual_seed(0)
    )
    plain = inputs.normalised(inputs.train.x[:1])
    assert sum(torch.equal(a, plain[0].flip(2)) for a in x) == pytest.approx(200, abs=40)


def test_inputs_are_normalised_and_scaled() -> None:
    """Mean 0 and deviation 1 over the training data, times `scale`."""
    data = load(DataConfig(scale=3), Path("unused"))
    inputs = Inputs(data, torch.device("cpu"))
    x = inputs.normalised(inputs.train.x)
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(3, rel=1e-3)


# --- batch norm in a ramp


def test_a_ramp_is_measured_with_batch_statistics() -> None:
    """The running ones lag behind; they are not touched, and the network is as it was."""
    inputs = Inputs(load(DIGITS, Path("unused")), torch.device("cpu"))
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).train()
    with torch.no_grad():
        model[0].running_mean.fill_(100)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lagging, _ = evaluate(model, inputs, inputs.held_out)
    fresh, _ = evaluate(model, inputs, inputs.held_out, batch_statistics=True)
    assert fresh < 3 < 10 < lagging
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training


# --- checkpoints


def hard() -> TrainingObjective:
    data = DataConfig(**{**DIGITS.model_dump(), "augment": True})
    return objective(data, OwnConfig(_target_="tests.trainings.Hard"))


@pytest.mark.parametrize("until", [1, 3])
def test_a_resumed_run_is_bit_equal_to_an_undisturbed_one(until: int) -> None:
    """Dropout, batch norm, crops, momentum and the end within an epoch: not a bit is lost."""
    whole, result = train(hard(), a_run())
    cut = FakeSession(a_run(), stop_at=until)
    with pytest.raises(StopRun):
        hard()(a_run(), cut)
    resumed = FakeSession(a_run(), cut.checkpoint)
    again = hard()(a_run(), resumed)
    assert cut.checkpoint is not None
    assert losses(resumed) == losses(whole)
    assert resumed.points[:until] == cut.points
    assert again.examples == result.examples


class Scattered(nn.Module):
    """A user's network that draws its weights from NumPy and its noise from Python and NumPy."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Linear(64, num_classes)
        start = np.random.normal(size=(num_classes, 64))  # noqa: NPY002
        self.body.weight.data = torch.tensor(start / 8).float()

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)  # noqa: NPY002
        scores: Tensor = self.body(x.flatten(1)) * (1 + noise * self.training)
        return scores


def test_a_network_that_draws_from_numpy_and_python_repeats_and_resumes() -> None:
    """Their global states are seeded like torch's, kept with checkpoints, and left as found."""

    def scattered() -> TrainingObjective:
        return objective(model=OwnConfig(_target_=f"{__name__}.Scattered"))

    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    whole, _ = train(scattered(), a_run())
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    random.random(), np.random.normal()  # noqa: NPY002
    cut = FakeSession(a_run(), stop_at=2)
    with pytest.raises(StopRun):
        scattered()(a_run(), cut)
    resumed = FakeSession(a_run(), cut.checkpoint)
    scattered()(a_run(), resumed)
    assert losses(resumed) == losses(whole)
    other, _ = train(scattered(), a_run(replicate=1))
    assert losses(other)[0] != losses(whole)[0]


def test_checkpoints_are_saved_when_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run goes on from its last report when that was saved."""
    monkeypatch.setattr(checkpoint.Keeper, "is_due", lambda self: True)
    cut = FakeSession(a_run(), stop_at=3, stop=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        hard()(a_run(), cut)
    resumed = FakeSession(a_run(), cut.checkpoint)
    hard()(a_run(), resumed)
    whole, _ = train(hard(), a_run())
    assert resumed.points[:2] == cut.points[:2]  # their seconds, too: not trained again
    assert losses(resumed) == losses(whole)


def test_a_run_ended_by_its_own_rule_saves_nothing() -> None:
    """A ramp that stopped is finished: a checkpoint would be of no use."""
    session = FakeSession(a_run(), stop_at=1, stop=StopRun("diverged", pruned=False))
    with pytest.raises(StopRun):
        objective()(a_run(), session)
    assert session.checkpoint is None


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign", "other network"])
def test_an_unreadable_checkpoint_means_to_start_over(damage: str) -> None:
    """Whatever the bytes are, the run is done from the start, and right."""
    cut = FakeSession(a_run(), stop_at=2)
    made = objective(model=ModelConfig(width=0.5 if damage == "other network" else 0.25))
    with pytest.raises(StopRun):
        made(a_run(), cut)
    assert cut.checkpoint is not None
    saved = {"empty": b"", "torn": cut.checkpoint[:5000], "foreign": b"PK\x03\x04" * 99}
    resumed = FakeSession(a_run(), saved.get(damage, cut.checkpoint))
    objective()(a_run(), resumed)
    whole, _ = train(objective(), a_run())
    assert losses(resumed) == losses(whole)


# --- probe and calibration


def test_a_calibration_measures_every_batch_size() -> None:
    """A time per step for each, and a spread that is a share; how long is the machine's affair."""
    run = a_run(kind="calibrate", batch_sizes=(16, 256))
    _, result = train(objective(), run)
    seconds = result.measured["seconds_per_step"]
    assert set(seconds) == {"16", "256"}
    assert all(value > 0 for value in seconds.values())
    assert set(result.measured["spread"]) == {"16", "256"}
    assert all(spread >= 0 for spread in result.measured["spread"].values())


def test_a_probe_says_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes grow with the batch; more than the data or the memory does not fit."""
    monkeypatch.setattr("orchestrator.training.memory._available", lambda device: 200_000)
    run = a_run(kind="probe", batch_sizes=(32, 300, 512))
    _, result = train(objective(), run)
    assert result.measured["fits"] == {"32": True, "300": False, "512": False}
    assert 0 < result.measured["bytes"]["32"] < result.measured["bytes"]["300"]


# --- the objective


def test_facts_notes_and_versions_describe_the_task() -> None:
    """What stages plan with, and what the report says."""
    made = objective(DataConfig(**{**DIGITS.model_dump(), "scale": 2.0}), final_epochs=7)
    facts, said = made.facts, made.describe()
    assert (facts.train_examples, facts.held_out_examples, facts.final_epochs) == (300, 100, 7)
    assert facts.chance_loss == pytest.approx(math.log(10))
    assert facts.metric == "accuracy"
    assert "300 of 1,438 training images" in said.notes[0]
    assert any("multiplied by 2" in note for note in said.notes)
    assert said.device == "cpu (1 thread)"
    assert torch.__version__.startswith(said.versions["torch"])


def test_the_context_holds_what_decides_a_result() -> None:
    """Model, data, seed, threads and precision change the key; where the data lie does not."""
    base = a_run().key(objective().context(a_run()))

    def key(*args: Any, **options: Any) -> str:
        return a_run().key(objective(*args, **options).context(a_run()))

    assert key() == key(DataConfig(**{**DIGITS.model_dump(), "folder": "elsewhere"})) == base
    others = [
        key(DataConfig(**{**DIGITS.model_dump(), "seed": 1})),
        key(DataConfig(**{**DIGITS.model_dump(), "scale": 2.0})),
        key(model=ModelConfig(width=0.5)),
        key(seed=1),
        key(precision="bfloat16"),
        key(threads=2),
    ]
    assert len({base, *others}) == 7


def test_the_sealed_test_enters_only_the_keys_of_runs_that_open_it() -> None:
    """Another test part leaves all other keys as they are."""
    other = DataConfig(**{**DIGITS.model_dump(), "test_examples": 40})
    few, many = objective(other), objective()
    assert few.context(a_run()) == many.context(a_run())
    assert "test_hash" not in many.context(a_run())
    opening = a_run(opens_test=True)
    assert few.context(opening)["test_hash"] != many.context(opening)["test_hash"]


def test_an_edited_network_is_another_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of the user's network is part of the key; the old text has the old key again."""
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second goes unnoticed

    def key(activation: str) -> str:
        layers = f"nn.Flatten(), nn.Linear(64, 16), nn.{activation}(), nn.Linear(16, 10)"
        text = f"from torch import nn\n\n\ndef net():\n    return nn.Sequential({layers})\n"
        (here / "edited.py").write_text(text)
        sys.modules.pop("edited", None)
        made = objective(model=OwnConfig(_target_="edited.net"))
        return a_run().key(made.context(a_run()))

    first, other, again = map(key, ("ReLU", "Tanh", "ReLU"))
    assert first == again != other


def test_a_device_that_is_not_there_is_one_line() -> None:
    """The message names the device."""
    with pytest.raises(ConfigError, match="device=cuda:99 is not there"):
        objective(device="cuda:99")


def test_only_the_end_of_a_run_is_measured_with_running_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Running batch-norm statistics lag behind early in a run and look like divergence."""
    used: list[bool] = []
    measure = Trainer.evaluate

    def spy(self: Trainer, part: Part, **options: Any) -> tuple[float, float]:
        used.append(options["batch_statistics"])
        return measure(self, part, **options)

    monkeypatch.setattr(Trainer, "evaluate", spy)
    train(objective(), a_run(points=3))
    assert used == [True, True, False]


def test_a_runs_dropout_is_that_of_the_model() -> None:
    """A run at .2 equals one of a model with .2; None keeps the model's own, and its key."""
    plain, dropping = objective(), objective(model=ModelConfig(width=0.25, dropout=0.2))
    assert (plain.facts.dropout, dropping.facts.dropout) == (0.0, 0.2)
    losses = [
        [p.held_out_loss for p in train(o, a_run(dropout=d))[0].points]
        for o, d in ((plain, 0.2), (dropping, None), (dropping, 0.0), (plain, None))
    ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[2] == losses[3]
    assert "dropout" not in a_run().spec()
    assert "dropout" not in a_run().params()
    assert a_run(dropout=0.2).params()["dropout"] == 0.2
    assert a_run(dropout=0.2).key({}) != a_run().key({})


def test_random_numbers_are_seeded_as_by_torch() -> None:
    """On the CPU the same draws as after `torch.manual_seed`, without its cost."""
    with private_random(torch.device("cpu")):
        torch.manual_seed(17)
        drawn = torch.rand(4)
        seed_random(torch.device("cpu"), 17)
        assert torch.equal(torch.rand(4), drawn)
