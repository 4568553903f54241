"""Core Components, 2. Queue Operations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from game_tasks.messaging import DeliveryOptions, InMemoryQueue, Message, MessagePriority
from transports import VirtualClock


async def test_a_message_is_enqueued_dequeued_and_acknowledged(broker_url: str) -> None:
    processed: list[Any] = []
    message = Message(payload={"event": "game_started", "room_id": "123"})

    async def process_message(msg: Message) -> None:
        processed.append(msg.payload)

    # Create queue
    queue = InMemoryQueue("game_events")

    # Enqueue with options
    options = DeliveryOptions(
        ttl=timedelta(minutes=5),
        delay=timedelta(seconds=1),
        priority=MessagePriority.HIGH
    )

    message_id = await queue.enqueue(message, options)
    held = (await queue.size(), queue.get_stats()["delayed"])

    # Dequeue and process
    msg = await queue.dequeue(timeout=5.0)
    if msg:
        # Process message
        await process_message(msg)

        # Acknowledge completion
        await queue.acknowledge(msg.metadata.message_id)

    assert held == (0, 1)  # for its second of delay
    assert processed == [message.payload]
    assert msg is not None
    assert (msg.metadata.message_id, msg.priority) == (message_id, MessagePriority.HIGH)
    assert queue.get_stats()["acknowledged"] == 1


async def test_its_time_to_live_begins_when_its_delay_is_over(clock: VirtualClock, broker_url: str) -> None:
    queue = InMemoryQueue("game_events")
    options = DeliveryOptions(ttl=timedelta(minutes=5), delay=timedelta(seconds=1))
    await queue.enqueue(Message("waits"), options)

    clock.advance(300.9)
    assert await queue.size() == 1
    clock.advance(0.1)

    assert await queue.size() == 0
    assert queue.get_stats()["expired"] == 1
    assert [letter.message.payload for letter in await _dead_letters()] == ["waits"]


async def _dead_letters() -> list[Any]:
    from game_tasks.messaging import DeadLetterQueue

    return await DeadLetterQueue().inspect()
