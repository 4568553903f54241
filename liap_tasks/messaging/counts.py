"""How many: the numbers that callers give, refused by name when they are none."""

from __future__ import annotations

__all__ = ["at_least"]


def at_least(least: int, name: str, number: int) -> int:
    """Return ``number``; raises ValueError naming it when it is no whole number of at least ``least``."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")
    return number
