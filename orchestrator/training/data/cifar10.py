"""CIFAR-10: finds it on disk or downloads it, decodes it once to uint8, and caches that."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.sections import DataConfig
from orchestrator.system.files import replacing, set_aside
from orchestrator.training.data.arrays import ARRAYS, part
from orchestrator.training.data.parts import DataError, Raw

Arrays = dict[str, NDArray[np.uint8] | NDArray[np.int64]]
TORCHVISION = "cifar-10-batches-py"
WAYS = (
    f"torchvision's {TORCHVISION}, or Parquet files named ...train... and ...test..."
    " with columns jpeg (or img) and label"
)


def load(config: DataConfig, cache: Path) -> Raw:
    """Return CIFAR-10 from `data.path`, else from a folder in `data.folder`, else a download.

    Raises DataError, with these possibilities, if it is in none of these places.
    """
    if config.path is not None:
        if found := _in(Path(config.path), cache):
            return found
        raise DataError(f"data.path={config.path}: no CIFAR-10 there; need a folder of {WAYS}")
    if found := _in(Path(config.folder), cache):
        return found
    problem = "data.download=false"
    if config.download:
        try:
            return _download(Path(config.folder), cache)
        except Exception as error:  # no network, a bad proxy, a full disk: various exceptions
            problem = f"the download failed: {error}".splitlines()[0]
    raise DataError(
        f"CIFAR-10 not found ({problem}): put {WAYS}, under data.folder={config.folder},"
        " or set data.path to their folder, or connect to the network with data.download=true"
    )


def _in(place: Path, cache: Path) -> Raw | None:
    """Return the data in `place`, torchvision's files before Parquet files, None without any."""
    root = place.parent if place.name == TORCHVISION else place
    batches = sorted((root / TORCHVISION).glob("*_batch*"))
    if batches:
        arrays = _cached(batches, lambda: _from_torchvision(root, download=False), cache)
        return _raw(arrays, f"CIFAR-10 from torchvision's files in {root.name}")
    if files := _parquet_files(place):
        arrays = _cached([*files[0], *files[1]], lambda: _from_parquet(*files), cache)
        return _raw(arrays, f"CIFAR-10 from Parquet files in {files[0][0].parent.name}")
    return None


def _raw(arrays: Arrays, source: str) -> Raw:
    x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    return Raw(part(x_train, y_train, "train"), part(x_test, y_test, "test"), source)


# --- torchvision's own files


def _from_torchvision(root: Path, download: bool) -> Arrays:
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(root, train=t, download=download) for t in (True, False))
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
        raise DataError(
            f"{root / TORCHVISION}: {problem} Delete that folder, or complete it"
        ) from error
    y_train, y_test = (np.array(d.targets, np.int64) for d in (train, test))
    return {"x_train": train.data, "y_train": y_train, "x_test": test.data, "y_test": y_test}


def _download(folder: Path, cache: Path) -> Raw:
    before, existed = socket.getdefaulttimeout(), folder.exists()
    socket.setdefaulttimeout(10)  # torchvision sets none: a silent server would block forever
    try:
        _from_torchvision(folder, download=True)
    finally:
        socket.setdefaulttimeout(before)
        if not existed and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()  # torchvision makes it before the download
    found = _in(folder, cache)
    assert found is not None
    return found


# --- Parquet files


def _parquet_files(place: Path) -> tuple[list[Path], list[Path]] | None:
    """Return train and test files of the first folder, at most two levels down, that has both."""
    patterns = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    folders = {file.parent for pattern in patterns for file in place.glob(pattern)}
    for folder in sorted(folders):
        files = [f for f in sorted(folder.glob("*.parquet")) if _column(f)]
        train, test = ([f for f in files if word in f.name.lower()] for word in ("train", "test"))
        if train and test:
            return train, test
    return None


def _column(file: Path) -> str | None:
    """Return the name of the image column, None if this is not a file of labelled images."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        names = pq.read_schema(file).names
    except (OSError, ArrowException):
        return None
    return next((n for n in ("jpeg", "img") if n in names and "label" in names), None)


def _from_parquet(train: Sequence[Path], test: Sequence[Path]) -> Arrays:
    x_train, y_train = _decoded(train)
    x_test, y_test = _decoded(test)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _decoded(files: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import pyarrow.parquet as pq

    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in files:
            table = pq.read_table(file, columns=[_column(file), "label"])
            cells = table.column(0).to_pylist()
            blobs = [c["bytes"] if isinstance(c, dict) else c for c in cells]
            try:
                images.append(np.stack(list(pool.map(_decode, blobs))))
            except Exception as error:  # PIL raises various exceptions for a broken image
                raise DataError(f"{file}: an image cannot be decoded ({error})") from error
            labels.append(table.column(1).to_numpy().astype(np.int64))
    return np.concatenate(images), np.concatenate(labels)


def _decode(blob: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(BytesIO(blob)).convert("RGB"))


# --- the cache of decoded images


def _cached(files: Sequence[Path], decode: Callable[[], Arrays], cache: Path) -> Arrays:
    """Return what `decode` returns, from `cache` if the same files were decoded before."""
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
    target = cache / f"cifar10-{key}.npz"
    if arrays := _read(target):
        return arrays
    arrays = decode()
    _write(target, arrays)
    return arrays


def _read(target: Path) -> Arrays | None:
    """Return the cached arrays; a damaged file is renamed. A zip file has its own checksums."""
    if not target.exists():
        return None
    try:
        with np.load(target, allow_pickle=False) as file:
            return {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        set_aside(target)
        return None


def _write(target: Path, arrays: Arrays) -> None:
    """Write the cache atomically; if that fails, continue without it."""
    with suppress(OSError), replacing(target) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
