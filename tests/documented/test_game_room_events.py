"""Usage Examples, Example 1: Game Room Events."""

from __future__ import annotations

import asyncio

from game_tasks.messaging import (
    GameEvent,
    GameEventHandler,
    GameEventType,
    Message,
    PriorityInMemoryQueue,
    TopicRouter,
)


async def test_room_events_are_routed_and_handled() -> None:
    done: asyncio.Queue[str] = asyncio.Queue()

    async def notify_lobby(room_id: str | None) -> None:
        done.put_nowait(f"lobby knows {room_id}")

    async def cleanup_room(room_id: str | None) -> None:
        done.put_nowait(f"{room_id} is clean")

    # Setup for room event processing
    room_queue = PriorityInMemoryQueue("room_events")
    room_router = TopicRouter("room_router")

    # Register routes
    room_router.register_queue("room_events", room_queue)
    room_router.register_route("room.*", "room_events")

    # Room event handler
    class RoomEventHandler(GameEventHandler):
        async def process_event(self, event: GameEvent):
            if event.event_type == GameEventType.ROOM_CREATED:
                await notify_lobby(event.room_id)
            elif event.event_type == GameEventType.ROOM_CLOSED:
                await cleanup_room(event.room_id)

    # Process room events
    handler = RoomEventHandler()

    async def process_room_events():
        while True:
            msg = await room_queue.dequeue(timeout=1.0)
            if msg:
                await handler.handle(msg)
                await room_queue.acknowledge(msg.metadata.message_id)

    processing = asyncio.create_task(process_room_events())
    for event_type in (GameEventType.ROOM_CREATED, GameEventType.ROOM_CLOSED):
        event = GameEvent(event_type=event_type, room_id="room-1")
        await room_router.route(Message(payload=event), event.event_type)

    assert [await done.get(), await done.get()] == ["lobby knows room-1", "room-1 is clean"]
    processing.cancel()
    await asyncio.wait([processing])
    await room_queue.close()
    assert room_queue.get_stats()["acknowledged"] == 2
    assert await room_queue.size() == 0
