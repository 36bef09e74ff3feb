"""The typed schema of the whole configuration: Hydra composes it, pydantic checks it.

Every mistake is reported at once, one line each, with its path, its value and what is allowed.
Stage options are declared once, in the stages' own dataclasses (`stages.stage.option`); their
pydantic models are made from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RecipeConfig(Section):
    """Starting values; what no stage decides stays as it is here."""

    max_lr: Positive | None = None
    min_lr: Positive | None = None
    max_momentum: Momentum = 0.9
    min_momentum: Momentum = 0.85
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    batch_size: Annotated[int, Field(ge=1)] = 64


class DataConfig(Section):
    """Which data, and how much of it. Splits are stratified; they depend only on this `seed`.

    `*_examples` None: all there is (held-out: a sixth of the training data). `image_size`: images
    are mean-pooled down to it. `scale` multiplies the normalised inputs (to see what a badly scaled
    input does to the learning rate). `augment`: random horizontal flips and crops.
    """

    name: Literal["digits", "cifar10", "arrays"] = "digits"
    path: str | None = None
    folder: str = "data"
    download: bool = True
    train_examples: Annotated[int, Field(ge=1)] | None = None
    held_out_examples: Annotated[int, Field(ge=1)] | None = None
    test_examples: Annotated[int, Field(ge=1)] | None = None
    image_size: Annotated[int, Field(ge=4)] | None = None
    scale: Positive = 1.0
    augment: bool = False
    seed: int = 0


class OwnConfig(BaseModel):
    """The user's own class or function: `_target_: package.module.name` and its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    target: Annotated[str, Field(alias="_target_")]


class ModelConfig(Section):
    """Which network. `width` multiplies the channels, `dropout` is before the last layer."""

    name: Literal["mlp", "conv3", "resnet9", "resnet18", "resnet56"] = "mlp"
    width: Positive = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class OptimizerConfig(Section):
    """SGD with momentum; weight decay is coupled L2, as in the paper's own code."""

    name: Literal["sgd"] = "sgd"
    nesterov: bool = True
