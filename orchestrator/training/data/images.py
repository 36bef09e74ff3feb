"""Reads image files in folders by class, and the image data sets of torchvision."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from orchestrator.config import user_code
from orchestrator.config.options import OwnConfig
from orchestrator.config.problems import one_of
from orchestrator.config.sections import DataConfig
from orchestrator.training.data.arrays import raw
from orchestrator.training.data.parts import DataError, Raw

DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes of more than 8 bits


def folder(config: DataConfig) -> Raw:
    """Return the images in `data.path`: train/CLASS/*, test/CLASS/* and perhaps val/CLASS/*.

    Read by torchvision's ImageFolder, as colour images of one size: `data.image_size`, or the size
    of all images. Grey images of more than 8 bits keep their depth.
    """
    from torchvision.datasets import ImageFolder

    if config.path is None:
        raise DataError("data.path is not set: data=folder needs a folder with train/ and test/")
    root = Path(config.path)
    names = ["train", "test"] + ["val"] * (root / "val").is_dir()
    if missing := [name for name in names if not (root / name).is_dir()]:
        raise DataError(f"data.path={config.path}: has no folder {missing[0]}/")
    parts, classes = {}, None
    for name in names:
        try:
            found = ImageFolder(root / name, loader=_opened)
        except (FileNotFoundError, OSError) as error:
            problem = " ".join(str(error).split())[:200]
            raise DataError(f"data.path={config.path}: {name}/: {problem}") from error
        classes = classes or found.classes
        if found.classes != classes:
            odd = sorted(set(classes) ^ set(found.classes))
            raise DataError(
                f"data.path={config.path}: train/ and {name}/ differ in classes: {', '.join(odd)}"
            )
        parts[name] = found
    return _read(parts, f"Images in {config.path}", config.image_size)


def named(config: DataConfig) -> Raw:
    """Return the data set of torchvision that `data.dataset` names, from files in `data.folder`."""
    import torchvision

    known = [n for n in torchvision.datasets.__all__ if n[0].isupper() and n != "FakeData"]
    if config.dataset is None or config.dataset not in known:
        given = "is not set" if config.dataset is None else f"{config.dataset!r} is not allowed"
        raise DataError(f"data.dataset: {given}: {one_of(known, config.dataset or '')}")
    target = f"torchvision.datasets.{config.dataset}"
    takes = inspect.signature(getattr(torchvision.datasets, config.dataset)).parameters
    more = {"download": config.download} if "download" in takes else {}
    parts = both_parts(_made(target, root=config.folder, **more))
    if parts is None:
        raise DataError(
            f"data.dataset: {config.dataset} has no separate training and test part (no argument"
            " `train` or `split`): return both from a function of your own, by data._target_"
        )
    return _read(parts, f"torchvision's {config.dataset}", config.image_size)


def both_parts(config: OwnConfig) -> dict[str, Any] | None:
    """Return training and test part of a Dataset class that takes `train` or `split`, else None."""
    found = user_code.resolve(config.target)
    if not (inspect.isclass(found) and issubclass(found, Dataset)):
        return None
    takes = inspect.signature(found).parameters
    ways = {"train": (True, False), "split": ("train", "test")}
    way = next((w for w in ways if w in takes and w not in config.arguments), None)
    if way is None:
        return None
    return {
        name: user_code.build(_made(config.target, **{**config.arguments, way: value}))
        for name, value in zip(("train", "test"), ways[way], strict=True)
    }


def _made(target: str, **arguments: Any) -> OwnConfig:
    return OwnConfig.model_validate({"_target_": target, **arguments})


def _read(parts: dict[str, Any], source: str, size: int | None) -> Raw:
    """Return all images of Datasets, as uint8 unless they are deeper."""
    arrays = {}
    for name, part in parts.items():
        pairs = [(_pixels(image, size), label) for image, label in part]
        shapes = sorted({image.shape[:2] for image, _ in pairs})
        if len(shapes) > 1:
            (low, wide), (high, wider) = shapes[0], shapes[-1]
            raise DataError(
                f"{source}: images differ in size, from {wide}x{low} to {wider}x{high}: set"
                " data.image_size, to which the shorter side is resized before a centre crop"
            )
        x = np.stack([image for image, _ in pairs])
        deep = x.ndim == 3 and x.dtype.kind == "f"  # without a channel floats would be signals
        arrays[f"x_{name}"] = x[:, None] if deep else x
        arrays[f"y_{name}"] = np.stack([np.asarray(label) for _, label in pairs])
    return raw(arrays, source)


def _opened(path: str) -> Any:
    """Return the image in a file, in colour unless it is deeper than 8 bits."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("F" if image.mode in DEEP else "RGB")


def _pixels(image: Any, size: int | None) -> Any:
    """Return uint8 (h, w) or (h, w, 3), or floats (h, w) of an image deeper than 8 bits.

    It is a centre crop, with the shorter side resized to `size`.
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        return np.asarray(image)
    if image.mode not in ("L", "RGB"):  # PIL silently cuts values to 8 bits
        image = image.convert("F" if image.mode in DEEP else "RGB")
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        box = (left, top, left + size, top + size)
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop(box)
    return np.asarray(image)
