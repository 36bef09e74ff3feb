"""Builds networks, ours and the user's own, tries them, and sets their dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import ModelConfig
from orchestrator.config.user_code import build as build_own
from orchestrator.config.user_code import raised
from orchestrator.training import compatibility
from orchestrator.training.compatibility import ModelError
from orchestrator.training.data.parts import Data
from orchestrator.training.networks import NETWORKS
from orchestrator.training.task import CLASSIFY, Task

SOME = 64  # targets on which the user's own loss is tried


def build(config: ModelConfig | OwnConfig, data: Data) -> nn.Module:
    """Return the network with fresh weights from torch's global random state, on the CPU.

    The user's own callable is offered `num_classes` (the same as `num_outputs`) and `input_shape`.
    Raises ModelError.
    """
    if isinstance(config, OwnConfig):
        count, shape = data.classes, data.input_shape
        made = build_own(config, num_classes=count, num_outputs=count, input_shape=shape)
        if not isinstance(made, nn.Module):
            raise ModelError(
                f"model {config.target}: returns a {type(made).__name__}, not an nn.Module"
            )
        return _materialised(made, data)
    if data.tokens:
        raise ModelError(
            f"model.name={config.name}: whole-number inputs {data.input_shape} are tokens, which"
            " need a network of your own with an embedding; if they are features, give floats"
        )
    if config.name != "mlp" and len(data.input_shape) != 3:
        what, cure = {4: "volumes"}.get(len(data.input_shape), "features"), ""
        if len(data.input_shape) == 2:
            sides = ", ".join(map(str, data.input_shape))
            what, cure = f"signals (n, {sides})", f"; give grey images as (n, 1, {sides})"
        raise ModelError(f"model.name={config.name}: needs images, these are {what}: use mlp{cure}")
    return NETWORKS[config.name](config, data.input_shape, data.classes)


def _materialised(made: nn.Module, data: Data) -> nn.Module:
    """Return the network after a forward pass with two examples, which makes lazy weights."""
    if any(isinstance(p, UninitializedParameter) for p in made.parameters()):
        training = made.training
        with torch.no_grad():
            _scores(made.eval(), data.sample().x, data)
        made.train(training)
    return made


def check(model: nn.Module, data: Data, task: Task = CLASSIFY) -> bool:
    """Try the network on two examples; return whether it also takes channels-last images.

    Raises ModelError or TaskError, one line, if it cannot learn these targets. (`view` in a user's
    forward may fail with channels last.)
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("model: it has no parameters that can be trained (requires_grad)")
    x, y = data.sample()
    if data.tokens:
        x = data.extreme_tokens()
    scores = _scores(model.eval(), x.clone(), data)
    compatibility.check_shape(task, scores, y, data.classes)
    assert isinstance(scores, Tensor)
    if not scores.requires_grad:  # detached, whole numbers, or unused parameters
        raise ModelError("model: its scores do not depend on parameters that can be trained")
    if not torch.isfinite(scores).all():
        raise ModelError("model: it returns NaN or infinite scores before training")
    compatibility.try_out(task, scores, y, data.train.y[:SOME])
    if x.dim() != 4:
        return False
    try:
        _tried(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def _scores(model: nn.Module, x: Tensor, data: Data) -> object:
    """Return the network's outputs. Raises ModelError, one line, for any error of the network."""
    try:
        return model(x)
    except (Exception, SystemExit) as error:
        problem = f"model: it cannot take inputs {data.input_shape}: {raised(error)}"
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
        if kinds and not data.tokens:
            problem += (
                f"; inputs come as float32, and its weights are {', '.join(map(str, kinds))}: leave"
                " them float32 (precision=bfloat16 computes in bfloat16), or cast in its forward"
            )
        if not data.tokens and "'indices'" in str(error):
            problem += "; bytes and floats (n, length) are features: give tokens as int64"
        if data.tokens:
            low, high = int(x.min()), int(x.max())
            problem += (
                f"; whole numbers are taken as tokens, here {low} to {high} (an embedding of"
                f" {high + 1}), give features as floats"
            )
        raise ModelError(problem) from error


@torch.no_grad()
def _tried(model: nn.Module, x: Tensor) -> object:
    return model(x)


def _dropouts(model: nn.Module) -> list[nn.modules.dropout._DropoutNd]:
    """Return the dropout modules (nn.Dropout, Dropout2d, AlphaDropout, ...), also a user's own.

    Dropout that is an argument of another module (attention, LSTM) is not included.
    """
    return [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]


def dropout_of(model: nn.Module) -> float | None:
    """Return the largest probability of the model's dropout modules, None if it has none."""
    return max((float(m.p) for m in _dropouts(model)), default=None)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network has batch norm that is trained."""
    return any(
        isinstance(m, nn.modules.batchnorm._BatchNorm)
        and any(p.requires_grad for p in m.parameters())
        for m in model.modules()
    )


def is_random(one: nn.Module, other: nn.Module) -> bool:
    """Return whether most weights of a network differ between seeds, as those from a file do not.

    Args:
        one: The network.
        other: The same network from another seed.
    """
    random = loaded = 0
    for a, b in zip(one.parameters(), other.parameters(), strict=False):
        if torch.equal(a, b):
            constant = bool((a == a.flatten()[:1]).all())  # biases and the like say nothing
            loaded += 0 if constant else a.numel()
        else:
            random += a.numel()
    return random > loaded


def is_normalised(model: nn.Module) -> bool:
    """Return whether some layer normalises: batch, layer, group or RMS norm, or one named so."""
    return any(type(m).__name__.rstrip("123d").endswith("Norm") for m in model.modules())


def set_dropout(model: nn.Module, p: float | None) -> None:
    """Set the probability of all dropout modules to `p`; None changes nothing."""
    if p is not None:
        for module in _dropouts(model):
            module.p = p
