"""`torch.compile`, if it saves time: one compiled forward pass for all runs of a study."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import one_line
from orchestrator.system.files import read_sealed, write_sealed
from orchestrator.training.calibration import idle, per_step
from orchestrator.training.trainer import Forward, Setup, Trainer, eager

SIZES = 6  # batch sizes that a study trains with, each compiled separately
MOST = 2 / 3  # the largest share of a step's time that compiling may save, ...
LEAST_SECONDS = 60.0  # ... and about its cost: shorter studies are not probed
ROUNDS = 5
ROUND_SECONDS = 0.1
AGREE = 1e-2  # relative difference of loss and gradient, above that between kernels


def compiled() -> Forward:
    """Return `eager`, compiled once for each shape of a batch and structure of a network.

    The network is an argument of the compiled function, so it is not compiled again for the
    weights of another run.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64  # 8 is less than batch sizes x values of dropout
    return torch.compile(eager, dynamic=False)


@dataclass(frozen=True)
class Choice:
    """Whether the forward pass is compiled, and why, in one sentence."""

    on: bool
    reason: str


def choose(setup: Setup, batch_size: int, examples: float, cache: Path, key: Any) -> Choice:
    """Return whether to compile in a study that trains on `examples` examples in all.

    Only if the compiled pass agrees with the eager one, saves more time than it costs, and raises
    nothing. The choice is stored in `cache` under `key` (JSON values that it depends on), so that
    the same command chooses the same again: the two passes differ in the last bits.
    """
    text = json.dumps([key, batch_size, round(examples), torch.__version__], sort_keys=True)
    file = cache / f"compile-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if kept := read_sealed(file):
        return Choice(**json.loads(kept))
    made = _tried(setup, batch_size, examples)
    write_sealed(file, json.dumps(asdict(made)).encode())
    return made


def _tried(setup: Setup, batch_size: int, examples: float) -> Choice:
    plain = idle(replace(setup, forward=eager), batch_size)
    plain.advance(2)  # the first steps are slow
    whole = per_step(plain, 3) * examples / batch_size
    if whole * MOST < LEAST_SECONDS:
        return Choice(False, f"not compiled: the study takes some {whole:.0f} s")
    try:
        return _compared(setup, plain, batch_size, whole)
    except Exception as error:  # any error of the compiler: the eager pass always works
        return Choice(False, f"not compiled: the compiler fails ({one_line(error)})")


def _compared(setup: Setup, plain: Trainer, batch_size: int, whole: float) -> Choice:
    setup = replace(setup, forward=compiled())
    fast = idle(setup, batch_size)
    cost = SIZES * per_step(fast, 1)
    if (far := _distance(setup, batch_size)) > AGREE:
        return Choice(False, f"not compiled: its gradients differ by {far:.1%}")
    steps = max(3, round(ROUND_SECONDS / per_step(plain, 1)))
    ratios = [per_step(plain, steps) / per_step(fast, steps) for _ in range(ROUNDS)]
    gain = float(np.quantile(ratios, 0.25))
    saved = whole * (1 - 1 / gain)
    sentence = f"{gain:.2f} times as fast, {cost:.0f} s to compile, {whole:.0f} s to train"
    on = saved > cost
    return Choice(on, ("compiled: " if on else "not compiled: ") + sentence)


def _distance(setup: Setup, batch_size: int) -> float:
    """Return by how much the compiled pass's error in loss and gradient exceeds the eager pass's.

    The error is the relative difference from float32, on the same weights and batch; 1.5 times the
    eager error is allowed, since in bfloat16 both are off by some per cent. If two eager passes
    differ (dropout), networks are compared in eval mode.
    """
    plain = replace(setup, forward=eager)
    exact = replace(plain, precision="float32")
    repeats = torch.equal(_gradient(plain, batch_size, 0), _gradient(plain, batch_size, 1))
    wanted, ours, other = (
        _gradient(way, batch_size, 0, training=repeats) for way in (exact, plain, setup)
    )
    far, usual = (float((g - wanted).norm() / wanted.norm()) for g in (other, ours))
    return max(0.0, far - 1.5 * usual)


def _gradient(setup: Setup, batch_size: int, seed: int, training: bool = True) -> Tensor:
    trainer = idle(setup, batch_size)
    trainer.model.train(training)
    torch.manual_seed(seed)
    loss = trainer.gradient()
    grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat([loss.reshape(1), *grads]).detach().double().cpu()
