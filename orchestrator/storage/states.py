"""Checkpoints and trained networks of runs: in a folder, or at an address of fsspec.

They are named after run keys. A checkpoint has a checksum, so one that was cut off is not used.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import storing
from orchestrator.system.files import (
    UNFINISHED,
    read_sealed,
    sealed,
    unsealed,
    write_atomically,
    write_sealed,
)

log = logging.getLogger(__name__)
CHECKPOINT, MODEL = ".checkpoint", ".model"


class RunFiles(Protocol):
    """What a run in training needs; every method raises StorageError if it cannot be done."""

    def load(self, key: str) -> bytes | None:
        """Return the checkpoint of the run with this key, None without one or if it is damaged."""

    def save(self, key: str, state: bytes) -> None:
        """Write a checkpoint atomically."""

    def save_model(self, key: str, state: bytes) -> None:
        """Write a trained network atomically."""


class States(ABC):
    """All checkpoints and networks of a study (see `RunFiles`)."""

    @abstractmethod
    def load(self, key: str) -> bytes | None:
        """Return a checkpoint, None without one; a damaged one is not used."""

    @abstractmethod
    def save(self, key: str, state: bytes) -> None:
        """Write a checkpoint atomically."""

    @abstractmethod
    def is_kept(self, key: str) -> bool:
        """Whether the run with this key has a checkpoint."""

    @abstractmethod
    def model(self, key: str) -> bytes | None:
        """Return a trained network, None without one."""

    @abstractmethod
    def save_model(self, key: str, state: bytes) -> None:
        """Write a trained network atomically."""

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the names of all files."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Delete a file; nothing happens if it is missing."""

    @abstractmethod
    def set_aside(self, suffix: str) -> None:
        """Rename everything by `suffix`: the study starts over."""

    def drop(self, key: str) -> None:
        """Delete the checkpoint of a run."""
        self._remove(key + CHECKPOINT)

    def tidy(self, models: Collection[str]) -> None:
        """Delete all checkpoints, unfinished files, and the networks of the runs `models`."""
        gone = {key + MODEL for key in models}
        for name in self._names():
            if name in gone or name.endswith((CHECKPOINT, UNFINISHED)):
                self._remove(name)


@dataclass(frozen=True)
class Folder(States):
    """Files in a folder: the study's own, or one that several machines share."""

    folder: Path

    def load(self, key: str) -> bytes | None:
        """Return a checkpoint, None without one; a damaged one is renamed."""
        file = self.folder / (key + CHECKPOINT)
        with storing(str(file)):
            return read_sealed(file)

    def save(self, key: str, state: bytes) -> None:
        """Write a checkpoint."""
        file = self.folder / (key + CHECKPOINT)
        with storing(str(file)):
            write_sealed(file, state)

    def is_kept(self, key: str) -> bool:
        """Whether there is a checkpoint."""
        return (self.folder / (key + CHECKPOINT)).is_file()

    def model(self, key: str) -> bytes | None:
        """Return a trained network."""
        try:
            return (self.folder / (key + MODEL)).read_bytes()
        except FileNotFoundError:
            return None

    def save_model(self, key: str, state: bytes) -> None:
        """Write a trained network, for `torch.load`."""
        file = self.folder / (key + MODEL)
        with storing(str(file)):
            write_atomically(file, state)

    def _names(self) -> list[str]:
        return [file.name for file in self.folder.glob("*")]

    def _remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def set_aside(self, suffix: str) -> None:
        """Rename the folder."""
        if self.folder.exists():
            self.folder.rename(self.folder.with_name(self.folder.name + suffix))


@dataclass(frozen=True)
class Remote(States):
    """Files at an address of fsspec, such as s3://bucket/folder.

    Object stores write a file as a whole. Networks have a checksum too: other file systems may not.
    """

    address: str

    def load(self, key: str) -> bytes | None:
        """Return a checkpoint."""
        return self._read(key + CHECKPOINT)

    def save(self, key: str, state: bytes) -> None:
        """Write a checkpoint."""
        self._write(key + CHECKPOINT, state)

    def is_kept(self, key: str) -> bool:
        """Whether there is a checkpoint."""
        with storing(self.address):
            fs, root = self._opened()
            return bool(fs.exists(f"{root}/{key}{CHECKPOINT}"))

    def model(self, key: str) -> bytes | None:
        """Return a trained network."""
        return self._read(key + MODEL)

    def save_model(self, key: str, state: bytes) -> None:
        """Write a trained network."""
        self._write(key + MODEL, state)

    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # comes with torch

        fs, root = url_to_fs(self.address, use_listings_cache=False)
        return fs, root.rstrip("/")

    def _read(self, name: str) -> bytes | None:
        with storing(f"{self.address}/{name}"):
            fs, root = self._opened()
            try:
                found = fs.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
        data = unsealed(found)
        if data is None:
            log.warning("%s/%s is damaged; it is not used", self.address, name)
        return data

    def _write(self, name: str, data: bytes) -> None:
        with storing(f"{self.address}/{name}"):
            fs, root = self._opened()
            fs.makedirs(root, exist_ok=True)
            fs.pipe_file(f"{root}/{name}", sealed(data))

    def _names(self) -> list[str]:
        with storing(self.address):
            fs, root = self._opened()
            if not fs.exists(root):
                return []
            return [str(path).rpartition("/")[2] for path in fs.ls(root, detail=False)]

    def _remove(self, name: str) -> None:
        with storing(f"{self.address}/{name}"):
            fs, root = self._opened()
            if fs.exists(f"{root}/{name}"):
                fs.rm_file(f"{root}/{name}")

    def set_aside(self, suffix: str) -> None:
        """Rename the prefix of all files."""
        with storing(self.address):
            fs, root = self._opened()
            if fs.exists(root):
                fs.mv(root, root + suffix, recursive=True)


def open_states(address: str | None, study: str, own: Path) -> States:
    """Return where a study keeps its runs' files: at `address`, or None: in its folder `own`."""
    if address is None:
        return Folder(own)
    if "://" in address:
        return Remote(f"{address.rstrip('/')}/{study}")
    return Folder(Path(address).expanduser().resolve() / study)
