"""Game Integration, Game Event Queue."""

from __future__ import annotations

from typing import Any

from game_tasks.messaging import GameEvent, GameEventHandler, GameEventQueue, GameEventType, MessagePriority


async def test_an_event_is_published_and_processed() -> None:
    initialized: list[Any] = []

    async def initialize_game(data: Any) -> None:
        initialized.append(data)

    # Create game event queue
    event_queue = GameEventQueue("game_events")

    # Publish game event
    event = GameEvent(
        event_type=GameEventType.GAME_STARTED,
        room_id="room_123",
        game_id="game_456",
        player_id="player_789",
        data={
            "players": ["p1", "p2", "p3", "p4"],
            "initial_state": "preparation"
        }
    )

    event_id = await event_queue.publish(event, MessagePriority.HIGH)

    # Subscribe to events
    class GameStartHandler(GameEventHandler):
        async def process_event(self, event: GameEvent):
            # Handle game start
            await initialize_game(event.data)

    handler = GameStartHandler(
        event_types={GameEventType.GAME_STARTED}
    )

    event_queue.subscribe("game.started", handler)

    # Process events
    await event_queue.process_events()

    assert event_id == str(event.event_id)
    assert initialized == [event.data]
    assert event_queue.get_stats()["acknowledged"] == 1
    assert await event_queue.process_events() == 0
