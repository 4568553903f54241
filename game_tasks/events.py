"""Game events: the envelope in which everything that happens in a room is told to its subscribers.

The type is the topic that patterns match (``game.*``); the room is a separate filter. An event carries only what every
player may know: never a hand. ``data`` holds JSON values only, so that an event read back equals the one written.

``schema_version`` is the version of the envelope; events of older versions are brought up to date when they are read,
see :mod:`game_tasks.versions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from game_tasks.versions import SCHEMA_VERSION, UnknownVersionError, upcast
from liap_tasks.policies.priority import MessagePriority

__all__ = ["EVENT_PRIORITIES", "GameEvent", "GameEventType", "SCHEMA_VERSION", "UnknownVersionError"]


class GameEventType(StrEnum):
    """What can happen; the part before the dot is what it happens to."""

    ROOM_CREATED = "room.created"
    ROOM_JOINED = "room.joined"
    ROOM_LEFT = "room.left"
    ROOM_CLOSED = "room.closed"
    GAME_STARTED = "game.started"
    GAME_ENDED = "game.ended"
    GAME_PAUSED = "game.paused"
    GAME_RESUMED = "game.resumed"
    TURN_STARTED = "turn.started"
    TURN_ENDED = "turn.ended"
    PIECE_PLAYED = "piece.played"
    DECLARATION_MADE = "declaration.made"
    REDEAL_REQUESTED = "redeal.requested"
    PLAYER_CONNECTED = "player.connected"
    PLAYER_DISCONNECTED = "player.disconnected"
    BOT_ACTIVATED = "bot.activated"
    BOT_DEACTIVATED = "bot.deactivated"
    STATE_CHANGED = "state.changed"
    ERROR_OCCURRED = "error.occurred"


_RAISED = {
    GameEventType.ERROR_OCCURRED: MessagePriority.CRITICAL,
    GameEventType.PLAYER_DISCONNECTED: MessagePriority.CRITICAL,
    GameEventType.GAME_STARTED: MessagePriority.HIGH,
    GameEventType.GAME_ENDED: MessagePriority.HIGH,
}

EVENT_PRIORITIES: Mapping[GameEventType, MessagePriority] = MappingProxyType(
    {event_type: _RAISED.get(event_type, MessagePriority.NORMAL) for event_type in GameEventType}
)
"""The priority an event is published with unless its publisher asks for another."""


class GameEvent(BaseModel):
    """One thing that happened, in a room as a rule.

    room_id: None for an event of no room. sequence: counts the room's events from 1 without gaps; None for an event
    that nobody counts, which has no place in the room's history. player_id: whom it is about, if about one player.
    timestamp: when it happened, with its time zone. data: JSON values; NaN and infinities are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    event_type: GameEventType
    room_id: str | None = Field(default=None, min_length=1)
    sequence: int | None = Field(default=None, ge=1)
    game_id: str | None = None
    player_id: str | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
    event_id: UUID = Field(default_factory=uuid4)
    timestamp: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _bring_up_to_date(cls, data: Any) -> Any:
        return upcast(data) if isinstance(data, Mapping) and "schema_version" in data else data

    @property
    def priority(self) -> MessagePriority:
        """The priority that goes with the event's type."""
        return EVENT_PRIORITIES[self.event_type]
