"""Targets mean what the user means: marks, names, signs, gaps; what was understood is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from orchestrator.changes import digest, since
from orchestrator.config.options import OwnConfig
from orchestrator.config.schema import Config
from orchestrator.config.sections import LossConfig, ModelConfig, OwnDataConfig, TrainingConfig
from orchestrator.curve import Result
from orchestrator.errors import ConfigError
from orchestrator.recipe import Recipe
from orchestrator.report.snippet import pytorch
from orchestrator.testing import FakeSession
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import Data
from orchestrator.training.objective import TrainingObjective
from orchestrator.training.task import Task
from tests.trainings import a_run, losses, objective, train

N = 300
X = np.random.default_rng(0).normal(size=(N, 4))
CLASSES = X[:, :3].argmax(1)
SIGNS = np.where(X[:, 0] > 0, 1, -1)
GIVEN: dict[str, Any] = {}  # what `mine` returns


def mine() -> Any:
    """A user's function: what the test put into GIVEN."""
    return GIVEN["data"]


def own(y: Any, x: Any = X, **settings: Any) -> OwnDataConfig:
    GIVEN["data"] = (x, y, x[:60], y[:60])
    return OwnDataConfig(_target_=f"{__name__}.mine", **settings)


def loaded(y: Any, loss: str | None = "cross_entropy", **settings: Any) -> Data:
    chosen = LossConfig(name=loss) if loss else OwnConfig(_target_=f"{__name__}.own_loss")
    return load(own(y, **settings), Path("unused"), Task(chosen))


def own_loss(scores: Tensor, y: Tensor) -> Tensor:
    """A loss of the user's own, of whatever there is."""
    return scores.square().mean()


# --- labels that plainly mean classes


@pytest.mark.parametrize(
    ("y", "note"),
    [
        (np.eye(3, dtype=int)[CLASSES], "Targets (n, 3) are one-hot: used as classes 0 to 2."),
        (np.eye(3)[CLASSES], "Targets (n, 3) are one-hot: used as classes 0 to 2."),
        (
            CLASSES.astype(float),
            "Labels are floats that are whole numbers: used as class numbers.",
        ),
        (np.array(list("abc"))[CLASSES], "Labels are texts: 0 is a, 1 is b, 2 is c."),
        (pd.Series(["a", "b", "c"])[CLASSES], "Labels are texts: 0 is a, 1 is b, 2 is c."),
        (
            pd.Categorical(np.array(list("abc"))[CLASSES]),
            "Labels are texts: 0 is a, 1 is b, 2 is c.",
        ),
    ],
)
def test_labels_that_plainly_mean_classes_are_taken_with_a_note(y: Any, note: str) -> None:
    """The same class numbers, the same split, and a sentence."""
    plain, other = loaded(CLASSES), loaded(y)
    assert torch.equal(plain.train.y, other.train.y)
    assert other.classes == 3
    assert note in other.notes
    assert plain.notes == ()


@pytest.mark.parametrize("y", [SIGNS, SIGNS.astype(float), SIGNS.astype(np.int8)])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits"])
def test_signs_are_two_classes_or_a_label(y: Any, loss: str) -> None:
    """-1 and 1 are taken as 0 and 1 by the losses that want those."""
    data = loaded(y, loss)
    assert sorted(data.train.y.unique().tolist()) == [0, 1]
    assert data.classes == (2 if loss == "cross_entropy" else 1)
    assert "Labels -1 and 1 are used as 0 and 1." in data.notes


@pytest.mark.parametrize("y", [np.uint8, np.int8, np.uint16, ">i4", bool])
def test_labels_may_be_whole_numbers_of_any_type(y: Any) -> None:
    """Of two classes, so that truth values are some too."""
    assert torch.equal(loaded(CLASSES % 2).train.y, loaded((CLASSES % 2).astype(y)).train.y)


WITH_A_GAP = np.array(["a", "b", "c"], object)[CLASSES]
WITH_A_GAP[7] = np.nan

# --- classes that not every part has


def test_a_class_without_training_examples_is_told_and_trained() -> None:
    """A rare species: the network has a score for it."""
    rare = np.where(CLASSES == 1, 3, CLASSES)
    data = loaded(rare)
    assert data.classes == 4
    assert "The training data have no example of class 1 of 4." in data.notes
    made = objective(own(rare), ModelConfig(width=0.2))
    assert train(made, a_run())[0].points[-1].metric > 0.5
    assert made.facts.chance_loss == pytest.approx(np.log(3), rel=1e-2)


def test_labels_that_begin_at_one_are_told() -> None:
    """Class 0 then has no example; the cure is named."""
    (note,) = loaded(CLASSES + 1).notes
    assert note.endswith("of class 0 of 4. If labels begin at 1, subtract 1.")


def test_a_class_of_the_test_data_alone_counts() -> None:
    """It needs a score as well; that none is trained on is told."""
    GIVEN["data"] = (X, CLASSES % 2, X[:60], CLASSES[:60])
    data = load(OwnDataConfig(_target_=f"{__name__}.mine"), Path("unused"))
    assert data.classes == 3
    assert data.notes == ("The training data have no example of class 2 of 3.",)


def test_a_class_that_the_split_leaves_nothing_of_is_told() -> None:
    """Here by the number of training examples that are asked for."""
    rare = np.where(np.arange(N) == 7, 3, CLASSES)
    assert loaded(rare).notes == ()
    assert loaded(rare, train_examples=100).notes == (
        "The training data have no example of class 3 of 4.",
    )


def test_few_of_many_class_numbers_are_told_with_the_usual_cause() -> None:
    """255 is often the mark of what has no label."""
    (note,) = loaded(np.where(X[:, 3] > 0, 255, CLASSES)).notes
    assert note.startswith("Labels use 4 of 256 class numbers (0, 1, 2, 255). If 255 marks targets")
    assert "loss.ignore_index=255" in note


@pytest.mark.parametrize(
    ("y", "settings", "line"),
    [
        (CLASSES - 1, {}, "got -1 to 1; if -1 marks targets without a label: loss.ignore_index=-1"),
        (CLASSES * 100_000, {}, "labels go up to 200000, but there are only 300 training labels:"),
        (CLASSES, {"classes": 2}, "data.classes=2: labels go up to 2, so it must be 3"),
        (CLASSES * 0, {}, "training data of one class"),
        (np.full((N, 2), 0.5), {}, "for probabilities of classes loss._target_=torch.nn.CrossEnt"),
        (X[:, 0], {}, "for regression choose loss=mse"),
        (WITH_A_GAP, {}, "it holds texts and nan: is that a missing value? Leave its example out"),
        (1.76e9 + X[:, 0], {}, "y_train: these targets are equal in float32"),
    ],
)
def test_labels_that_mean_nothing_plain_are_refused(
    y: Any, settings: dict[str, Any], line: str
) -> None:
    """One line that ends in the cure."""
    with pytest.raises(ConfigError) as caught:
        loaded(y, **settings)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_number_of_classes_may_be_given() -> None:
    """By `data.classes`, or by a network that has more scores than labels say."""
    assert loaded(CLASSES, classes=5).classes == 5
    wide = OwnConfig(_target_="torch.nn.Linear", in_features=4, out_features=7)
    made = objective(own(CLASSES), wide)
    assert made.facts.chance_loss == pytest.approx(np.log(3), rel=1e-2)
    assert "The network returns 7 scores; labels go up to 2." in made.describe().notes
    narrow = OwnConfig(_target_="torch.nn.Linear", in_features=4, out_features=2)
    with pytest.raises(
        ConfigError, match=r"one score per class, shape \(examples, 3\), got \(2, 2"
    ):
        objective(own(CLASSES), narrow)


@pytest.mark.parametrize(
    ("y", "count"),
    [
        (CLASSES, 3),
        (np.where(X[:, 3] > 0, -100, CLASSES), 3),  # marked, not a regression
        (np.where(X > 0, -1, CLASSES[:, None]), 3),  # (n, 4): not the size of a target
        (SIGNS, 1),  # of a hinge
        (X[:, 0], 1),
        (X, 4),
    ],
)
def test_a_loss_of_ones_own_is_offered_a_count_that_marks_do_not_turn(y: Any, count: int) -> None:
    """Classes where labels are whole numbers; the size of a target where they are not."""
    assert loaded(y, None).classes == count


def test_settings_that_came_later_change_no_earlier_study(tmp_path: Path) -> None:
    """While they are null they are in no key, no config.yaml and no digest."""
    plain = Config.from_mapping({}).as_mapping()
    assert "classes" not in plain["data"]
    assert "ignore_index" not in plain["loss"]
    chosen = Config.from_mapping({"data": {"classes": 12}, "loss": {"ignore_index": 3}})
    assert chosen.as_mapping()["data"]["classes"] == 12
    assert digest(chosen.as_mapping()) != digest(plain)
    made = objective(loss=LossConfig(name="mse"))
    assert made.context(a_run())["loss"] == {"name": "mse", "delta": 1.0}
    assert since({}, plain) == []


# --- a label that marks what has none


def marked(void: int, share: float = 0.4) -> Any:
    """A user's segmentation: three classes, many pixels without a label."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3, 6, 6)).astype("float32")
    y = (x + 0.3 * rng.normal(size=x.shape)).argmax(1)
    y[rng.random(y.shape) < share] = void
    return x, y


class Pixels(nn.Module):
    """A score per class for each pixel, classes last."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, h, w, classes)."""
        scores: Tensor = self.body(x).movedim(1, -1)
        return scores


def segmented(void: int, loss: LossConfig | None = None, **more: Any) -> TrainingObjective:
    x, y = marked(void)
    chosen = loss or LossConfig(ignore_index=void)
    return objective(own(y, x), OwnConfig(_target_=f"{__name__}.Pixels"), loss=chosen, **more)


def segment(made: TrainingObjective) -> tuple[FakeSession, Result]:
    return train(made, a_run(opens_test=True, batch_size=20, steps=60))


@pytest.mark.parametrize("void", [255, -100, 1000, -1])
def test_an_ignored_label_plays_no_part(void: int) -> None:
    """Whatever its number: classes, chance, loss and accuracy are of the labelled pixels."""
    made, usual = segmented(void), segmented(255)
    assert made._setup.data.classes == 3
    assert made.facts.chance_loss == pytest.approx(np.log(3))
    session, result = segment(made)
    assert (losses(session), result.test_metric) == (
        losses(segment(usual)[0]),
        segment(usual)[1].test_metric,
    )
    assert result.test_metric > 0.8
    assert not [note for note in made.describe().notes if "ignore_index" in note]


def test_loss_and_accuracy_are_means_over_labelled_pixels() -> None:
    """Checked against torch's own, on a part whose examples have different numbers of them."""
    task = Task(LossConfig(ignore_index=9))
    scores, y = torch.randn(8, 5, 7), torch.randint(0, 5, (8, 7))
    y[:4, :6] = 9
    expected = nn.functional.cross_entropy(scores, y, ignore_index=9)
    assert torch.allclose(task.mean(scores, y), expected)
    assert torch.allclose(task.total(scores, y) / task.count(y), expected)
    right = (scores.argmax(1) == y)[y != 9].float().mean()
    assert torch.allclose(task.hits(scores, y) / task.count(y), right)
    smoothed = nn.functional.cross_entropy(scores, y, ignore_index=9, label_smoothing=0.1)
    assert torch.allclose(task.mean(scores, y, 0.1), smoothed)


def test_a_batch_without_a_label_costs_nothing() -> None:
    """Where torch's own mean is not a number."""
    task = Task(LossConfig(ignore_index=9))
    scores = torch.randn(2, 5, 7, requires_grad=True)
    task.mean(scores, torch.full((2, 7), 9)).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) == 0


def test_pieces_of_a_batch_are_weighed_by_their_labels() -> None:
    """The gradient of the whole batch, though its pieces hold different numbers of labels."""
    whole, _ = segment(segmented(255))
    pieces, _ = segment(segmented(255, objective=TrainingConfig(micro_batch_size=7)))
    for a, b in zip(losses(whole), losses(pieces), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("void", [255, -1])
def test_marks_that_are_not_named_are_told_or_refused(void: int) -> None:
    """With the setting that names them."""
    made: Callable[[], TrainingObjective] = lambda: segmented(void, LossConfig())  # noqa: E731
    if void < 0:
        with pytest.raises(ConfigError, match=r"loss.ignore_index=-1"):
            made()
    else:
        assert any("loss.ignore_index=255" in note for note in made().describe().notes)


def test_labels_that_are_all_ignored_are_refused() -> None:
    """There is nothing to learn from, or to decide by."""
    with pytest.raises(ConfigError, match=r"y_train: loss.ignore_index=1 leaves no label at all"):
        load(own(CLASSES * 0 + 1), Path("unused"), Task(LossConfig(ignore_index=1)))


def test_the_code_to_paste_ignores_the_label_too() -> None:
    """With label smoothing beside it as well."""
    made = segmented(255)
    task = made.describe().task
    assert task is not None
    assert task["loss"] == "loss_function = torch.nn.CrossEntropyLoss(ignore_index=255)"
    recipe = replace(Recipe(max_lr=0.1), optimizer_options={"label_smoothing": 0.1})
    code = pytorch(recipe, 1, None, task) or ""
    assert "torch.nn.CrossEntropyLoss(ignore_index=255, label_smoothing=0.1)" in code


def test_only_cross_entropy_ignores_a_label() -> None:
    """A regression has none."""
    with pytest.raises(ConfigError, match=r"loss.ignore_index: 3 is not allowed: only loss cross"):
        Config.from_mapping({"loss": {"name": "mse", "ignore_index": 3}})
