"""Checkpoints and networks, in a folder and at an address: the same behaviour."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StorageError
from orchestrator.storage.states import Folder, Remote, States, open_states


@pytest.fixture(params=["folder", "address"])
def states(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[States]:
    if request.param == "folder":
        yield open_states(str(tmp_path), "s", tmp_path / "own")
        return
    address = f"memory://{uuid.uuid4().hex}"
    yield open_states(address, "s", tmp_path / "own")


def test_each_place_is_what_its_address_says(tmp_path: Path) -> None:
    """Null is the study's own folder; the others have a folder for each study."""
    assert open_states(None, "s", tmp_path) == Folder(tmp_path)
    assert open_states("/shared", "s", tmp_path) == Folder(Path("/shared/s"))
    assert open_states("s3://bucket/a/", "s", tmp_path) == Remote("s3://bucket/a/s")


def test_what_was_saved_is_loaded(states: States) -> None:
    """Checkpoints and networks of one run are apart."""
    assert (states.load("k"), states.model("k"), states.is_kept("k")) == (None, None, False)
    states.save("k", b"first")
    states.save("k", b"second")
    states.save_model("k", b"network")
    assert (states.load("k"), states.model("k"), states.is_kept("k")) == (
        b"second",
        b"network",
        True,
    )
    states.drop("k")
    states.drop("k")
    assert states.load("k") is None
    assert states.model("k") == b"network"


def test_the_networks_that_lost_are_deleted_with_all_checkpoints(states: States) -> None:
    """That of the answer stays, and others that the study does not know."""
    for key in ("answer", "loser", "unknown"):
        states.save(key, b"state")
        states.save_model(key, key.encode())
    states.tidy({"loser"})
    assert [states.model(key) for key in ("answer", "loser", "unknown")] == [
        b"answer",
        None,
        b"unknown",
    ]
    assert not any(map(states.is_kept, ("answer", "loser", "unknown")))


def test_a_study_that_starts_over_has_none(states: States) -> None:
    """They are renamed."""
    states.save("k", b"state")
    states.set_aside(".old")
    assert states.load("k") is None
    states.set_aside(".older")


def test_a_checkpoint_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    """A file system of fsspec may leave half of a file."""
    states = Remote(f"file://{tmp_path}/s")
    states.save("k", b"a whole state")
    file = next((tmp_path / "s").iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    assert states.load("k") is None


def test_an_address_that_cannot_be_reached_ends_the_study(tmp_path: Path) -> None:
    """It is no fault of the run."""
    with pytest.raises(StorageError, match="nowhere://bucket/s"):
        Remote("nowhere://bucket/s").save("k", b"state")
