"""Data functions that split at random.

They are seeded where they use the global random states, and noticed where they do not.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset, random_split

from orchestrator import run_study
from orchestrator.config.sections import OwnDataConfig
from orchestrator.errors import ConfigError
from orchestrator.training.data.load import load

X = np.random.default_rng(0).normal(size=(300, 4))
Y = (X[:, 0] > X[:, 1]).astype(int)


def by_torch() -> Any:
    """The usual two lines, without a seed."""
    return random_split(TensorDataset(torch.tensor(X), torch.tensor(Y)), [200, 100])


def divided(order: Any) -> Any:
    train, test = np.array(order[:200]), np.array(order[200:])
    return X[train], Y[train], X[test], Y[test]


def by_numpy() -> Any:
    """NumPy's global state."""
    return divided(np.random.permutation(300))  # noqa: NPY002


def by_python() -> Any:
    """Python's global state."""
    return divided(random.sample(range(300), 300))


def unseeded() -> Any:
    """A generator of its own, seeded by the system."""
    return divided(np.random.default_rng().permutation(300))


def study(name: str, **more: Any) -> dict[str, Any]:
    return {
        "data": {"_target_": f"{__name__}.{name}"},
        "model": {"name": "mlp", "width": 0.1},
        "plan": ["lr_range", "final"],
        "recipe": {"batch_size": 20},
        "stages": {"final": {"epochs": 3, "seeds": 2, "baselines": False}},
        "tracking": {"name": "none"},
        "threads": 1,
        **more,
    }


@pytest.fixture(autouse=True)
def random_states() -> Iterator[None]:
    """Each test begins with states of its own, and leaves none behind."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])


@pytest.mark.parametrize("name", ["by_torch", "by_numpy", "by_python"])
def test_a_split_by_the_global_random_states_repeats(tmp_path: Path, name: str) -> None:
    """Whatever the states were; they are left as found; `data.seed` gives another split."""

    def hashes(**more: Any) -> tuple[str, str]:
        found = load(OwnDataConfig(_target_=f"{__name__}.{name}", **more), tmp_path)
        return found.train_hash, found.held_out_hash

    first = hashes()
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    state = torch.get_rng_state(), random.getstate()
    assert hashes() == first
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert hashes(seed=1) != first


def test_data_that_are_others_at_every_call_are_refused_at_the_next_command(
    here: Path, without_figures: None
) -> None:
    """One line that ends in the cure; the answer that is there stays."""
    assert run_study(study("unseeded")).status == "complete"
    before = (here / "runs" / "study" / "summary.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"unseeded: returns other examples at every call, .* seed"
    ):
        run_study(study("unseeded"))
    assert (here / "runs" / "study" / "summary.json").read_bytes() == before


def test_data_that_changed_once_are_trained_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    """Another file, say: the runs are made anew and nothing is refused."""
    first = run_study(study("by_numpy"))
    monkeypatch.setattr(sys.modules[__name__], "X", X + 1)
    again = run_study(study("by_numpy"))
    assert again.status == "complete"
    keys = [{o.key for s in record.stages for o in s.outcomes} for record in (first, again)]
    assert not keys[0] & keys[1]


def test_a_worker_with_other_data_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    """The study ends with what differs and the cure; none of the worker's runs is kept."""
    monkeypatch.setattr("orchestrator.system.host.cores", lambda: 2)
    record = run_study(study("unseeded", executor={"name": "processes", "workers": 2}))
    assert record.status == "failed"
    assert "would train something else than this one (the training data changed" in record.reason
    assert "seed what is random in a data function" in record.reason
    kinds = {o.run.schedule.name for s in record.stages for o in s.outcomes}
    assert kinds <= {"exponential_ramp"}  # alone in its round, so trained by the parent
