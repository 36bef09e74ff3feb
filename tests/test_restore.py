"""`lr_range_test` takes what the loaders give and leaves everything as it was found."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from orchestrator import LRRangeResult, lr_range_test
from orchestrator.training.nested import fresh
from orchestrator.training.standalone import loaders

LOSS = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples(count: int = 480, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, (2 * x[:, :3]).argmax(1)


def network(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *more, nn.ReLU(), nn.Linear(16, 3))


def short(model: nn.Module, **options: Any) -> LRRangeResult:
    train = DataLoader(TensorDataset(*examples()), 16, shuffle=True)
    given = {"loss": LOSS, "train": train, "held_out": examples(120, seed=1), "steps": 40}
    return lr_range_test(model, **{**given, **options})


# --- what the loaders give


class Numbered(Dataset[Any]):
    """Rows that say which they are."""

    def __init__(self, count: int = 1000) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([float(i)]), torch.tensor(i % 3)


def rows_of(held_out: Any, count: int = 120) -> list[int]:
    batches = loaders.frozen_subset(held_out, count, seed=0)
    return [int(i) for x, _ in batches for i in x[:, 0]]


MINE = list(range(700, 1000))


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler(MINE)},
        {"sampler": MINE},
        {"batch_sampler": BatchSampler(SubsetRandomSampler(MINE), 50, drop_last=True)},
        {"batch_sampler": [MINE[i : i + 30] for i in range(0, 300, 30)]},
        {"sampler": WeightedRandomSampler([0.0] * 700 + [1.0] * 300, 200)},
    ],
)
def test_held_out_examples_are_those_of_the_loaders_sampler(options: dict[str, Any]) -> None:
    """Never others of its dataset, and not always its first ones."""
    size = {} if "batch_sampler" in options else {"batch_size": 50}
    found = rows_of(DataLoader(Numbered(), **size, **options))
    assert set(found) <= set(MINE)
    assert len(found) >= 120
    assert max(found) > 820


def test_the_same_split_in_two_ways_gives_the_same_answer() -> None:
    """As a Subset, and as a sampler over the whole."""
    x, y = examples(900)
    x[700:] += 1.0  # the held-out rows are of another kind
    whole, rows = TensorDataset(x, y), list(range(700, 900))
    ways = (DataLoader(Subset(whole, rows), 50), DataLoader(whole, 50, sampler=rows))
    one, two = (short(network(), held_out=way) for way in ways)
    assert one.initial_loss == two.initial_loss
    assert one.max_lr == two.max_lr


def test_batches_of_ones_own_batch_sampler_stay_together() -> None:
    """As where all of a batch have one length, or one speaker; the order of batches is random."""
    groups = [list(range(i, i + 20)) for i in range(0, 1000, 20)]
    found = loaders.frozen_subset(DataLoader(Numbered(), batch_sampler=groups), 120, seed=0)
    sets = [[int(i) for i in x[:, 0]] for x, _ in found]
    assert len(sets) == 6
    assert all(rows in groups for rows in sets)
    assert sets != groups[:6]


class Batches(Dataset[Any]):
    """A Dataset that gives whole batches, for `batch_size=None`."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.full((25, 1), float(i)), torch.zeros(25).long()


def test_a_dataset_that_gives_batches_is_read_at_random() -> None:
    """Whole batches of it, until there are enough."""
    found = rows_of(DataLoader(Batches(), batch_size=None))
    assert len(found) == 125
    assert len(set(found)) == 5
    assert max(found) > 5


class Wrapped(DataLoader[Any]):
    """A loader that does more than its sampler says, as those of some libraries do."""

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield x + 5000, y


@pytest.mark.parametrize(
    "held_out", [Wrapped(Numbered(), 50), [(torch.ones(60, 1), torch.ones(60))]]
)
def test_other_loaders_give_their_first_batches(held_out: Any) -> None:
    """What they iterate over is what counts."""
    found = rows_of(held_out)
    assert min(found) >= (5000 if isinstance(held_out, Wrapped) else 1)


def test_a_subset_is_read_as_the_loader_reads() -> None:
    """By its collate_fn, in its worker processes, and none of its batches is of one example."""

    def collate(rows: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = torch.utils.data.default_collate(rows)
        return x + 0.5, y

    loader = DataLoader(Numbered(), 40, collate_fn=collate, num_workers=2)
    batches = loaders._sampled(loader, 121, seed=0)
    found = list(batches)
    assert isinstance(batches, DataLoader)
    assert batches.num_workers == 2
    assert all(float(x[0, 0]) % 1 == 0.5 for x, _ in found)
    assert sorted(len(x) for x, _ in found) == [30, 30, 30, 31]


# --- batch norm


class Named(nn.Module):
    """A network whose input is a dict: batches of such cannot be joined."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.net = network(*more)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.net(batch["features"])


def named(count: int, size: int, seed: int = 0) -> list[Any]:
    x, y = examples(count, seed)
    return [({"features": a}, b) for a, b in zip(x.split(size), y.split(size), strict=True)]


@pytest.mark.parametrize("size", [64, 1])
def test_a_batch_of_one_is_evaluated_with_running_statistics(size: int) -> None:
    """The last batch of the user's own loader, or all of them."""
    held_out = named(65, size, seed=1)
    assert len(held_out[-1][1]) == 1
    found = short(Named(nn.BatchNorm1d(16)), train=named(480, 16), held_out=held_out)
    assert found.ramps
    assert found.initial_loss < 3


def test_a_short_evaluation_makes_no_batch_of_one() -> None:
    """Held-out examples are cut to what an evaluation may cost, and never so."""
    sizes: set[int] = set()

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.add(len(x))
            return x

    batches = [(x, y) for x, y in zip(*(t.split(16) for t in examples(480, 1)), strict=True)]
    composed = DataLoader(
        TensorDataset(*examples(480, 1)), batch_sampler=[list(range(i, i + 16)) for i in range(464)]
    )
    for held_out in (batches, composed):
        short(network(Counting()), held_out=held_out)
    assert 1 not in sizes


def test_a_frozen_batch_norm_is_evaluated_with_its_own_statistics() -> None:
    """As its user does; one that trains with those of the batch, since its own lag behind."""
    model = network(nn.BatchNorm1d(16))
    model[1].running_mean.fill_(3.0)
    model[1].eval()
    x, y = examples(40, seed=1)
    with torch.no_grad():
        expected = float(LOSS(model(x), y))
    assert short(model, held_out=(x, y)).initial_loss == pytest.approx(expected, rel=1e-5)
    model[1].train()
    assert short(model, held_out=(x, y)).initial_loss != pytest.approx(expected, rel=0.01)


def test_a_module_that_does_something_in_train_is_asked_to() -> None:
    """As layers that add their low-rank weights in eval mode and take them off again."""

    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            if mode != self.training:
                self.weight.data += -5.0 if mode else 5.0
            return super().train(mode)

    seen: list[float] = []

    class Watching(Merging):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(float(self.weight.detach().mean()))
            return super().forward(x)

    model = nn.Sequential(Watching(6, 16), nn.ReLU(), nn.Linear(16, 3))
    before = model[0].weight.detach().clone()
    short(model, end_lr=1e-3)
    assert max(map(abs, seen)) < 1
    assert torch.equal(before, model[0].weight)


# --- inputs that change


class InPlace(nn.Module):
    """A network that normalises its input in place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.net, self.in_place = network(), in_place

    def forward(self, x: Tensor) -> Any:
        if self.in_place:
            x -= 5.0
            x /= 2.0
        else:
            x = (x - 5.0) / 2.0
        return self.net(x)


def far(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = examples(count, seed)
    return 5 + 2 * x, y


@pytest.mark.parametrize("kind", ["pair", "list", "loader"])
def test_a_model_that_changes_its_input_in_place_gets_copies(kind: str) -> None:
    """The same answer as out of place, and the user's tensors are what they were."""
    x, y = far(120, seed=1)
    whole = {
        "pair": lambda: (x, y),
        "list": lambda: [(x, y)],
        "loader": lambda: DataLoader(TensorDataset(x, y), 60),
    }
    batches = [tuple(b) for b in zip(*(t.split(16) for t in far(480)), strict=True)]
    before = [t.clone() for t in (x, *(b[0] for b in batches))]
    one, two = (short(InPlace(way), train=batches, held_out=whole[kind]()) for way in (False, True))
    assert one.max_lr == two.max_lr
    assert one.answered
    assert all(map(torch.equal, before, (x, *(b[0] for b in batches))))


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def test_nests_of_tensors_are_copied_whole() -> None:
    """Tuples with names, lists, dicts; what is no tensor stays."""
    tree = {"a": Pair(torch.ones(2), torch.ones(2)), "b": [torch.ones(2), "text", None]}
    copied = fresh(tree, torch.device("cpu"))
    assert isinstance(copied["a"], Pair)
    copied["a"].left.zero_()
    copied["b"][0].zero_()
    assert float(tree["a"].left.sum() + tree["b"][0].sum()) == 4
    assert copied["b"][1:] == ["text", None]
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    assert type(fresh(packed, torch.device("cpu"))) is type(packed)


# --- what is kept


class Head(nn.Module):
    """Class centres and a temperature, as in metric learning, and a buffer that counts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.centres, self.log_scale = (
            nn.Parameter(torch.randn(3, 3)),
            nn.Parameter(torch.zeros(())),
        )
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(outputs @ self.centres.T * self.log_scale.exp(), y)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_weights_of_a_loss_are_trained_and_put_back(kind: Any) -> None:
    """Each ramp starts from them as found, as where the head is part of the model."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = network(), Head()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x) @ self.head.centres.T * self.head.log_scale.exp()
            return out

    model, loss = network(), Head()
    optimizer = kind([*model.parameters(), *loss.parameters()], lr=0.1)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    found = short(model, loss=loss, optimizer=optimizer)
    after = loss.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in loss.parameters())
    whole = Whole()
    order = [*whole.net.parameters(), whole.head.centres, whole.head.log_scale]
    inside = short(whole, optimizer=kind(order, lr=0.1))
    assert found.max_lr == pytest.approx(inside.max_lr)


def test_tensors_that_the_optimiser_trains_beside_the_model_are_put_back() -> None:
    """Of a module that neither model nor loss is."""
    extra = nn.Parameter(torch.zeros(3))

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return LOSS(outputs + extra, y)

    model = network()
    short(model, loss=loss, optimizer=torch.optim.SGD([*model.parameters(), extra], 0.1))
    assert extra.grad is None
    assert not extra.detach().any()


class Changing(nn.Module):
    """A module that keeps all kinds of things of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.history, self.seen = 0, [], {"last": None}
        self.few: deque[int] = deque(maxlen=3)
        self.sizes: set[int] = set()
        self.mean = torch.zeros(16)  # a tensor that is no buffer
        self.register_buffer("ids", torch.arange(3).expand(4, 3))  # no memory of its own
        self.register_forward_hook(self.remove_me)

    @staticmethod
    def remove_me(module: nn.Module, *_: Any) -> None:
        module._forward_hooks.clear()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(float(x.detach().mean()))
        self.few.append(self.calls)
        self.sizes.add(len(x))
        self.seen["last"] = x.detach()
        self.new = self.calls
        self.mean += x.detach().mean(0)
        return x


def test_attributes_of_all_kinds_are_put_back() -> None:
    """Numbers, lists, dicts, sets, plain tensors, hooks; what was not there is gone."""
    changing = Changing()
    hooks = list(changing._forward_hooks.items())
    kept = (changing.history, changing.seen, changing.few, changing.sizes, changing.mean)
    short(network(changing))
    assert changing.calls == 0
    assert kept == (changing.history, changing.seen, changing.few, changing.sizes, changing.mean)
    assert (changing.history, changing.seen, changing.few, changing.sizes) == (
        [],
        {"last": None},
        deque(),
        set(),
    )
    assert float(changing.mean.abs().sum()) == 0
    assert not hasattr(changing, "new")
    assert list(changing._forward_hooks.items()) == hooks


class Epochs(SequentialSampler):
    """A sampler that counts how often it was gone through."""

    epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return super().__iter__()


def test_a_sampler_that_counts_is_put_back() -> None:
    """Else the user's next epoch would be another one."""
    data = TensorDataset(*examples())
    sampler = Epochs(data)
    short(network(), train=DataLoader(data, 16, sampler=sampler))
    assert sampler.epoch == 0


# --- losses


def test_a_loss_that_is_a_sum_is_read_by_its_mean() -> None:
    """Its gradients are a batch times as large, and so is the rate smaller."""
    mean, total = (short(network(), loss=nn.CrossEntropyLoss(reduction=r)) for r in ("mean", "sum"))
    assert total.initial_loss == pytest.approx(mean.initial_loss, rel=1e-5)
    assert mean.max_lr is not None
    assert total.max_lr is not None
    assert total.max_lr == pytest.approx(mean.max_lr / 16, rel=0.5)


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = examples(count, seed)
    return x / 10 + 6 * nn.functional.one_hot(y, 6), y


def test_separable_data_have_an_answer() -> None:
    """The loss of every example becomes 0 in float32."""
    train = DataLoader(TensorDataset(*clusters(480, 0)), 16, shuffle=True)
    held_out = clusters(120, 1)
    found = short(network(), train=train, held_out=held_out)
    assert found.answered
    assert min(r.held_out_loss.min() for r in found.ramps) > 0
    perfect = nn.Linear(6, 3, bias=False)
    perfect.weight.data = 1000 * torch.eye(3, 6)
    with pytest.raises(ValueError, match="the held-out loss is 0 before training"):
        short(perfect, train=train, held_out=held_out)
