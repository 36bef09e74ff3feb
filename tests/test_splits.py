"""The user's own splits and groups, image files in folders, torchvision's data sets, tokens."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from orchestrator.config.sections import DataConfig, OwnDataConfig
from orchestrator.training.batches import Inputs
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import DataError

X = np.arange(120, dtype=np.float32).reshape(60, 2)
LABELS = np.arange(60) % 3
GIVEN = {"x_train": X, "y_train": LABELS, "x_test": X[:9], "y_test": LABELS[:9]}
VAL = {"x_val": X[:12] + 0.5, "y_val": LABELS[:12]}
GROUPS = np.repeat([f"patient {i}" for i in range(15)], 4)


def of(**changes: Any) -> dict[str, Any]:
    """A user's data, as a dict."""
    return CASES[changes["case"]]


def three() -> tuple[TensorDataset, ...]:
    """A user's data, as three Datasets."""
    x, y = torch.from_numpy(X), torch.from_numpy(LABELS)
    return TensorDataset(x, y), TensorDataset(x[:12], y[:12]), TensorDataset(x[:9], y[:9])


def datasets() -> dict[str, Any]:
    """A user's data, as named Datasets with groups."""
    train, _, test = three()
    return {"train": train, "test": test, "groups": GROUPS}


CASES: dict[str, dict[str, Any]] = {
    "val": {**GIVEN, **VAL},
    "groups": {**GIVEN, "groups": GROUPS},
    "both": {**GIVEN, **VAL, "groups": GROUPS},
    "half": {**GIVEN, "x_val": X},
    "short": {**GIVEN, "groups": GROUPS[:-1]},
    "one": {**GIVEN, "groups": np.zeros(60)},
    "two": {**GIVEN, "groups": np.arange(60) < 59},
    "odd": {**GIVEN, "x_valid": X},
    "less": {"x_train": X},
    "shape": {**GIVEN, **VAL, "x_val": X[:12, :1]},
    "tokens": {k: v.astype(np.int32) for k, v in GIVEN.items()},
}


def my(name: str, **arguments: Any) -> OwnDataConfig:
    return OwnDataConfig(_target_=f"{__name__}.{name}", **arguments)


def npz(folder: Path, case: str, **more: Any) -> DataConfig:
    np.savez(folder / "data.npz", **CASES[case])
    return DataConfig(name="arrays", path=str(folder / "data.npz"), **more)


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


def one_line(function: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_split_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    """Of arrays in a file, of a dict, of three Datasets: nothing is moved, nothing left out."""
    for data in (load(npz(tmp_path, "val"), tmp_path), load(my("of", case="val"), tmp_path)):
        assert rows(data.train.x) == rows(torch.from_numpy(X))
        assert rows(data.held_out.x) == rows(torch.from_numpy(VAL["x_val"]))
        assert "12 of 12 given ones held out" in data.source
    data = load(my("three"), tmp_path)
    assert (len(data.train), len(data.held_out), len(data.open_test())) == (60, 12, 9)
    few = load(npz(tmp_path, "val", train_examples=30, held_out_examples=6), tmp_path)
    assert (len(few.train), len(few.held_out)) == (30, 6)
    assert torch.bincount(few.held_out.y).tolist() == [2, 2, 2]


@pytest.mark.parametrize("held_out", [None, 1, 10, 33])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_group_is_never_on_both_sides(tmp_path: Path, held_out: int | None, seed: int) -> None:
    """Whole groups are held out; asked for fewer examples, the rest of a group is not used."""
    config = npz(tmp_path, "groups", held_out_examples=held_out, seed=seed)
    data = load(config, tmp_path)
    sides = [{int(row[0]) // 8 for row in part.x} for part in (data.train, data.held_out)]
    assert not sides[0] & sides[1]
    assert len(data.held_out) == (held_out or 10)
    assert len(data.train) == 60 - 4 * len(sides[1])
    assert len(load(my("datasets"), tmp_path).held_out) == 10


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("both", "groups: not used with x_val and y_val"),
        ("half", "x_val and y_val go together"),
        ("short", "groups: need one per training example, shape (60,), got (59,)"),
        ("one", "groups: there is only one group"),
        ("odd", "'x_valid': must be one of x_train, y_train, x_test, y_test, x_val"),
        ("less", "lacks y_train, x_test, y_test"),
        ("shape", "training and validation inputs differ in shape: (2,) and (1,)"),
    ],
)
def test_unusable_splits_are_one_line(tmp_path: Path, case: str, line: str) -> None:
    """Every kind has its own message."""
    assert line in one_line(lambda: load(my("of", case=case), tmp_path))


def test_groups_that_leave_too_few_to_train_on_are_one_line(tmp_path: Path) -> None:
    """One group of two has nearly all."""
    config = npz(tmp_path, "two", train_examples=50)
    assert "are left to train on, 50 are needed" in one_line(lambda: load(config, tmp_path))


def test_whole_numbers_of_two_dimensions_are_tokens(tmp_path: Path) -> None:
    """They are int64 on the device, neither normalised nor scaled."""
    data = load(my("of", case="tokens"), tmp_path)
    assert data.tokens
    inputs = Inputs(data, torch.device("cpu"))
    x, _ = inputs.gather(inputs.train, torch.tensor([3, 4]), torch.Generator())
    assert torch.equal(x, data.train.x[3:5])
    assert x.dtype == torch.int64


# --- files of images


def images(folder: Path, parts: tuple[str, ...] = ("train", "test"), size: int = 8) -> DataConfig:
    """Write a dark and a bright class, return the config of that folder."""
    for part in parts:
        for name, value in (("cats", 20), ("dogs", 200)):
            where = folder / part / name
            where.mkdir(parents=True)
            for i in range(12 if part == "train" else 4):
                Image.new("RGB", (size, size), (value + i,) * 3).save(where / f"{i}.png")
    return DataConfig(name="folder", path=str(folder))


def test_image_folders_are_classes(tmp_path: Path) -> None:
    """train/ and test/ of one folder a class; without val/ a part of the training is held out."""
    data = load(images(tmp_path / "pets"), tmp_path)
    assert data.input_shape == (3, 8, 8)
    assert (len(data.train), len(data.held_out), len(data.open_test())) == (20, 4, 8)
    bright = data.train.x.float().mean((1, 2, 3)) > 100
    assert torch.equal(bright.long(), data.train.y)


def test_a_folder_val_is_held_out(tmp_path: Path) -> None:
    """As it is, and nothing else."""
    data = load(images(tmp_path / "pets", ("train", "val", "test")), tmp_path)
    assert (len(data.train), len(data.held_out)) == (24, 8)


def test_images_of_any_size_are_cut_to_one(tmp_path: Path) -> None:
    """The shorter side is scaled to `image_size`, the middle is kept; without it, one line."""
    config = images(tmp_path / "pets")
    Image.new("RGB", (40, 20)).save(tmp_path / "pets/train/cats/0.png")
    assert "images differ in size, from 8x8 to 40x20: set data.image_size" in one_line(
        lambda: load(config, tmp_path)
    )
    sized = DataConfig(name="folder", path=config.path, image_size=10)
    assert load(sized, tmp_path).input_shape == (3, 10, 10)


def test_folders_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    """No path, no test part, other classes, a class without images."""
    assert "data.path is not set" in one_line(lambda: load(DataConfig(name="folder"), tmp_path))
    config = images(tmp_path / "pets", ("train",))
    assert "has no folder test/" in one_line(lambda: load(config, tmp_path))
    other = images(tmp_path / "more")
    (tmp_path / "more/test/cats").rename(tmp_path / "more/test/birds")
    line = "train/ and test/ differ in classes: birds, cats"
    assert line in one_line(lambda: load(other, tmp_path))
    (tmp_path / "more/train/empty").mkdir()
    assert "train/: Found no valid file for the classes empty" in one_line(
        lambda: load(other, tmp_path)
    )


def mnist(folder: Path) -> None:
    """Write files in the format of MNIST, as torchvision reads them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 30), ("t10k", 10)):
        pixels = np.repeat(np.arange(count, dtype=np.uint8) % 10, 28 * 28).tobytes()
        labels = bytes(i % 10 for i in range(count))
        heads = (struct.pack(">IIII", 2051, count, 28, 28), struct.pack(">II", 2049, count))
        for kind, head, body in zip(
            ("images-idx3", "labels-idx1"), heads, (pixels, labels), strict=True
        ):
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + body)
            with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + body)


def test_data_sets_of_torchvision_are_read_by_name(tmp_path: Path) -> None:
    """Also as a class of `data._target_`, of which both parts are made."""
    mnist(tmp_path)
    known = {"name": "torchvision", "folder": str(tmp_path), "download": False}
    data = load(DataConfig(dataset="MNIST", **known), tmp_path)  # type: ignore[arg-type]
    own = OwnDataConfig(_target_="torchvision.datasets.MNIST", root=str(tmp_path))
    same = load(own, tmp_path)
    assert data.train_hash == same.train_hash
    assert data.input_shape == (1, 28, 28)
    assert torch.equal(data.train.x[:, 0, 0, 0].long(), data.train.y)


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (None, "data.dataset: is not set: must be one of"),
        ("mnist", "'mnist' is not allowed: must be one of"),
        ("FakeData", "'FakeData' is not allowed"),
        ("ImageFolder", "has no separate training and test part"),
        ("KMNIST", "torchvision.datasets.KMNIST raised RuntimeError: Dataset not found"),
    ],
)
def test_data_sets_that_are_not_there_are_one_line(
    tmp_path: Path, dataset: str | None, line: str
) -> None:
    """Names of nothing, files that are missing, data without two parts."""
    from orchestrator.errors import ConfigError

    config = DataConfig(name="torchvision", dataset=dataset, folder=str(tmp_path), download=False)
    with pytest.raises(ConfigError) as caught:
        load(config, tmp_path)
    assert line in str(caught.value)
    assert len(caught.value.lines) == 1
