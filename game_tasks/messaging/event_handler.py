"""A handler of game events as an object, for those who take them from a queue by themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

from game_tasks.events import GameEvent, GameEventType
from liap_tasks.messaging import Message, MessageHandler

__all__ = ["GameEventHandler", "event_of"]


class GameEventHandler(MessageHandler):
    """Handles game events: a subclass says how in :meth:`process_event`.

    event_types: only these; None: all. room_filter: only events of this room, or of one of these; None: of all.
    """

    def __init__(
        self,
        event_types: Collection[GameEventType | str] | None = None,
        room_filter: str | Collection[str] | None = None,
    ) -> None:
        self.event_types = None if event_types is None else frozenset(GameEventType(one) for one in event_types)
        self.room_filter = frozenset([room_filter]) if isinstance(room_filter, str) else room_filter

    @abstractmethod
    async def process_event(self, event: GameEvent) -> Any:
        """Do what is to be done about an event; raise what went wrong."""

    def wants(self, event: GameEvent) -> bool:
        """Tell whether the event is of the types and rooms asked for."""
        return (self.event_types is None or event.event_type in self.event_types) and (
            self.room_filter is None or event.room_id in self.room_filter
        )

    def can_handle(self, message: Message) -> bool:
        """Tell whether the message is an event of the types and rooms asked for."""
        return self.wants(event_of(message))

    async def handle(self, message: Message) -> Any:
        """Process the event of a message; one that was not asked for is passed over.

        Raises what :func:`event_of` raises.
        """
        event = event_of(message)
        return await self.process_event(event) if self.wants(event) else None


def event_of(message: Message) -> GameEvent:
    """Return the event of a message, whoever published it: as its payload, or through ``publish``.

    Raises pydantic's ValidationError for a message that is no event, UnknownVersionError for one of a later version.
    """
    payload = message.payload
    if isinstance(payload, GameEvent):
        return payload
    if isinstance(payload, list) and payload and isinstance(payload[0], list) and len(payload[0]) == 1:
        payload = payload[0][0]  # a task message: [[event], {}, {...}]
    return GameEvent.model_validate(payload)
