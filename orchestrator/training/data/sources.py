"""The data sources except CIFAR-10 and images: digits, arrays in a file, the user's function."""

from __future__ import annotations

from collections.abc import Mapping
from zipfile import is_zipfile

import numpy as np
from torch import Tensor

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import DataConfig, DataUse, OwnDataConfig
from orchestrator.config.user_code import build, takes
from orchestrator.training.data import images
from orchestrator.training.data.arrays import ARRAYS, MORE, PARTS, part, raw
from orchestrator.training.data.parts import DataError, Raw
from orchestrator.training.data.splits import stratified_order


def digits() -> Raw:
    """Return scikit-learn's handwritten digits (1,797 of 8x8, grey 0..16), a fifth as the test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = part(bunch.images.astype(np.uint8), bunch.target, "digits")
    order = stratified_order(whole.y, seed=0)  # fixed: the test part is the same in every study
    count = len(order) // 5
    train, test = whole.take(order[count:]), whole.take(order[:count])
    return Raw(train, test, "scikit-learn's digits", mirrored=False)


def arrays(config: DataConfig) -> Raw:
    """Return the arrays of the .npz file at `data.path`: `ARRAYS`, and `MORE` if it has them."""
    if config.path is None:
        raise DataError("data.path is not set: data=arrays needs the path of an .npz file")
    try:
        with open(config.path, "rb") as stream:
            if not is_zipfile(stream):  # NumPy would try it as a pickle
                raise ValueError("not a complete zip archive, as numpy.savez writes")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                found = {name: file[name] for name in (*ARRAYS, *MORE) if name in file.files}
    except Exception as error:  # various exceptions of zip, zlib and NumPy
        problem = " ".join(str(error).split())
        raise DataError(f"data.path={config.path}: not a readable .npz file ({problem})") from error
    if missing := [name for name in ARRAYS if name not in found]:
        raise DataError(f"data.path={config.path}: lacks {', '.join(missing)}")
    return raw(found, f"Arrays from {config.path}")


def divided(config: OwnDataConfig) -> tuple[OwnConfig, DataUse]:
    """Return the callable with its arguments, and the settings on how to use its data.

    A setting that is in the callable's signature is only its argument.
    """
    given = {k: getattr(config, k) for k in DataUse.model_fields if k in config.model_fields_set}
    own = {k: given.pop(k) for k in takes(config.target) if k in given}
    arguments = {"_target_": config.target, **config.arguments, **own}
    return OwnConfig.model_validate(arguments), DataUse(**given)


def own(config: OwnConfig) -> Raw:
    """Return the data of the user's callable.

    It returns (x_train, y_train, x_test, y_test), arrays or tensors; or (train, test) or (train,
    val, test), torch Datasets; or a dict of either, with the names of `ARRAYS` and `MORE` or of
    `PARTS`. Or `_target_` is a Dataset class with an argument `train` or `split`, like
    torchvision's. Datasets are read once, so random transforms are applied once.
    """
    source = f"{config.target}"
    value = images.both_parts(config) or build(config)
    if isinstance(value, Mapping):
        return raw(value, source)
    if isinstance(value, tuple | list) and len(value) == 4:
        return raw(dict(zip(ARRAYS, value, strict=True)), source)
    if isinstance(value, tuple | list) and any(isinstance(v, np.ndarray | Tensor) for v in value):
        raise DataError(
            f"data {source}: returned {len(value)} arrays, need four: x_train, y_train, x_test,"
            " y_test (with a validation part of your own: a dict that has x_val and y_val too)"
        )
    if isinstance(value, tuple | list) and len(value) in (2, 3):
        names = PARTS[:2] if len(value) == 2 else ("train", "val", "test")
        return raw(dict(zip(names, value, strict=True)), source)
    raise DataError(
        f"data {source}: must return (x_train, y_train, x_test, y_test), or (train, test) or"
        f" (train, val, test) torch Datasets, or a dict of them, got {type(value).__name__}"
    )
