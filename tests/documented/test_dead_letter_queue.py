"""Core Components, 3. Dead Letter Queue."""

from __future__ import annotations

from datetime import timedelta

from game_tasks.messaging import (
    DeadLetterHandler,
    DeadLetterPolicy,
    DeadLetterQueue,
    InMemoryQueue,
    Message,
    MessageHandler,
)
from transports import VirtualClock


class YourMessageHandler(MessageHandler):
    async def handle(self, message: Message) -> None:
        raise ValueError(f"no such move: {message.payload}")


async def test_a_failed_message_goes_to_the_dead_letter_queue(clock: VirtualClock) -> None:
    moves = InMemoryQueue("moves")
    await moves.enqueue(Message("fly"))
    message = await moves.dequeue()
    assert message is not None

    # Configure DLQ policy
    policy = DeadLetterPolicy(
        max_retries=3,
        ttl=timedelta(hours=24),
        retry_delay=timedelta(minutes=1),
        exponential_backoff=True
    )

    # Create DLQ
    dlq = DeadLetterQueue("failed_messages", policy)

    # Wrap handler with DLQ support
    handler = YourMessageHandler()
    dlq_handler = DeadLetterHandler(handler, dlq, policy)

    # Failed messages automatically go to DLQ
    await dlq_handler.handle(message)

    [entry] = await dlq.inspect()
    assert (entry.message.payload, entry.reason) == ("fly", "retries_exhausted")
    assert (entry.error_message, entry.original_queue) == ("no such move: fly", "moves")
    assert moves.get_stats()["acknowledged"] == 1
    assert await moves.acknowledge(message.metadata.message_id) is False  # it has been
    clock.advance(24 * 3600)
    assert await dlq.size() == 0  # kept for its ttl
