"""Playing a stored game again: its events go to one subscriber, in their order, as if they happened now.

For a new subscriber that wants to know the past, or one that has to make up for what it did wrong. The others do not
hear of it.
"""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from game_tasks.application import game_events
from game_tasks.archive import default_archive
from game_tasks.publishing import ROOM_HEADER

__all__ = ["replay_game"]


def replay_game(game_id: str, to: str, *, since: int | datetime | None = None) -> int:
    """Send the stored events of a game to the subscriber named ``to`` and return how many were sent.

    It gets those that it would get when they happen: of its types, its room, accepted by its filter. since: only from
    this sequence number on, or from this moment on. Each is a task of its own, with the subscriber's retries and dead
    letters; its event id is the original's, so that who has seen it can tell.
    Raises LookupError for a task that subscribes to nothing.
    """
    replay = str(uuid4())
    return sum(
        game_events.send_to(
            to,
            event.event_type.value,
            event,
            event_id=f"{event.event_id}/{replay}",
            priority=event.priority,
            ordering_key=event.room_id,
            headers={} if event.room_id is None else {ROOM_HEADER: event.room_id},
        )
        for event in default_archive().events_of_game(game_id, since)
    )
