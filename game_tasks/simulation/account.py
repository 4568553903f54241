"""The account of a simulation: what was published, what its subscribers saw of it, and what became of it.

The events of a room are numbered from 1 without gaps, so one number for each open room tells everything: the next event
that reaches the witness must be that one. A smaller number is an event that came twice or too late, a larger one
leaves a gap behind. What is kept grows with the rooms that are open, not with the events.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from game_tasks.events import GameEvent
from game_tasks.latency import Latencies

__all__ = ["Account", "Claim"]

PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class Claim:
    """Something that must be so at the end. detail: the figures it stands on."""

    name: str
    holds: bool
    detail: str


class Account:
    """Counts the events of all rooms on their way to the witness, a subscriber that gets every one of them."""

    def __init__(self) -> None:
        self.published = 0
        self.witnessed = 0
        self.most_on_their_way = 0
        self.twice_or_late = 0
        self.gaps = 0
        self.expected: Counter[str] = Counter()  # deliveries by subscriber
        self.latencies = Latencies()
        self.problems: list[str] = []
        self._next: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._published_at: dict[tuple[str, int], float] = {}  # of the events on their way
        self._changed = threading.Condition()
        self._room_wanted = 0

    @property
    def on_their_way(self) -> int:
        """Events published that the witness has not seen yet."""
        return self.published - self.witnessed

    def publish(self, event: GameEvent, subscribers: list[str]) -> None:
        """Note an event that is about to be published to its subscribers."""
        with self._changed:
            self.published += 1
            self.most_on_their_way = max(self.most_on_their_way, self.on_their_way)
            self.expected.update(subscribers)
            self._next.setdefault(_place_of(event)[0], 1)

    def close_room(self, room_id: str, events: int) -> None:
        """Note that a room has published its last event, number ``events``."""
        with self._changed:
            self._last[room_id] = events
            self._forget_if_complete(room_id)

    def witness(self, event: GameEvent) -> None:
        """Note an event that has reached its handler."""
        self.latencies.note(time.time() - event.timestamp.timestamp())
        room, number = _place_of(event)
        with self._changed:
            self.witnessed += 1
            wanted = self._next.get(room)
            if wanted is None or number < wanted:
                self.twice_or_late += 1
                self._complain(f"{room}: event {number} came again or too late")
            else:
                if number > wanted:
                    self.gaps += number - wanted
                    self._complain(f"{room}: event {number} came when {wanted} was due")
                self._next[room] = number + 1
                self._forget_if_complete(room)
            if self._room_wanted and self.on_their_way <= self._room_wanted:
                self._changed.notify_all()

    def _forget_if_complete(self, room: str) -> None:
        if room in self._last and self._next.get(room, 0) > self._last[room]:
            del self._next[room], self._last[room]
            self._changed.notify_all()

    def _complain(self, what: str) -> None:
        if len(self.problems) < PROBLEMS_SHOWN:
            self.problems.append(what)

    def wait_for_room(self, most: int, timeout: float) -> bool:
        """Wait until at most ``most`` events are on their way; False when ``timeout`` seconds were not enough."""
        if self.on_their_way <= most:
            return True
        with self._changed:
            self._room_wanted = most
            try:
                return self._changed.wait_for(lambda: self.on_their_way <= most, timeout)
            finally:
                self._room_wanted = 0

    def wait_for_all(self, timeout: float) -> bool:
        """Wait until the witness has seen every event of every room that was closed."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._next, timeout)

    @property
    def unfinished(self) -> int:
        """Rooms of which the witness has not seen every event."""
        return len(self._next)


def _place_of(event: GameEvent) -> tuple[str, int]:
    """Return an event's room and number; raises ValueError for one that is not counted, as all of a room's are."""
    if event.room_id is None or event.sequence is None:
        raise ValueError(f"event {event.event_id} has no place in the history of a room")
    return event.room_id, event.sequence
