"""Data of the user's own are cut, held out, scaled, augmented and split as ours are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.schema import Config
from orchestrator.config.sections import ModelConfig, OwnDataConfig
from orchestrator.errors import ConfigError
from orchestrator.training.batches import Inputs
from orchestrator.training.data.load import load
from orchestrator.training.identity import asides, described

LABELS = np.arange(60) % 3


def images(offset: int = 0) -> tuple[Any, ...]:
    """Sixty grey images and nine to test, all different."""
    x = np.random.default_rng(offset).integers(0, 256, (69, 8, 8), np.uint8)
    return x[:60], LABELS, x[60:], LABELS[:9]


def features() -> tuple[Any, ...]:
    """Sixty rows, and nine to test."""
    x = np.random.default_rng(0).normal(size=(69, 8))
    return x[:60], LABELS, x[60:], LABELS[:9]


def with_seed(seed: int = 5) -> tuple[Any, ...]:
    """A function that has a `seed` of its own."""
    return images(seed)


def my(name: str = "images", **settings: Any) -> OwnDataConfig:
    return OwnDataConfig(_target_=f"{__name__}.{name}", **settings)


def test_own_data_are_cut_and_held_out_as_asked(tmp_path: Path) -> None:
    """Sizes of all three parts, and the size of images."""
    asked = {"train_examples": 30, "held_out_examples": 12, "test_examples": 6, "image_size": 4}
    data = load(my(**asked), tmp_path)
    assert (len(data.train), len(data.held_out), len(data.open_test())) == (30, 12, 6)
    assert data.input_shape == (1, 4, 4)


def test_own_data_are_scaled_and_augmented(tmp_path: Path) -> None:
    """`scale` multiplies what the network gets, `augment` shifts training images."""
    plain, other = load(my(), tmp_path), load(my(scale=3.0, augment=True), tmp_path)
    assert plain.border == 0
    assert other.border == 1
    one, three = (Inputs(data, torch.device("cpu")) for data in (plain, other))
    assert torch.allclose(
        three.normalised(three.held_out.x), 3 * one.normalised(one.held_out.x), atol=1e-5
    )


def test_only_images_are_said_to_be_augmented(tmp_path: Path) -> None:
    """`augment` does nothing to features."""
    for name, said in (("images", True), ("features", False)):
        data = load(my(name, augment=True), tmp_path)
        sentences = asides(data, ModelConfig())
        assert any("shifted at random" in sentence for sentence in sentences) == said


def test_the_seed_of_the_data_moves_the_split_of_own_data(tmp_path: Path) -> None:
    """Another seed holds out other examples; the test part stays."""
    first, again, other = (load(my(seed=seed), tmp_path) for seed in (0, 0, 1))
    assert first.held_out_hash == again.held_out_hash
    assert first.held_out_hash != other.held_out_hash
    one, two = (data.open_test().x.sum((1, 2, 3)).sort().values for data in (first, other))
    assert torch.equal(one, two)


def test_a_setting_that_the_function_names_is_its_argument_alone(tmp_path: Path) -> None:
    """`seed` goes to the function that has one, whose own default counts otherwise."""
    given, default = load(my("with_seed", seed=7), tmp_path), load(my("with_seed"), tmp_path)
    assert given.test_hash() == load(my(offset=7), tmp_path).test_hash()
    assert given.train_hash == load(my(offset=7), tmp_path).train_hash
    assert default.test_hash() == load(my(offset=5), tmp_path).test_hash()


def test_a_setting_out_of_range_is_one_line() -> None:
    """Settings of own data are checked as ours are."""
    target = f"{__name__}.images"
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"data": {"_target_": target, "held_out_examples": 0}})
    assert caught.value.lines == ["data.held_out_examples: 0 is not allowed: must be at least 1"]
    with pytest.raises(ConfigError, match=r"images takes no argument heldout: it takes offset"):
        Config.from_mapping({"data": {"_target_": target, "heldout": 3}})


def test_what_is_not_set_is_kept_nowhere() -> None:
    """Neither config.yaml nor keys of runs change by settings that are left alone."""
    target = f"{__name__}.with_seed"
    kept = Config.from_mapping({"data": {"_target_": target}}).as_mapping()
    assert kept["data"] == {"_target_": target}
    assert Config.from_mapping(kept).as_mapping() == kept
    assert described(my()).keys() == {"_target_", "source"}
    assert described(my(offset=1, scale=2.0, test_examples=5)).keys() == {
        "_target_",
        "source",
        "offset",
        "scale",
    }
