"""A length of time in a policy: seconds or a timedelta, kept as seconds."""

from __future__ import annotations

import math
from datetime import timedelta

__all__ = ["Duration", "in_seconds"]

Duration = float | int | timedelta


def in_seconds(name: str, value: Duration, *, above_zero: bool = False) -> float:
    """Return ``value`` as seconds.

    Raises ValueError naming the field when it is not a finite number, negative, or 0 where ``above_zero`` forbids it.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(f"{name} must be seconds or a timedelta, not {value!r}")
    if not math.isfinite(seconds) or seconds < 0 or (above_zero and seconds == 0):
        raise ValueError(f"{name} must be a finite time {'above' if above_zero else 'of at least'} 0 s, not {value!r}")
    return seconds
