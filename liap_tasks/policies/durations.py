"""A length of time in a policy: seconds or a timedelta, kept as seconds."""

from __future__ import annotations

import math
from datetime import timedelta

__all__ = ["TEN_YEARS", "Duration", "in_seconds"]

TEN_YEARS = 315_360_000
"""Seconds: RabbitMQ's bound for the times of a queue, ours for settings and time limits, as no thread waits 1e300 s."""

Duration = float | int | timedelta


def in_seconds(name: str, value: Duration, *, above_zero: bool = False, at_most: float | None = None) -> float:
    """Return ``value`` as seconds.

    Raises ValueError naming the field when it is not a finite number, negative, 0 where ``above_zero`` forbids it, or
    above ``at_most``.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(f"{name} must be seconds or a timedelta, not {value!r}")
    if not math.isfinite(seconds) or seconds < 0 or (above_zero and seconds == 0):
        raise ValueError(f"{name} must be a finite time {'above' if above_zero else 'of at least'} 0 s, not {value!r}")
    if at_most is not None and seconds > at_most:
        raise ValueError(f"{name} must be at most {at_most} s, not {value!r}")
    return seconds
