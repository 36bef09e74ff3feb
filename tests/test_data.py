import os
import pickle
import re
from collections.abc import Callable
from hashlib import md5
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.config.sections import DataConfig, OwnDataConfig
from orchestrator.training.batches import Inputs
from orchestrator.training.data import cifar10
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import DataError
from orchestrator.training.data.splits import stratified_order

LABELS = np.arange(60) % 3


def arrays(tmp_path: Path, **changes: Any) -> DataConfig:
    """Write an .npz file of 60 grey images in 3 classes (changed as told), return its config."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    parts = {"x_train": images, "y_train": LABELS, "x_test": images[:9], "y_test": LABELS[:9]}
    path = tmp_path / "data.npz"
    np.savez(path, **{k: v for k, v in {**parts, **changes}.items() if v is not None})
    return DataConfig(name="arrays", path=str(path))


def options(config: DataConfig, **changes: Any) -> DataConfig:
    return DataConfig(**{**config.model_dump(), **changes})


def one_line(function: Callable[[], object]) -> str:
    """Return the message of the DataError that `function` raises, which is one line."""
    with pytest.raises(DataError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- splits


def test_every_prefix_of_the_order_is_stratified() -> None:
    """In any prefix each class has its share of the whole, within one example."""
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 7)
    order = stratified_order(y, seed=3)
    assert sorted(order) == list(range(87))
    for n in range(1, 88):
        counts = np.bincount(y[order[:n]], minlength=3)
        assert np.abs(counts - n * np.array([50, 30, 7]) / 87).max() <= 1.01


def test_digits_are_split_five_to_one_with_a_fifth_sealed(tmp_path: Path) -> None:
    """A fifth of the 1,797 digits is test data, a sixth of the rest is held out, as bytes."""
    data = load(DataConfig(), tmp_path)
    assert (len(data.train), len(data.held_out), len(data.open_test())) == (1198, 240, 359)
    assert data.train.x.dtype == torch.uint8
    assert data.input_shape == (1, 8, 8)
    assert data.classes == 10
    assert np.abs(np.bincount(data.held_out.y[:100]) - 10).max() <= 1


def test_only_the_seed_moves_the_split_and_never_the_test_part(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another one other training data and the same test."""
    first, again, other = (load(DataConfig(seed=s), tmp_path) for s in (0, 0, 1))
    assert first.train_hash == again.train_hash
    assert first.held_out_hash == again.held_out_hash
    assert first.train_hash != other.train_hash
    assert sorted(first.open_test().y.tolist()) == sorted(other.open_test().y.tolist())


def rows(x: Tensor) -> set[bytes]:
    return {bytes(row.numpy()) for row in x}


def test_a_smaller_training_part_leaves_the_held_out_part_alone(tmp_path: Path) -> None:
    """Subsets are stratified, nested, and apart from the held-out examples."""
    whole = load(DataConfig(held_out_examples=200), tmp_path)
    part = load(DataConfig(held_out_examples=200, train_examples=100), tmp_path)
    assert whole.held_out_hash == part.held_out_hash
    assert rows(part.train.x) < rows(whole.train.x)
    assert not rows(whole.train.x) & rows(whole.held_out.x)
    assert np.abs(np.bincount(part.train.y) - 10).max() <= 2


def test_held_out_is_a_sixth_of_the_data_used(tmp_path: Path) -> None:
    """With 500 training examples 100 are held out unless config says otherwise."""
    assert len(load(DataConfig(train_examples=500), tmp_path).held_out) == 100


def test_statistics_are_those_of_the_training_part(tmp_path: Path) -> None:
    """Mean and standard deviation per channel, of the training images alone."""
    data = load(DataConfig(), tmp_path)
    pixels = data.train.x.double()
    assert data.mean.item() == pytest.approx(pixels.mean().item())
    assert data.std.item() == pytest.approx(pixels.std(unbiased=False).item())


def test_images_are_mean_pooled(tmp_path: Path) -> None:
    """`image_size` 4 makes each pixel the rounded mean of four."""
    whole = load(DataConfig(), tmp_path)
    small = load(DataConfig(image_size=4), tmp_path)
    assert small.input_shape == (1, 4, 4)
    expected = whole.train.x[5, 0, :2, :2].float().mean().round()
    assert small.train.x[5, 0, 0, 0] == expected
    assert "pooled to 4x4" in small.source


# --- arrays and the user's own


def test_colour_last_images_and_features_are_understood(tmp_path: Path) -> None:
    """(n, h, w, 3) becomes (n, 3, h, w); two dimensions are features, of whatever floats."""
    colours = np.arange(60 * 192).reshape(60, 8, 8, 3).astype(np.uint8)
    images = load(arrays(tmp_path, x_train=colours, x_test=colours[:9]), tmp_path)
    assert images.input_shape == (3, 8, 8)
    table = np.ones((60, 5), np.float16)
    table[:, 4] = np.arange(60)
    features = load(arrays(tmp_path, x_train=table, x_test=table[:9]), tmp_path)
    assert features.input_shape == (5,)
    assert features.train.x.dtype == torch.float32
    assert features.std.tolist()[:4] == [1] * 4  # constant features are not divided by zero


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float64])
def test_of_three_dimensions_whole_numbers_are_grey_images_and_floats_are_signals(
    tmp_path: Path, kind: type
) -> None:
    """A channel is given to whole numbers only, and the study says so; signals stay (c, length)."""
    x = np.random.default_rng(0).integers(0, 9, (60, 2, 32)).astype(kind)
    data = load(arrays(tmp_path, x_train=x, x_test=x[:9]), tmp_path)
    signals = kind is np.float64
    assert data.input_shape == ((2, 32) if signals else (1, 2, 32))
    assert ("given a dimension for their channel" in data.source) != signals
    assert len(data.mean) == (2 if signals else 1)


def test_signals_are_normalised_by_channel(tmp_path: Path) -> None:
    """Each channel of the training part has mean 0 and standard deviation 1 on the device."""
    x = np.random.default_rng(0).normal([[5], [-3]], [[2], [7]], (60, 2, 16))
    data = load(arrays(tmp_path, x_train=x, x_test=x[:9]), tmp_path)
    inputs = Inputs(data, torch.device("cpu"))
    normal = inputs.normalised(inputs.train.x)
    assert normal.shape == (len(data.train), 2, 16)
    assert torch.allclose(normal.mean((0, 2)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(normal.std((0, 2), correction=0), torch.ones(2), atol=1e-5)


NAN = np.where(np.arange(60)[:, None] == 7, np.nan, np.ones((60, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": LABELS[:-1]}, "train: 60 inputs but 59 labels"),
        ({"y_train": LABELS * 0}, "training data of one class"),
        ({"y_train": LABELS / 2, "y_test": LABELS[:9] / 2}, "for regression choose loss=mse"),
        ({"x_train": NAN}, "x_train: NaN or infinite values, first in example 7, column 0"),
        ({"y_train": NAN[:, 0]}, "y_train: NaN or infinite values, first in example 7"),
        ({"x_train": NAN[:0], "y_train": LABELS[:0]}, "train: there are no examples"),
        ({"x_train": NAN[:0], "y_train": NAN[:0, 0]}, "train: there are no examples"),
        ({"x_test": np.zeros((9, 4, 4), np.uint8)}, "differ in shape: (1, 8, 8) and (1, 4, 4)"),
        ({"x_train": np.zeros(60)}, "got (60,); for a single feature use x[:, None]"),
        ({"x_train": np.array(["a"] * 60)}, "not an array of numbers: it holds texts: give"),
        ({"y_test": None}, "lacks y_test"),
    ],
)
def test_unusable_arrays_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Every kind of unusable array has its own message."""
    assert message in one_line(lambda: load(arrays(tmp_path, **changes), tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_examples": 51}, "data.train_examples=51: choose 1 to 50"),
        ({"held_out_examples": 60}, "data.held_out_examples=60: choose 1 to 59"),
        ({"test_examples": 10}, "data.test_examples=10: choose 1 to 9"),
        ({"image_size": 5}, "data.image_size=5: images of 8x8 can be mean-pooled to 4, 8"),
    ],
)
def test_sizes_that_are_not_there_name_key_value_and_limit(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """More examples than there are, or a size that does not divide, is refused."""
    config = options(arrays(tmp_path), held_out_examples=10)
    config = options(config, **changes)
    assert message in one_line(lambda: load(config, tmp_path))


def test_a_path_that_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    """Missing and foreign files are named."""
    for path in (tmp_path / "none.npz", Path(__file__)):
        config = DataConfig(name="arrays", path=str(path))
        line = one_line(lambda config=config: load(config, tmp_path))
        assert str(path) in line
        assert "pickle" not in line  # NumPy's advice is to trust what is none


def my_arrays(size: int) -> tuple[Any, ...]:
    """A user's function that returns arrays."""
    x = np.random.default_rng(0).normal(size=(60, size))
    return x, LABELS, x[:9], torch.from_numpy(LABELS[:9])


def my_datasets() -> tuple[TensorDataset, TensorDataset]:
    """A user's function that returns two torch Datasets."""
    x, y = torch.rand(60, 1, 8, 8), torch.from_numpy(LABELS)
    return TensorDataset(x, y), TensorDataset(x[:9], y[:9])


def my_three() -> tuple[Any, ...]:
    """A user's function that forgets the labels of the test."""
    return my_arrays(4)[:3]


def my_triples() -> tuple[TensorDataset, TensorDataset]:
    """A user's Datasets that give a weight too."""
    x, y = torch.rand(60, 4), torch.from_numpy(LABELS)
    return TensorDataset(x, y, y), TensorDataset(x, y, y)


def my_nonsense() -> str:
    """A user's function that returns something else."""
    return "data"


def my(name: str, **arguments: Any) -> OwnDataConfig:
    return OwnDataConfig(_target_=f"{__name__}.{name}", **arguments)


def test_the_users_function_may_give_arrays_or_datasets(tmp_path: Path) -> None:
    """Four arrays or tensors, or a pair of torch Datasets, make the same kind of data."""
    features, images = load(my("my_arrays", size=4), tmp_path), load(my("my_datasets"), tmp_path)
    assert features.input_shape == (4,)
    assert images.input_shape == (1, 8, 8)
    assert (len(images.train), len(images.held_out)) == (50, 10)
    assert "must return (x_train, y_train, x_test, y_test)" in one_line(
        lambda: load(my("my_nonsense"), tmp_path)
    )
    assert "returned 3 arrays, need four: x_train" in one_line(
        lambda: load(my("my_three"), tmp_path)
    )
    assert "rows must be (input, target), got 3 values (Tensor, Tensor, Tensor)" in one_line(
        lambda: load(my("my_triples"), tmp_path)
    )


# --- CIFAR-10


def jpeg(value: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def parquet(folder: Path, column: str = "jpeg") -> DataConfig:
    """Write 40 training images in two files and 4 test images, grey by class."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train-0", 20), ("train-1", 20), ("test-0", 4)):
        labels = [i % 2 for i in range(count)]
        blobs: list[Any] = [jpeg(50 + 100 * label) for label in labels]
        if column == "img":
            blobs = [{"bytes": blob, "path": "x.png"} for blob in blobs]
        table = pa.table({column: blobs, "label": pa.array(labels, pa.int8())})
        pq.write_table(table, folder / f"{name}.parquet")
    return DataConfig(name="cifar10", folder=str(folder), download=False)


@pytest.mark.parametrize("column", ["jpeg", "img"])
def test_cifar_is_read_from_parquet_files_below_the_folder(tmp_path: Path, column: str) -> None:
    """Both layouts are found, in several files, also in a subfolder; labels fit the images."""
    parquet(tmp_path / "data" / "plain_text", column)
    config = DataConfig(name="cifar10", folder=str(tmp_path / "data"), download=False)
    data = load(config, tmp_path / "cache")
    assert (len(data.train) + len(data.held_out), len(data.open_test())) == (40, 4)
    assert data.input_shape == (3, 32, 32)
    means = data.train.x.float().mean((1, 2, 3))
    torch.testing.assert_close(means, 50 + 100.0 * data.train.y, atol=2, rtol=0)
    assert data.source.startswith("CIFAR-10 from Parquet files in")


def decoded_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each decoding."""
    calls: list[int] = []
    decode = cifar10._from_parquet
    monkeypatch.setattr(cifar10, "_from_parquet", lambda *a: (calls.append(1), decode(*a))[1])
    return calls


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load reads the cache; changed files are decoded again."""
    config, calls = parquet(tmp_path / "data"), decoded_again(monkeypatch)
    hashes = {load(config, tmp_path / "cache").train_hash for _ in range(2)}
    assert len(calls) == len(hashes) == 1
    os.utime(tmp_path / "data" / "train-0.parquet", (1, 1))
    load(config, tmp_path / "cache")
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [0.0, 0.3, 0.999])
def test_a_broken_cache_is_set_aside_and_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: float
) -> None:
    """A flipped byte anywhere in the cache is noticed; the data come out right all the same."""
    config, calls = parquet(tmp_path / "data"), decoded_again(monkeypatch)
    good = load(config, tmp_path / "cache").train_hash
    (file,) = (tmp_path / "cache").glob("*.npz")
    content = bytearray(file.read_bytes())
    content[int(damage * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    assert load(config, tmp_path / "cache").train_hash == good
    assert len(calls) == 2
    assert len(list((tmp_path / "cache").glob("*.broken"))) == 1


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    """Where there can be no cache, the data load all the same."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert load(parquet(tmp_path / "data"), blocked / "cache").classes == 2


def torchvision_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files as torchvision keeps them, and teach torchvision their checksums."""
    from torchvision.datasets import CIFAR10

    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (root / name).write_bytes(pickle.dumps(content))
        return [name, md5((root / name).read_bytes()).hexdigest()]

    labels = [0, 1] * 4
    batch = {"data": np.full((8, 3072), 7, np.uint8), "labels": labels}
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch)])
    _, checksum = write("batches.meta", {"label_names": ["a", "b"]})
    meta = {"filename": "batches.meta", "key": "label_names", "md5": checksum}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def test_torchvisions_files_come_before_parquet_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both under the folder, torchvision's own files are taken; so also by explicit path."""
    config = parquet(tmp_path / "data")
    torchvision_files(tmp_path / "data", monkeypatch)
    data = load(config, tmp_path / "cache")
    assert data.source.startswith("CIFAR-10 from torchvision's files in")
    assert data.train.x.unique().tolist() == [7]
    inside = str(tmp_path / "data" / "cifar-10-batches-py")
    again = load(options(config, path=inside), tmp_path / "cache")
    assert again.train_hash == data.train_hash


def test_incomplete_torchvision_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged batch is an error that says where, not a silent move to other data."""
    config = parquet(tmp_path / "data")
    torchvision_files(tmp_path / "data", monkeypatch)
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    assert "cifar-10-batches-py" in one_line(lambda: load(config, tmp_path / "cache"))


def test_an_explicit_path_comes_first_and_must_hold_the_data(tmp_path: Path) -> None:
    """`path` is searched like the folder; if it holds nothing, nothing else is tried."""
    config = parquet(tmp_path / "data")
    empty = options(config, path=str(tmp_path / "empty"))
    assert f"data.path={tmp_path / 'empty'}" in one_line(lambda: load(empty, tmp_path))
    there = options(config, folder="nowhere", path=str(tmp_path / "data"))
    assert load(there, tmp_path).classes == 2


def test_without_data_and_network_one_line_names_the_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing on disk and a failing download: the message tells all the ways."""
    from torchvision.datasets import CIFAR10

    def no_network(self: CIFAR10) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    config = DataConfig(name="cifar10", folder=str(tmp_path / "data"))
    message = one_line(lambda: load(config, tmp_path / "cache"))
    for way in ("no route to host", "cifar-10-batches-py", "Parquet", "data.path", "data.download"):
        assert way in message


def test_a_broken_image_is_named_with_its_file(tmp_path: Path) -> None:
    """An image that cannot be decoded is an error that names the file."""
    config = parquet(tmp_path / "data")
    file = tmp_path / "data" / "train-1.parquet"
    pq.write_table(pa.table({"jpeg": [b"none"], "label": pa.array([0], pa.int8())}), file)
    message = one_line(lambda: load(config, tmp_path / "cache"))
    assert re.search(r"train-1.parquet: an image cannot be decoded", message)


@pytest.mark.slow
def test_the_real_cifar10_loads_pooled(tmp_path: Path, cifar10_folder: Path) -> None:
    """10,000 of the 50,000 real images, pooled, balanced, with the well-known channel means."""
    config = DataConfig(
        name="cifar10", path=str(cifar10_folder), train_examples=10_000, image_size=16
    )
    data = load(config, tmp_path)
    assert "10,000 of 50,000 training images, pooled to 16x16" in data.source
    assert np.abs(np.bincount(data.train.y) - 1000).max() <= 2
    known = torch.tensor([0.491, 0.482, 0.447])
    torch.testing.assert_close(data.mean / 255, known, atol=5e-3, rtol=0)
