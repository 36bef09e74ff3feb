"""A stand-in for NVIDIA's management library: what it answers is what a test says."""

from collections.abc import Sequence
from typing import Any


class Driver:
    """As `ctypes.CDLL` gives it: functions fill what they are given a reference to, return 0.

    `uses`: of each GPU, in percent. Each has 80 GB, of which a quarter is in use.
    """

    def __init__(self, uses: Sequence[int], broken: bool = False) -> None:
        self._uses = uses
        self._failed = 999 if broken else 0  # NVML_ERROR_UNKNOWN

    def nvmlInit_v2(self) -> int:  # noqa: D102
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: D102
        count._obj.value = len(self._uses)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: D102
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, found: Any) -> int:  # noqa: D102
        found._obj.gpu = self._uses[handle.value - 1]
        return self._failed

    def nvmlDeviceGetMemoryInfo(self, handle: Any, found: Any) -> int:  # noqa: D102
        found._obj.total, found._obj.used = 80_000_000_000, 20_000_000_000
        return self._failed
