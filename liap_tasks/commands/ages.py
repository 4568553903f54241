"""Lengths of time on a command line: ``90s``, ``30m``, ``2h``, ``1d12h``, ``1.5h``, ``2w``.

Why a bare number is refused: ``--older-than 2`` reads as hours to one and as seconds to another, and the commands
that take it send and delete messages.
"""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["AGE", "Age", "parse_age"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PART = r"(\d+(?:\.\d+)?)([smhdw])"


def parse_age(text: str) -> float:
    """Return the seconds that ``text`` means: ``1d12h`` -> 129600.

    Raises ValueError that says how an age is written.
    """
    compact = text.strip().lower()
    if not re.fullmatch(rf"(?:{PART})+", compact):
        raise ValueError(f"{text!r} is no age; write it as 90s, 30m, 2h, 1d12h or 2w")
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(PART, compact))


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A click parameter of an age; its value is seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or end with click's usage error."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_age(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


AGE = Age()
