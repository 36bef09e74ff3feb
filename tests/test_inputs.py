"""Inputs reach the network with the information they had, whatever their unit, offset and type."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from orchestrator.config.sections import DataConfig, OwnDataConfig
from orchestrator.recipe import Recipe
from orchestrator.report.snippet import pytorch
from orchestrator.training.batches import Inputs
from orchestrator.training.data.load import load
from orchestrator.training.data.parts import Data, DataError
from tests.trainings import a_run, objective, train

N = 600
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, N)
PLAIN = RNG.normal(size=(N, 2)) + 2.0 * Y[:, None]
GIVEN: dict[str, Any] = {}  # what `mine` returns


def mine() -> Any:
    """A user's function: what the test put into GIVEN."""
    return GIVEN["data"]


def own(x: Any, y: Any = Y, x_test: Any = None, **settings: Any) -> OwnDataConfig:
    test = x[:60] if x_test is None else x_test
    GIVEN["data"] = (x, y, test, y[: len(test)])
    return OwnDataConfig(_target_=f"{__name__}.mine", **settings)


def loaded(x: Any, y: Any = Y, x_test: Any = None, **settings: Any) -> Data:
    return load(own(x, y, x_test, **settings), Path("unused"))


def one_line(function: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def normalised(data: Data) -> torch.Tensor:
    inputs = Inputs(data, torch.device("cpu"))
    return inputs.normalised(inputs.train.x)


def signals(x: Any) -> Any:
    return x[:, :, None] + 0.1 * np.sin(np.arange(8))


def volumes(x: Any) -> Any:
    return x[:, :, None, None, None] + 0.1 * np.sin(np.arange(8)).reshape(2, 2, 2)


SHAPES = pytest.mark.parametrize(
    "shape", [lambda x: x, signals, volumes], ids=["features", "signals", "volumes"]
)


# --- units and offsets


UNITS: dict[str, Callable[[Any], Any]] = {
    "unix seconds": lambda x: 1.76e9 + 10 * x,
    "julian days": lambda x: 2.46e6 + x / 86400,
    "volts": lambda x: 1e-7 * x,
    "tesla": lambda x: 1e-13 * x,
    "likelihoods": lambda x: 1e-60 * x,
    "huge": lambda x: 1e200 * x,
    "single precision, tiny": lambda x: (1e-36 * x).astype("float32"),
    "nanoseconds": lambda x: (1.76e18 + 1e10 * x).astype(np.float64),
}


@SHAPES
@pytest.mark.parametrize("unit", UNITS)
def test_the_network_gets_the_same_inputs_in_any_unit(
    unit: str, shape: Callable[[Any], Any]
) -> None:
    """As if they had been normalised in float64 before anything else."""
    plain, other = loaded(shape(PLAIN)), loaded(UNITS[unit](shape(PLAIN)))
    assert torch.allclose(normalised(plain), normalised(other), atol=2e-3)


def test_float64_that_float32_can_hold_is_kept_as_it_was() -> None:
    """No frame where none is needed: the bytes, and so the keys of studies, stay what they were."""
    data = loaded(PLAIN * 1000 - 3)
    assert data.frame is None
    assert set(data.train.x[:, 0].tolist()) <= set(
        (PLAIN * 1000 - 3).astype("float32")[:, 0].tolist()
    )


@pytest.mark.parametrize("unit", ["volts", "unix seconds"])
def test_a_weak_feature_does_not_hide_a_decisive_one_in_another_unit(unit: str) -> None:
    """One ordinary feature that is right in three of four cases, one that decides in its unit."""
    rng = np.random.default_rng(1)
    weak = np.where(rng.random(N) < 0.75, Y, 1 - Y) * 2.0 - 1 + 0.1 * rng.normal(size=N)
    decisive = UNITS[unit](6.0 * Y + rng.normal(size=N))
    made = objective(own(np.column_stack([weak, decisive])))
    session, _ = train(made, a_run(steps=60, batch_size=20))
    assert session.points[-1].metric > 0.95


@pytest.mark.parametrize("unit", ["unix seconds", "volts", "likelihoods"])
@SHAPES
def test_the_served_network_and_the_code_to_paste_normalise_as_the_study_does(
    unit: str, shape: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Both are given the user's own numbers, in the type that they need."""
    x = UNITS[unit](shape(PLAIN))
    made = objective(own(x))
    network = made._setup.make_model()
    torch.save(network.state_dict(), weights := tmp_path / "model.pt")
    shapes = made._export(weights, tmp_path / "model.pt2")
    kind = getattr(torch, shapes["input_type"])
    assert (kind == torch.float64) == (unit != "volts")
    raw = torch.tensor(x[:60]).to(kind)
    data, inputs = made._setup.data, made._setup.inputs
    tested = inputs.placed(data.open_test())
    with torch.no_grad():
        ours = network.eval()(inputs.normalised(tested.x)).sum(0)
        served = torch.export.load(tmp_path / "model.pt2").module()(raw).sum(0)
    assert torch.allclose(ours, served, atol=1e-3)
    code = pytorch(Recipe(max_lr=0.1), 1, made.describe().inputs)
    assert code is not None
    space: dict[str, Any] = {}
    exec(code[: code.index("optimizer =")], space)
    pasted = space["normalised"](torch.tensor(x[:60]))
    assert pasted.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(network(pasted).sum(0), ours, atol=1e-3)


def test_many_columns_are_measured_by_the_code_to_paste() -> None:
    """In float64 where they need it, and what is constant is not divided."""
    x = 1.76e9 + 10 * RNG.normal(size=(N, 6))
    x[:, 3] = 7.0
    made = objective(own(x))
    code = pytorch(Recipe(max_lr=0.1), 1, made.describe().inputs)
    assert code is not None
    whole = torch.tensor(x)
    space: dict[str, Any] = {"loader": [(part, None) for part in whole.split(50)]}
    exec(code[: code.index("optimizer =")], space)
    normal = space["normalised"](whole)
    assert torch.allclose(normal.std(0), torch.tensor([1.0, 1, 1, 0, 1, 1]), atol=1e-2)


# --- what says nothing


@pytest.mark.parametrize(
    ("column", "varies"),
    [
        (np.full(N, 0.3), False),
        (np.full(N, 0.3) + np.where(Y, 5e-17, 0), False),  # rounding
        (np.full(N, 1e12), False),
        (1e12 + 1.0 * Y, True),
        (np.where(Y, 0.0, 1e-30), True),
    ],
)
def test_only_what_is_constant_is_not_divided(column: Any, varies: bool) -> None:
    """Measured against rounding, not against 1."""
    normal = normalised(loaded(np.column_stack([PLAIN, column])))[:, 2]
    assert float(normal.std()) == pytest.approx(1.0 if varies else 0.0, abs=0.01)


def test_float32_columns_that_hardly_vary_are_told() -> None:
    """A column that varies by less than float32 rounds is taken to be constant, with a word."""
    stamps = (1.76e9 + 100 * Y).astype("float32")
    assert len(np.unique(stamps)) == 2
    data = loaded(np.column_stack([PLAIN.astype("float32"), stamps]))
    assert data.std[2] == 1.0
    assert any("hardly vary in feature 2" in note for note in data.notes)
    assert not loaded(np.column_stack([PLAIN, np.ones(N)])).notes


@pytest.mark.parametrize("x", [np.ones((N, 3)), np.zeros((N, 3), np.int64), np.zeros((N, 1, 8, 8))])
def test_inputs_that_are_all_alike_are_refused(x: Any) -> None:
    """Features, tokens and images, by name."""
    line = "x_train: all 600 training inputs are the same: there is nothing to learn from"
    assert one_line(lambda: loaded(x)) == line


def test_a_part_that_was_prepared_in_another_way_is_told() -> None:
    """Divided by 255 in the test data alone; a part that is like the others is no word worth."""
    pixels = RNG.uniform(0, 255, (N, 1, 8, 8))
    data = loaded(pixels, x_test=pixels[:60] / 255)
    assert any("The test inputs are on another scale" in note for note in data.notes)
    assert loaded(pixels).notes == ()


def test_bytes_beside_floats_are_refused() -> None:
    """Their numbers would mean different things."""
    pixels = RNG.integers(0, 255, (N, 1, 8, 8)).astype(np.uint8)
    line = one_line(lambda: loaded(pixels, x_test=pixels[:60] / 255))
    assert line.startswith("x_train is torch.uint8 and x_test is torch.float64: give all parts in")
    table = PLAIN.round().astype(np.uint8)
    line = one_line(lambda: loaded(table, x_test=table[:60].astype(np.int64)))
    assert line.startswith("x_train is torch.uint8 and x_test is torch.int64")


# --- layout and depth of images


@pytest.mark.parametrize(
    ("shape", "kept", "said"),
    [
        ((3, 8, 8), (3, 8, 8), ""),
        ((8, 8, 3), (3, 8, 8), "(channels last: taken as 3 of 8x8)"),
        ((3, 8, 3), (3, 8, 3), "(channels first: taken as 3 of 8x3;"),
        ((16, 16, 12), (16, 16, 12), "(channels first: taken as 16 of 16x12;"),
        ((12, 16, 16), (12, 16, 16), ""),
    ],
)
def test_a_guessed_layout_is_told(shape: tuple[int, ...], kept: tuple[int, ...], said: str) -> None:
    """Where images could be taken in two ways the note says in which they were."""
    data = loaded(RNG.normal(size=(N, *shape)))
    assert data.input_shape == kept
    assert (said in data.source) if said else ("channels" not in data.source)


def test_deep_images_keep_their_depth(tmp_path: Path) -> None:
    """Grey PNG files of 16 bits: PIL's own conversion would make them white."""
    pixels = RNG.integers(0, 60_000, (6, 9, 9)).astype(np.uint16)
    for part in ("train", "test"):
        for i, image in enumerate(pixels):
            folder = tmp_path / part / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    data = load(DataConfig(name="folder", path=str(tmp_path), held_out_examples=2), tmp_path)
    assert data.input_shape == (1, 9, 9)
    seen = torch.cat([data.train.x, data.held_out.x]).flatten(1)
    assert sorted(seen.sum(1).tolist()) == pytest.approx(sorted(pixels.sum((1, 2)).tolist()))
    sized = DataConfig(name="folder", path=str(tmp_path), image_size=4)
    assert load(sized, tmp_path).train.x.max() > 1000


# --- what users keep numbers in


KEPT: dict[str, Callable[[Any], Any]] = {
    "big-endian": lambda x: x.astype(">f8"),
    "data frame": lambda x: pd.DataFrame(x, columns=["a", "b"]),
    "frame of mixed types": lambda x: pd.DataFrame({"a": x[:, 0].astype("float32"), "b": x[:, 1]}),
    "objects": lambda x: x.astype(object),
    "long doubles": lambda x: x.astype(np.longdouble),
    "sparse": csr_matrix,
    "sparse tensor": lambda x: torch.tensor(x).to_sparse(),
    "list of lists": lambda x: x.tolist(),
    "masked, nothing hidden": lambda x: np.ma.masked_invalid(x),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@pytest.mark.parametrize("kind", KEPT)
def test_numbers_are_taken_from_what_they_are_kept_in(kind: str) -> None:
    """The same examples, whatever holds them."""
    plain = loaded(PLAIN)
    GIVEN["data"] = (KEPT[kind](PLAIN), Y, KEPT[kind](PLAIN[:60]), Y[:60])
    other = load(OwnDataConfig(_target_=f"{__name__}.mine"), Path("unused"))
    assert torch.allclose(plain.train.x, other.train.x)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.int8, np.int16])
def test_whole_numbers_of_any_size_are_images(kind: type) -> None:
    """Torch computes with few of them itself."""
    x = RNG.integers(0, 100, (N, 8, 8))
    plain, other = loaded(x), loaded(x.astype(kind))
    assert torch.equal(plain.train.x, other.train.x)


HIDDEN = np.ma.array(PLAIN, mask=PLAIN > 3)


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (HIDDEN, "x_train: has masked values: fill them in"),
        (
            pd.DataFrame({"age": PLAIN[:, 0], "city": ["Rome"] * N}),
            "columns city are not numbers: encode them, or remove them",
        ),
        (
            [np.zeros(10), np.zeros(12)] * (N // 2),
            "its examples have shapes (10,) and (12,): pad or cut them to one",
        ),
        (
            np.array(["2025-01-01"] * N, "M8[D]")[:, None],
            "x_train: not an array of numbers: it has",
        ),
        (
            csr_matrix((N, 10**7)),
            "x_train: sparse, and too large as a dense array (6,000,000,000 numbers)",
        ),
        (PLAIN.astype(complex), "give real and imaginary parts as two channels"),
        (np.zeros((N, 1, 2, 2, 2, 2)), "x_train: need volumes (n, c, d, h, w), images (n, c, h"),
        ([f"text {i}" for i in range(N)], "it holds texts: give numbers, for example tokens"),
        ((PLAIN, PLAIN[:, :1]), "x_train: must be one array, got 2 values (ndarray, ndarray): ret"),
        ({"a": PLAIN, "b": PLAIN}, "x_train: must be one array, got a dict with keys a, b: return"),
    ],
)
def test_what_holds_no_plain_numbers_is_refused_with_a_cure(x: Any, line: str) -> None:
    """One line that says what came."""
    GIVEN["data"] = (x, Y, PLAIN[:60], Y[:60])
    config = OwnDataConfig(_target_=f"{__name__}.mine")
    assert line in one_line(lambda: load(config, Path("unused")))


def test_columns_in_another_order_are_refused() -> None:
    """Else the test would be of other features than the training."""
    frame = pd.DataFrame(PLAIN, columns=["a", "b"])
    loaded(frame, x_test=frame[:60])
    line = one_line(lambda: loaded(frame, x_test=frame[["b", "a"]][:60]))
    assert line.startswith("x_test: its columns are in another order than those of x_train: use")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused_with_the_cure() -> None:
    """Its examples differ in length."""
    x = torch.nested.nested_tensor([torch.zeros(5 + i % 3) for i in range(N)])
    line = one_line(lambda: loaded(x, x_test=PLAIN[:60]))
    assert line.startswith(
        "x_train: its examples differ in length: use torch.nested.to_padded_tensor"
    )


# --- rows of Datasets


class Rows(Dataset[Any]):
    """A Dataset whose rows are what a function makes of an index."""

    def __init__(self, row: Callable[[int], Any]) -> None:
        self.row = row

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> Any:
        return self.row(i)


class Stream(IterableDataset[Any]):
    """A stream."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


X60, Y60 = torch.tensor(PLAIN[:60]).float(), torch.tensor(Y[:60])
WRONG: dict[str, Any] = {
    "dict": Rows(lambda i: {"pixels": X60[i], "label": 1}),
    "three": TensorDataset(X60, X60, Y60),
    "loader": DataLoader(TensorDataset(X60, Y60)),
    "loader of some": DataLoader(
        TensorDataset(X60, Y60), sampler=SubsetRandomSampler(range(20, 60))
    ),
    "stream": Stream(),
    "raises": Rows(lambda i: {"label": 1}["lable"]),
    "two inputs": Rows(lambda i: ({"left": X60[i], "right": X60[i]}, 1)),
    "unequal": Rows(lambda i: (torch.zeros(1, 10 + i % 2), 1)),
    "bare": Rows(lambda i: X60[i]),
    "none": Rows(lambda i: (None, 1)),
    "two targets": Rows(lambda i: (X60[i], (1, 0.5))),
    "packed": Rows(lambda i: (pack_sequence([X60[i]]), 1)),
}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "dict",
            "train: rows must be (input, target), got a dict with keys pixels, label: return (r",
        ),
        ("three", "train: rows must be (input, target), got 3 values (Tensor, Tensor, Tensor)"),
        ("loader", "train is a DataLoader: return its .dataset"),
        ("loader of some", "return Subset(loader.dataset, list(loader.sampler))"),
        ("stream", "train is a stream (Stream), which has no length: return list() of it"),
        ("raises", "train[0] raised KeyError: 'lable' (test_inputs.py, line "),
        (
            "two inputs",
            "inputs must be arrays or tensors, got a dict with keys left, right: return one array",
        ),
        (
            "unequal",
            "inputs differ in shape, (1, 10) in row 0 and (1, 11) in row 1: pad or cut the",
        ),
        ("bare", "rows must be (input, target), got Tensor of shape (2,)"),
        ("none", "inputs must be arrays or tensors, got None"),
        ("two targets", "train: targets must be arrays or tensors, got 2 values (int, float): ret"),
        ("packed", "got a PackedSequence: pad sequences to one length, and pack them in the"),
    ],
)
def test_rows_that_are_no_pairs_are_refused_in_words(kind: str, line: str) -> None:
    """What came, what is wanted, and where."""
    GIVEN["data"] = (WRONG[kind], WRONG[kind])
    config = OwnDataConfig(_target_=f"{__name__}.mine")
    assert line in one_line(lambda: load(config, Path("unused")))


def test_a_list_of_pairs_is_taken_for_a_dataset() -> None:
    """What a stream becomes by list()."""
    pairs = list(zip(X60, Y60, strict=True))
    GIVEN["data"] = (pairs, pairs[:10])
    assert len(load(OwnDataConfig(_target_=f"{__name__}.mine"), Path("unused")).train) == 50


@pytest.mark.parametrize("made", [lambda x, y: (x, y), lambda x, y: [torch.tensor(x), y]])
def test_a_pair_of_arrays_is_taken_for_a_dataset(made: Callable[[Any, Any], Any]) -> None:
    """((x, y), (x, y)), as Keras gives its data sets."""
    plain = loaded(PLAIN)
    GIVEN["data"] = (made(PLAIN, Y), made(PLAIN[:60], Y[:60]))
    other = load(OwnDataConfig(_target_=f"{__name__}.mine"), Path("unused"))
    assert torch.equal(plain.train.x, other.train.x)
    assert torch.equal(plain.train.y, other.train.y)


def test_volumes_are_trained_on() -> None:
    """Three dimensions of space, whose channels are normalised."""
    x = np.random.default_rng(1).normal(size=(N, 2, 4, 3, 5)) + 2.0 * Y[:, None, None, None, None]
    data = loaded(x)
    assert data.input_shape == (2, 4, 3, 5)
    assert normalised(data).mean((0, 2, 3, 4)).abs().max() < 1e-4
    session, _ = train(objective(own(x)), a_run(batch_size=20))
    assert session.points[-1].metric > 0.95
