"""The workloads: real data (one set made up), small networks, final runs of .1 to 3 s on one core.

The method and its defaults are tuned on `TUNING`; `JUDGING` only judges, and was named before the
first study ran on it. (`digits_conv`, `cifar_resnet`, `signals` and `signals_x3` judged at first;
faults of the range test were found on them, so they tune now, and four others took their place.
`digits_bn_adam` showed that a first version of AdamW's weight decay was too large for short
trainings. The size was then set on other networks, but of this one rule it is no judge.)
`regime`: what a final run of the untuned recipe shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Workload:
    """A task: the sections of its config that are not at their defaults."""

    name: str
    regime: Literal["underfits", "horizontal", "overfits"]
    config: Mapping[str, Any]
    needs_cifar: bool = False

    def mapping(self, seed: int, cifar: str | None, **changes: Any) -> dict[str, Any]:
        """Return the config of one study; `cifar`: where CIFAR-10 lies."""
        made = {"threads": 1, "device": "cpu", "seed": seed, **self.config, **changes}
        if self.needs_cifar:
            made["data"] = {**made["data"], "path": cifar}
        return made

    @property
    def adaptive(self) -> bool:
        """Whether it is trained with AdamW."""
        return self.config.get("optimizer", {}).get("name") == "adamw"


def _made(
    name: str,
    regime: Any,
    epochs: int,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    **more: Any,
) -> Workload:
    config = {"data": data, "model": model, "stages": {"final": {"epochs": epochs}}, **more}
    return Workload(name, regime, config, data.get("name") == "cifar10")


def _cifar(train: int, **more: Any) -> dict[str, Any]:
    sizes = {"train_examples": train, "held_out_examples": 1000, "test_examples": 4000}
    return {"name": "cifar10", "image_size": 8, **sizes, **more}


MLP = {"name": "mlp"}
HALF_CONV = {"name": "conv3", "width": 0.5}
NARROW_RESNET = {"name": "resnet9", "width": 0.125}
DIGITS = {"name": "digits"}
WINDOWS = {"_target_": "made.windows"}, {"_target_": "made.Windows"}
FEW_WINDOWS = {**WINDOWS[0], "train": 2000}, WINDOWS[1]
LESS_NOISE = {"_target_": "made.noisy_digits", "share": 0.1}
ADAMW = {"name": "adamw"}

TUNING = (
    _made("digits_mlp", "horizontal", 20, DIGITS, MLP),
    _made("digits_bn", "underfits", 6, DIGITS, NARROW_RESNET),
    _made("few_digits", "horizontal", 100, {"_target_": "made.few_digits", "train": 180}, MLP),
    _made("noisy_digits", "overfits", 20, {"_target_": "made.noisy_digits"}, MLP),
    _made("cifar_conv", "underfits", 3, _cifar(8000, augment=True), HALF_CONV),
    _made("cifar_2k", "overfits", 20, _cifar(1500), HALF_CONV),
    _made("chars_mlp", "underfits", 3, *WINDOWS),
    _made("chars_adam", "underfits", 3, *WINDOWS, optimizer=ADAMW),
    _made("cancer", "overfits", 40, {"_target_": "made.cancer"}, MLP),
    _made("noisy_adam", "overfits", 20, {"_target_": "made.noisy_digits"}, MLP, optimizer=ADAMW),
    _made("cancer_adam", "overfits", 40, {"_target_": "made.cancer"}, MLP, optimizer=ADAMW),
    _made("noisy_wide", "overfits", 30, LESS_NOISE, {**MLP, "width": 2}),
    _made("few_chars", "overfits", 16, *FEW_WINDOWS),
    _made("few_chars_adam", "overfits", 16, *FEW_WINDOWS, optimizer=ADAMW),
    _made("cifar_flat", "horizontal", 10, _cifar(4000), {**MLP, "width": 0.5}),
    _made("digits_conv", "underfits", 8, {**DIGITS, "scale": 4.0}, {"name": "conv3"}),
    _made("cifar_resnet", "underfits", 2, _cifar(8000, augment=True), NARROW_RESNET),
    _made(
        "signals_x3",
        "underfits",
        6,
        {"_target_": "made.signals", "scale": 3.0},
        {"_target_": "made.conv1d"},
    ),
    _made("signals", "underfits", 10, {"_target_": "made.signals"}, {"_target_": "made.conv1d"}),
)
JUDGING = (
    _made(
        "few_wide",
        "horizontal",
        40,
        {"_target_": "made.few_digits", "train": 300},
        {**MLP, "width": 4},
    ),
    _made("digits_bn_adam", "underfits", 8, DIGITS, NARROW_RESNET, optimizer=ADAMW),
    _made("cifar_1k", "overfits", 16, _cifar(1000), NARROW_RESNET),
    _made(
        "transformer",
        "underfits",
        4,
        {"_target_": "made.sequences", "train": 1800},
        {"_target_": "made.Transformer"},
        optimizer=ADAMW,
    ),
    _made("vit", "underfits", 8, DIGITS, {"_target_": "made.ViT"}, optimizer=ADAMW),
    _made("diabetes", "overfits", 60, {"_target_": "made.diabetes"}, MLP, loss={"name": "mse"}),
    _made("noisy_labels", "overfits", 20, {"_target_": "made.noisy_cancer"}, MLP),
    _made("cifar_mlp", "overfits", 12, _cifar(2000), MLP),
    _made(
        "diabetes_adam",
        "overfits",
        40,
        {"_target_": "made.diabetes"},
        {**MLP, "width": 2},
        loss={"name": "mse"},
        optimizer=ADAMW,
    ),
)
WORKLOADS = {w.name: w for w in (*TUNING, *JUDGING)}
