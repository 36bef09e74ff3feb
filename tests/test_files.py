"""Whole files: what a power cut may and may not leave."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.system.files import read_sealed, replacing, write_atomically


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


def test_a_failed_write_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """Whatever ends the writer, a signal too: the old file stays, the new one is removed."""
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_file_is_for_whom_the_umask_lets_read_it(tmp_path: Path) -> None:
    """As any other file of the user's."""
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["ours"] == modes["plain"]


WRITER = """
import sys
from contextlib import ExitStack
from pathlib import Path
from orchestrator.system.files import read_sealed, write_sealed
path, mine = Path(sys.argv[1]), sys.argv[2].encode() * 100_000
print("ready", flush=True)
sys.stdin.read()
for _ in range(50):
    write_sealed(path, mine)
    assert read_sealed(path) is not None
"""


def test_two_processes_write_the_same_file_at_once(tmp_path: Path) -> None:
    """As two commands that share a cache: neither fails, each reads a whole file all the time."""
    path = tmp_path / "cache" / "data"
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(path), letter],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for letter in "ab"
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.close()  # it begins
    assert [writer.returncode for writer in writers] == [0, 0]
    assert read_sealed(path) in (b"a" * 100_000, b"b" * 100_000)
    assert os.listdir(path.parent) == ["data"]
