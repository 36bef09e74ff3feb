"""The optimiser's section of the config."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from orchestrator.config.options import Fraction, OwnConfig, Positive, Real, Section


class Fitting(Section):
    """What can be switched on with any optimiser."""

    always: ClassVar[set[str]] = set()  # fields that are included even at their defaults

    decay_norms_and_biases: bool = True
    """Whether parameters of one dimension have weight decay too."""
    frozen: tuple[str, ...] = ()
    """Parameters whose name matches such a shell pattern (`0.*`, `*.bias`) are not trained."""
    max_grad_norm: Positive | None = None
    """Gradients with a larger norm are scaled down to it; null: none."""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread over all classes in training."""
    ema: Annotated[Real, Field(gt=0, lt=1)] | None = None
    """Decay per step of an average of the weights, which is evaluated and saved; null: none."""

    @property
    def options(self) -> dict[str, Any]:
        """The options that are on: plain values of the fields that are not at their defaults."""
        return self.model_dump(mode="json", exclude=self.always, exclude_defaults=True)

    def described(self) -> dict[str, Any]:
        """Return what determines results, without options that are off: older run keys stay."""
        named = self.model_dump(mode="json", include=self.always, by_alias=True)
        return {**named, **self.options}


class OptimizerConfig(Fitting):
    """SGD with momentum; weight decay is coupled L2, as in the paper's own code."""

    always: ClassVar[set[str]] = {"name", "nesterov"}

    name: Literal["sgd"] = "sgd"
    """The optimiser."""
    nesterov: bool = True
    """Nesterov's momentum instead of the classical one."""


class AdamWConfig(Fitting):
    """AdamW: momentum means beta1, and weight decay is decoupled from the gradient.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101). As in torch, a step subtracts
    lr x weight_decay of each weight, so another lr means another decay.
    """

    always: ClassVar[set[str]] = {"name"}

    nesterov: ClassVar[bool] = False

    name: Literal["adamw"] = "adamw"
    """The optimiser."""
    beta2: Fraction = 0.999
    """Decay of the mean of squared gradients; beta1 is the recipe's momentum."""
    eps: Positive = 1e-8
    """Added to the root of that mean."""


class MuonConfig(Fitting):
    """Muon for the matrices of hidden layers, AdamW for all other parameters, at one lr.

    Momentum means that of Muon and beta1 of AdamW. Weight decay is decoupled, as in `AdamWConfig`.
    Matrices are weights with two dimensions; embeddings and the last layer are AdamW's. Source:
    Jordan 2024 (kellerjordan.github.io/posts/muon), Liu et al. 2025 (arXiv 2502.16982).
    """

    always: ClassVar[set[str]] = {"name"}

    nesterov: ClassVar[bool] = False

    name: Literal["muon"] = "muon"
    """The optimiser."""
    beta2: Fraction = 0.999
    """AdamW's decay of the mean of squared gradients."""
    eps: Positive = 1e-8
    """Added to the root of that mean."""


class OwnOptimizerConfig(Fitting, OwnConfig):
    """Another torch optimiser, by `_target_` and its arguments.

    Its lr is set before each step, and its momentum or the first of its betas, if it has one.
    """

    model_config = ConfigDict(extra="allow")
    always: ClassVar[set[str]] = {"target"}

    nesterov: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return self.target


AnyOptimizer = OptimizerConfig | AdamWConfig | MuonConfig | OwnOptimizerConfig
