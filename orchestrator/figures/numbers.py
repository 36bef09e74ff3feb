"""Formats numbers and durations, for figures, the report and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DASH = "–"  # noqa: RUF001


def number(value: Any, digits: int = 4) -> str:
    """Return `value` with `digits` significant digits, small ones as 5e-4; None as a dash."""
    if value is None:
        return DASH
    if isinstance(value, bool | str):
        return {True: "yes", False: "no"}.get(value, str(value)) if value in (0, 1) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {number(v, digits)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(v, digits) for v in value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits}g}"
        return text if "e" not in text else f"{value:.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def rate(value: Any) -> str:
    """Return a learning rate or another hyper-parameter with three significant digits."""
    return number(value, 3)


def duration(seconds: float) -> str:
    """Return a duration as text: 0.8 s, 42 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
