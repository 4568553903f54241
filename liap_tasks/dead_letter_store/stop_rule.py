"""When a replay does more harm than good: the letters come back dead, of what they died of before.

A replayed letter that dies again is a new letter with the old one as its ``replayed_from``. If more than a given share
of the replayed letters has come back with one and the same error, the cause is not mended and the rest stays where it
is. A few letters prove nothing, so the rule is silent until a sample has been replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["StopRule"]


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Stop when one error comes back for more than ``percent`` of at least ``sample`` replayed letters.

    percent: 0..100; at 100 it never stops anything. sample: at least 1. Raises ValueError for other values.
    """

    percent: float = 50.0
    sample: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent must lie in 0..100, not {self.percent!r}")
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1, not {self.sample!r}")

    def broken_by(self, replayed: int, came_back: Mapping[str, int]) -> str | None:
        """Return the error that breaks the rule, or None.

        came_back: how many of the ``replayed`` letters died again, by error.
        50 %, 40 replayed: 21 times the same error break it, 20 do not.
        """
        if replayed < self.sample or not came_back:
            return None
        error = max(came_back, key=lambda name: came_back[name])
        return error if came_back[error] * 100 > self.percent * replayed else None
