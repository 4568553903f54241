"""Which publishes of a channel the broker has confirmed, refused or returned.

Numbers rise from 1. A confirmation speaks of all up to its number, a refusal of one. Added to by whoever reads the
connection, asked by whoever published.
"""

from __future__ import annotations

import itertools
from typing import Any

from transports.engine.errors import EngineError

__all__ = ["Confirms"]


class Confirms:
    """The publishes of one channel."""

    __slots__ = ("_numbers", "_refusals", "_returned", "_settled", "last")

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._settled = 0
        self._refusals: dict[int, EngineError] = {}
        self._returned: list[list[Any]] = []
        self.last = 0

    def next_number(self) -> int:
        """Return the number of the next publish. Called while frames are sent in order."""
        self.last = next(self._numbers)
        return self.last

    def confirmed(self, number: int) -> None:
        """Note that all publishes up to ``number`` are settled."""
        if number > self._settled:
            self._settled = number

    def refused(self, number: int, error: EngineError) -> None:
        """Note that one was refused; all before it are settled too."""
        self._refusals[number] = error
        self.confirmed(number)

    def returned(self, fields: list[Any]) -> None:
        """Note that a mandatory message found no queue. fields: exchange, routing key, content, body."""
        self._returned.append(fields)

    def is_settled(self, number: int) -> bool:
        """Tell whether a publish was confirmed or refused."""
        return self._settled >= number

    def take_refusal(self, number: int) -> EngineError | None:
        """Return why a publish was refused, once; None when it was taken."""
        return self._refusals.pop(number, None)

    def take_refusals(self) -> dict[int, EngineError]:
        """Return all refusals that nobody has taken, by number."""
        refusals, self._refusals = self._refusals, {}
        return refusals

    def take_returned(self) -> list[list[Any]]:
        """Return the messages that came back since the last call."""
        returned, self._returned = self._returned, []
        return returned
