"""NVIDIA's management library, pretended: what it answers is what a test says."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest


def pretend(patch: pytest.MonkeyPatch, uses: Sequence[int] | None, broken: bool = False) -> None:
    """Let there be a GPU for each of `uses`, its use in percent; None: there is no driver.

    Each has 80 GB, of which a quarter is in use. `broken`: a GPU answers nothing that it is asked.
    """

    def init() -> None:
        if uses is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def answer(found: Any) -> Any:
        if broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
        return found

    gpus = uses or ()
    memory = SimpleNamespace(total=80_000_000_000, used=20_000_000_000)
    for name, function in {
        "nvmlInit": init,
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda index: answer(SimpleNamespace(gpu=gpus[index])),
        "nvmlDeviceGetMemoryInfo": lambda index: answer(memory),
    }.items():
        patch.setattr(pynvml, name, function)
