"""The recipe as plain PyTorch code to copy, which does not import this package."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Any

from orchestrator.recipe import Recipe
from orchestrator.stages.stage import schedule_of

_LEGS = """\
    low, high = MIN_LR, MAX_LR
    if progress > 0.9:  # the tail: lr falls to a thousandth of its minimum
        return low * (1 - (progress - 0.9) / 0.1 * (1 - 1e-3)), MAX_MOMENTUM
    height = 1 - abs(2 * progress / 0.9 - 1)  # 0 -> 1 -> 0 over two equal legs
    return low + height * (high - low), MAX_MOMENTUM - height * (MAX_MOMENTUM - MIN_MOMENTUM)"""
_AUTHOR = """\
    low, high, leg = MIN_LR, MAX_LR, 2 * progress / 0.9  # 0 -> 1 up, 1 -> 2 down, then the tail
    lr = low + leg * (high - low) if leg <= 1 else max(high * (2 - leg), low / 1000)
    fallen = 1 - abs(leg - 1) if leg <= 2 else (leg - 2) / 2
    return lr, MAX_MOMENTUM - fallen * (MAX_MOMENTUM - MIN_MOMENTUM)"""
_COSINE = """\
    def cosine(start: float, end: float, fraction: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2

    if progress <= $peak:
        fraction = progress / $peak
        return cosine(MAX_LR / 25, MAX_LR, fraction), cosine(MAX_MOMENTUM, MIN_MOMENTUM, fraction)
    fraction = (progress - $peak) / (1 - $peak)
    return cosine(MAX_LR, MAX_LR / $end, fraction), cosine(MIN_MOMENTUM, MAX_MOMENTUM, fraction)"""
_LINEAR = """\
    height = progress / 0.05 if progress < 0.05 else (1 - progress) / 0.95
    return MAX_LR * max(height, 1e-3), MAX_MOMENTUM"""
_BODIES = {
    "paper": _LEGS,
    "author": _AUTHOR,
    "fastai": Template(_COSINE).substitute(peak=0.25, end="1e5"),
    "torch": Template(_COSINE).substitute(peak=0.3, end="25e4"),
    "linear": _LINEAR,
    "constant": "    return MAX_LR, MAX_MOMENTUM",
}
_DROPOUT = """\
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = {}
"""
_FROZEN = """\
for name, parameter in model.named_parameters():
    if any(fnmatchcase(name, pattern) for pattern in {}):
        parameter.requires_grad_(False)
"""
_NORMALISED = """\
# The study trained on normalised inputs, {values}
# over its training examples as its data source gave them ({type}).{more}
{statistics}


def normalised(x: torch.Tensor) -> torch.Tensor:
    \"\"\"Return inputs as the study's network got them, in training and in tests.\"\"\"
    mean, std = (t.to(x.device).view({view}) for t in (MEAN, STD))
    return {normal}


"""
_MEASURED = """\
x = torch.cat([inputs for inputs, _ in loader]).{cast}()  # all training inputs, {shape}
MEAN, STD = x.mean({axes}), x.std({axes}, correction=0)
STD = torch.where(STD > {rounding} * MEAN.abs(), STD, 1.0)  # what is constant is not divided"""
SHAPES = (  # of inputs, by the dimensions of one example
    "(n, features)",
    "(n, channels, length)",
    "(n, channels, height, width)",
    "(n, channels, depth, height, width)",
)
_ALL = "model.parameters()"
_NO_DECAY_OF_NORMS_AND_BIASES = """\
[
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]"""
_CLIPPED = """
        torch.nn.utils.clip_grad_norm_(model.parameters(), {})"""
_AVERAGE = "average = copy.deepcopy(model)  # evaluate and keep this one\n"
_AVERAGED = """
        decay = min({}, (1 + step) / (10 + step))
        for mean, new in zip(average.state_dict().values(), model.state_dict().values()):
            mean.copy_(mean.lerp(new, 1 - decay) if mean.is_floating_point() else new)"""
_EXAMPLES = """
# The study trained on {:,} examples; those that it held out to decide by were not among them."""
_SGD = """\
optimizer = torch.optim.SGD(
    {parameters},
    lr=MIN_LR,
    momentum=MAX_MOMENTUM,
    weight_decay={decay},
    nesterov={nesterov},
)"""
_ADAMW = """\
{name} = torch.optim.AdamW(
    {parameters},
    lr=MIN_LR,
    betas=(MAX_MOMENTUM, {beta2}),
    eps={eps},
    weight_decay={decay},
)"""
_MUON = (
    """\
weights = [(n, p) for n, p in model.named_parameters() if "weight" in n.rpartition(".")[2]]
kinds = torch.nn.Embedding, torch.nn.EmbeddingBag
embeddings = [m for m in model.modules() if isinstance(m, kinds)]
embedded = {{p for m in embeddings for p in m.parameters(False)}}
matrices = [p for _, p in weights if p.ndim == 2 and p not in embedded][:-1]  # of hidden layers
matrices = [p for p in matrices if p.requires_grad]
others = [p for p in model.parameters() if p.requires_grad and p not in set(matrices)]
optimizer = torch.optim.Muon(
    matrices,
    lr=MIN_LR,
    momentum=MAX_MOMENTUM,
    weight_decay={decay},
    adjust_lr_fn="match_rms_adamw",
)
"""
    + _ADAMW
)
_SET_MUON = """\
group["lr"], momentum = rates(step / steps)
            group["momentum"] = momentum
        for group in adamw.param_groups:
            group["lr"], group["betas"] = optimizer.param_groups[0]["lr"], (momentum, {beta2})"""
_PAGE = Template("""\
${imports}import torch

EPOCHS, BATCH_SIZE = $epochs, $batch_size
MAX_LR, MIN_LR = $max_lr, $min_lr
MAX_MOMENTUM, MIN_MOMENTUM = $max_momentum, $min_momentum


def rates(progress: float) -> tuple[float, float]:
    \"\"\"Return lr and momentum at `progress`, the fraction of the run done.\"\"\"
$body


${inputs}${before}$optimizer
# loader = DataLoader(..., BATCH_SIZE, shuffle=True, drop_last=True)$examples
steps, step = EPOCHS * len(loader), 0
for epoch in range(EPOCHS):
    for inputs, targets in loader:
        for group in optimizer.param_groups:
            $set_rates
        $zero_grad()
        loss_function(model($given)$scores, targets$targets).backward()$clipped
        optimizer.step()$also$averaged
        step += 1
""")


def pytorch(
    recipe: Recipe,
    epochs: float | None,
    inputs: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
) -> str | None:
    """Return code that trains by `recipe`; None while it has no max_lr or no such schedule.

    None also for a user's own optimiser. The code needs the reader's `model` and `loader`, and
    without `task` also `loss_function`. `inputs`, `task`: see `StudyRecord`.
    """
    if recipe.max_lr is None or recipe.schedule not in _BODIES or "." in recipe.optimizer:
        return None
    schedule = schedule_of(recipe)  # sets min_lr if the recipe has none
    parts = {
        "zero_grad": "optimizer.zero_grad",
        "also": "",
        **_optimizer(recipe),
        **_options(recipe.optimizer_options),
        "body": _BODIES[recipe.schedule],
    }
    if recipe.dropout is not None:
        parts["before"] = _DROPOUT.format(recipe.dropout) + parts["before"]
    if loss := _loss(task, recipe.optimizer_options.get("label_smoothing")):
        parts["before"] = f"{loss}\n{parts['before']}"
    return _PAGE.substitute(
        schedule.spec(),
        epochs=max(1, round(epochs or 1)),
        batch_size=recipe.batch_size,
        imports=_imports("".join(parts.values())),
        inputs=_inputs(inputs) if inputs else "",
        given="normalised(inputs)" if inputs else "inputs",
        examples=_EXAMPLES.format(task["examples"]) if task else "",
        scores=task["scores"] if task else "",
        targets=task["targets"] if task else "",
        **parts,
    )


def _loss(task: Mapping[str, Any] | None, smoothing: float | None) -> str:
    """Return the line of the loss, with label smoothing if it is on; "" for an unknown loss."""
    line = str(task["loss"]) if task else ""
    if smoothing is None:
        return line
    start = line.removesuffix(")") or "loss_function = torch.nn.CrossEntropyLoss("
    comma = "" if start.endswith("(") else ", "
    return f"{start}{comma}label_smoothing={smoothing})"


def _inputs(done: Mapping[str, Any]) -> str:
    """Return the lines that normalise inputs as the study did, with its numbers if they are few."""
    dims, mean, std = done["dims"], done["mean"], done["std"]
    shape = SHAPES[dims - 1]
    axes = (0, *range(2, dims + 1)) if dims > 1 else 0
    more = f"\n# It also had training inputs {done['augmented']}." if done["augmented"] else ""
    exact = done["type"] == "float64"  # float32 would lose precision that matters
    cast, rounding, kind = (
        ("double", "2e-15", ", dtype=torch.float64") if exact else ("float", "1e-6", "")
    )
    scale = "" if done["scale"] == 1 else f" * {done['scale']:g}"
    normal = f"(x.{cast}() - mean) / std{scale}"
    return _NORMALISED.format(
        values=f"(x - mean) / std of each {'channel' if dims > 1 else 'feature'}",
        type=done["type"],
        more=more,
        view=", ".join(["-1", *["1"] * (dims - 1)]),
        normal=f"({normal}).float()" if exact else normal,
        statistics=_MEASURED.format(shape=shape, axes=axes, cast=cast, rounding=rounding)
        if mean is None
        else f"MEAN, STD = torch.tensor({mean}{kind}), torch.tensor({std}{kind})",
    )


def _imports(code: str) -> str:
    """Return the imports of `code` from the standard library, and a blank line."""
    used = [f"import {name}\n" for name in ("copy", "math") if f"{name}." in code]
    used += ["from fnmatch import fnmatchcase\n"] if "fnmatchcase" in code else []
    return "".join([*used, "\n"]) if used else ""


def _options(on: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of the optimiser options that are on."""
    before = {"frozen": _FROZEN, "ema": _AVERAGE}
    within = {"clipped": ("max_grad_norm", _CLIPPED), "averaged": ("ema", _AVERAGED)}
    return {
        "before": "".join(text.format(on[k]) for k, text in before.items() if k in on),
        **{k: text.format(on[name]) if name in on else "" for k, (name, text) in within.items()},
    }


def _optimizer(recipe: Recipe) -> dict[str, str]:
    """Return the lines that make the optimiser and set its rates."""
    options = {"beta2": 0.999, "eps": 1e-8, **recipe.optimizer_options}
    some = options.get("decay_norms_and_biases") is False
    known = {
        "parameters": _NO_DECAY_OF_NORMS_AND_BIASES if some else _ALL,
        "decay": recipe.weight_decay,
    }
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.max_momentum > 0  # at 0 torch refuses it; no effect
        return {
            "optimizer": _SGD.format(**known, nesterov=nesterov),
            "set_rates": 'group["lr"], group["momentum"] = rates(step / steps)',
        }
    known |= {"beta2": options["beta2"], "eps": options["eps"]}
    if recipe.optimizer == "muon":
        parameters = str(known["parameters"]).replace("model.parameters()", "others")
        return {
            "optimizer": _MUON.format(**{**known, "parameters": parameters}, name="adamw"),
            "set_rates": _SET_MUON.format(beta2=options["beta2"]),
            "zero_grad": "model.zero_grad",
            "also": f"\n{' ' * 8}adamw.step()",
        }
    set_rates = f'group["lr"], beta1 = rates(step / steps)\n{" " * 12}group["betas"] = '
    return {
        "optimizer": _ADAMW.format(**known, name="optimizer"),
        "set_rates": set_rates + f"(beta1, {options['beta2']})",
    }
