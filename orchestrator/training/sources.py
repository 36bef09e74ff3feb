"""Where data come from, but for CIFAR-10: embedded digits, arrays in a file, the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.config import DataConfig, OwnConfig
from orchestrator.training.data import DataError, Part, Raw, stratified_order

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


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
    """Return the arrays x_train, y_train, x_test, y_test of the .npz file at `data.path`."""
    if config.path is None:
        raise DataError("data.path is not set: data=arrays needs the path of an .npz file")
    try:
        with open(config.path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in ARRAYS if name in file.files}
    except Exception as error:  # zip, zlib and NumPy raise many kinds for a torn or another file
        problem = " ".join(str(error).split())
        raise DataError(f"data.path={config.path}: not a readable .npz file ({problem})") from error
    if missing := [name for name in ARRAYS if name not in found]:
        raise DataError(f"data.path={config.path}: lacks {', '.join(missing)}")
    return _four([found[name] for name in ARRAYS], f"Arrays from {config.path}")


def own(config: OwnConfig) -> Raw:
    """Return what the user's callable gives.

    Either (x_train, y_train, x_test, y_test), arrays or tensors, or (train, test), two torch
    Datasets, which are read once: what is random in their transforms is frozen then.
    """
    from orchestrator.own import build

    value = build(config)
    source = f"{config.target}"
    if isinstance(value, tuple | list) and len(value) == 4:
        return _four(value, source)
    if isinstance(value, tuple | list) and len(value) == 2:
        return _four([a for dataset in value for a in _columns(dataset, source)], source)
    raise DataError(
        f"data {source}: must return (x_train, y_train, x_test, y_test) or two torch Datasets,"
        f" got {type(value).__name__}"
    )


def _columns(dataset: Any, source: str) -> tuple[Any, Any]:
    try:
        pairs = [dataset[i] for i in range(len(dataset))]
        return np.stack([np.asarray(x) for x, _ in pairs]), np.array([int(y) for _, y in pairs])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data {source}: its Datasets must give (input, label) pairs of one shape ({error})"
        ) from error


def _four(values: Sequence[Any], source: str) -> Raw:
    x_train, y_train, x_test, y_test = values
    train, test = part(x_train, y_train, "train"), part(x_test, y_test, "test")
    if train.x.shape[1:] != test.x.shape[1:]:
        shapes = f"{tuple(train.x.shape[1:])} and {tuple(test.x.shape[1:])}"
        raise DataError(f"training and test inputs differ in shape: {shapes}")
    return Raw(train, test, source)


def part(x: Any, y: Any, name: str) -> Part:
    """Return checked tensors: images (n, c, h, w), features (n, d), labels (n,).

    Grey images may come as (n, h, w), colours last as (n, h, w, c). Bytes stay bytes in images;
    all else becomes float32. Raises DataError for what no training can use.
    """
    inputs, labels = _tensor(x, f"x_{name}"), _tensor(y, f"y_{name}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"y_{name}: need whole-number labels of shape (n,),"
            f" got {labels.dtype} of shape {tuple(labels.shape)}; regression is not supported yet"
        )
    if inputs.dim() not in (2, 3, 4):
        shape = tuple(inputs.shape)
        raise DataError(f"x_{name}: need images (n, c, h, w) or features (n, d), got {shape}")
    if inputs.is_complex():
        raise DataError(f"x_{name}: need real numbers, got {inputs.dtype}")
    if len(inputs) != len(labels):
        raise DataError(f"{name}: {len(inputs):,} inputs but {len(labels):,} labels")
    if not inputs.numel():
        raise DataError(f"{name}: there are no examples, x has shape {tuple(inputs.shape)}")
    return Part(_inputs(inputs, name), labels.long().contiguous())


def _tensor(value: Any, name: str) -> Tensor:
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        return torch.from_numpy(np.array(value))  # copied: a read-only array would be shared
    except (TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: not an array of numbers ({problem})") from error


def _inputs(x: Tensor, name: str) -> Tensor:
    colours = (1, 3, 4)
    if x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.dim() == 4 and x.shape[3] in colours and x.shape[1] not in colours:
        x = x.permute(0, 3, 1, 2)
    if x.dtype != torch.uint8 or x.dim() == 2:
        x = x.float()
        bad = ~torch.isfinite(x.flatten(1)).all(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise DataError(f"x_{name}: NaN or infinite values, first in example {first}")
    return x.contiguous()
