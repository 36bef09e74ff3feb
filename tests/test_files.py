"""Whole files: what a power cut may and may not leave."""

import os
from pathlib import Path

import pytest

from orchestrator.system.files import write_atomically


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its bytes are forced onto the disk first, so that a power cut leaves one or other."""
    path, data, done = tmp_path / "sub" / "state", b"less than a buffer", []
    fsync, replace = os.fsync, os.replace

    def forced(handle: int) -> None:
        fsync(handle)
        done.append(("forced", os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def renamed(source: Path, target: Path) -> None:
        done.append(("renamed", source.stat().st_ino, source.stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(path, data)
    inode = path.stat().st_ino
    assert done == [("forced", inode, len(data)), ("renamed", inode, len(data))]
    assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["state"]
