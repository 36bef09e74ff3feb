"""Describes config and data: for run keys (with hashes of user code), for records and for notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from orchestrator.config.optimizer import Fitting
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import AnyData, ModelConfig, OwnDataConfig
from orchestrator.config.user_modules import code_of
from orchestrator.training.data.parts import Data

# Settings of the data that are left out: content hashes replace them, and cover the test data only
# where it is opened.
LEFT_OUT = {"path", "folder", "download", "dataset", "test_examples"}
LEFT_OUT_OF_OWN = {"test_examples"}


def described(config: BaseModel) -> dict[str, Any]:
    """Return a section of the config as JSON values, with hashes of the user's code."""
    if isinstance(config, Fitting):
        values = config.described()
    elif isinstance(config, OwnDataConfig):
        values = config.model_dump(mode="json", by_alias=True, exclude=LEFT_OUT_OF_OWN)
    elif isinstance(config, OwnConfig):
        values = config.model_dump(mode="json", by_alias=True)
    else:
        values = config.model_dump(mode="json", exclude=LEFT_OUT)
    return {**values, **_code(config)} if isinstance(config, OwnConfig) else values


def _code(config: OwnConfig) -> dict[str, Any]:
    """Return the hashes of a callable's code, under keys that no argument has."""
    code = code_of(config.target)
    source = "_source_" if "source" in config.arguments else "source"
    return {source: code.source, **({"_modules_": code.modules} if code.modules else {})}


def edited(configs: Iterable[BaseModel]) -> list[str]:
    """Return a note if files of the user's code changed after their import."""
    own = [config for config in configs if isinstance(config, OwnConfig)]
    files = sorted({file for config in own for file in code_of(config.target).edited})
    if not files:
        return []
    return [
        f"{', '.join(files)} changed after this process had imported it: this study trains the old"
        " code; restart the process (the notebook's kernel) for the new one."
    ]


def named(data: AnyData, found: Data) -> list[dict[str, Any]]:
    """Return the datasets of training and decisions (see `Tracker.start`), not the sealed test."""
    name = data.target if isinstance(data, OwnConfig) else data.name
    parts = (
        ("training", found.train, found.train_hash),
        ("evaluation", found.held_out, found.held_out_hash),
    )
    return [
        {
            "name": name,
            "context": context,
            "digest": digest,
            "source": found.source,
            "examples": len(part),
        }
        for context, part, digest in parts
    ]


FEW = 4  # channels or features whose mean and std are listed


def preprocessing(found: Data) -> dict[str, Any] | None:
    """Return how inputs are normalised and augmented, None for tokens.

    `dims`: of one example; `type`: that of the source; `mean`, `std`: per channel or feature, None
    if there are more than `FEW`; `scale`: factor after normalising; `augmented`: random changes of
    training images, "" without any.
    """
    if found.tokens:
        return None
    few = len(found.mean) <= FEW
    kept = found.train.x.dtype if found.frame is None else found.source_type
    border = found.border
    shifted = f"shifted by up to {border} pixel{'s' * (border > 1)}"
    mirrored = " and mirrored" if found.mirrored else ""
    return {
        "dims": len(found.input_shape),
        "type": str(kept).removeprefix("torch."),
        "mean": found.source_mean.tolist() if few else None,
        "std": found.source_std.tolist() if few else None,
        "scale": found.scale,
        "augmented": f"{shifted}{mirrored} at random" if border else "",
    }


def asides(found: Data, model: ModelConfig | OwnConfig) -> list[str]:
    """Return notes for the report on the processing of inputs, and the network's name."""
    sentences = []
    if found.scale != 1:
        sentences.append(f"Normalised inputs are multiplied by {found.scale:g}.")
    if found.border:
        what = "mirrored and shifted" if found.mirrored else "shifted"
        sentences.append(f"Training images are {what} at random.")
    name = model.target if isinstance(model, OwnConfig) else model.name
    width = "" if isinstance(model, OwnConfig) or model.width == 1 else f" of width {model.width:g}"
    return [*sentences, f"The network is {name}{width}."]
