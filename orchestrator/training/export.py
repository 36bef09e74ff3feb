"""Exports the trained network by torch.export: a program that needs neither our nor user code."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.training.data.parts import Data
from orchestrator.training.data.rescale import of_columns


class Served(nn.Module):
    """The network with its normalisation: takes inputs as the data source gives them, float32.

    Inputs (n, *input_shape), outputs the network's scores. Tokens are int64; inputs that float32
    cannot represent are float64.
    """

    mean: Tensor
    factor: Tensor
    centre: Tensor | None
    unit: Tensor | None

    def __init__(self, network: nn.Module, data: Data) -> None:
        super().__init__()
        self.network = network
        dims = data.train.x.dim()
        self.register_buffer("mean", of_columns(data.mean, dims).clone())
        self.register_buffer("factor", of_columns(data.scale / data.std, dims))
        frame = data.frame or (None, None)
        for name, values in zip(("centre", "unit"), frame, strict=True):
            self.register_buffer(name, None if values is None else of_columns(values, dims).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        if self.centre is not None and self.unit is not None:
            x = ((x - self.centre) / self.unit).float()
        if x.is_floating_point():
            x = (x - self.mean) * self.factor
        scores: Tensor = self.network(x)
        return scores


def export(network: nn.Module, data: Data, weights: Path, to: Path) -> tuple[int, ...]:
    """Write `network` with the `weights` of a state_dict file to `to`, by torch.export.

    Returns the shape of the scores of one example. The batch size is dynamic if the network allows
    it. Raises the errors of torch.export for a network that it cannot trace.
    """
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    served = Served(network, data).eval()
    example = torch.zeros(2, *data.input_shape, dtype=data.source_type)
    with torch.no_grad(), warnings.catch_warnings():
        # torch's recurrent layers do this in each pass; the program is right
        warnings.filterwarnings("ignore", r"(?s).*_flat_weights.* assigned during export")
        shape = tuple(served(example).shape[1:])
        program = torch.export.export(
            served, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
        )
    torch.export.save(program, to)
    return shape
