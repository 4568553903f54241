"""Which publishes of a channel the broker has confirmed, refused or returned.

Numbers rise from 1. A confirmation speaks of all up to its number, a refusal of one. Added to by whoever reads the
connection, asked by whoever published.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from transports.engine.errors import EngineError

__all__ = ["Confirms"]


class Confirms:
    """The publishes of one channel."""

    __slots__ = ("_refusals", "_returned", "last", "settled")

    def __init__(self) -> None:
        self.last = 0  # the number of the last publish, counted by whoever sends
        self.settled = 0  # all publishes up to this number are confirmed or refused
        self._refusals: dict[int, EngineError] = {}
        self._returned: deque[list[Any]] = deque()

    def confirmed(self, number: int) -> None:
        """Note that all publishes up to ``number`` are settled."""
        if number > self.settled:
            self.settled = number

    def refused(self, number: int, error: EngineError) -> None:
        """Note that one was refused; all before it are settled too."""
        self._refusals[number] = error
        self.confirmed(number)

    def returned(self, fields: list[Any]) -> None:
        """Note that a mandatory message found no queue. fields: exchange, routing key, content, body."""
        self._returned.append(fields)

    def is_settled(self, number: int) -> bool:
        """Tell whether a publish was confirmed or refused."""
        return self.settled >= number

    def take_refusal(self, number: int) -> EngineError | None:
        """Return why a publish was refused, once; None when it was taken."""
        return self._refusals.pop(number, None)

    def take_refusals(self, first: int, last: int) -> list[EngineError]:
        """Return the refusals of the publishes from ``first`` to ``last``, once."""
        return [self._refusals.pop(number) for number in list(self._refusals) if first <= number <= last]

    def take_returned(self) -> list[list[Any]]:
        """Return the messages that came back since the last call."""
        return [self._returned.popleft() for _ in range(len(self._returned))]
