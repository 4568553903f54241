"""Numbers on a command line: click's ``FloatRange`` without NaN and infinity.

Why: NaN is neither below nor above a bound, so ``FloatRange`` lets it pass (click 8.5.1), and what it is given to
ends with a traceback.
"""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["FiniteRange"]


class FiniteRange(click.FloatRange):
    """A click parameter of a finite number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or end with click's usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number
