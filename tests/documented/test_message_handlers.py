"""Core Components, 5. Message Handlers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from game_tasks.messaging import (
    AsyncMessageHandler,
    BatchMessageHandler,
    Message,
    RetryingHandler,
    RetryPolicy,
    TimeoutHandler,
)


async def test_handlers_are_put_around_each_other() -> None:
    batches: list[list[int]] = []

    async def process_batch(messages: list[Message]) -> None:
        batches.append([message.payload for message in messages])

    # Async handler with concurrency control
    async def process_game_event(message):
        # Process game event
        pass

    handler = AsyncMessageHandler(
        process_game_event,
        max_concurrent=10
    )

    # Batch processing
    batch_handler = BatchMessageHandler(
        batch_func=process_batch,
        batch_size=100,
        batch_timeout=timedelta(seconds=5)
    )

    # Add retry logic
    retry_handler = RetryingHandler(
        handler,
        RetryPolicy(max_retries=3, initial_delay=timedelta(seconds=1))
    )

    # Add timeout
    timeout_handler = TimeoutHandler(
        retry_handler,
        timeout=timedelta(seconds=30)
    )

    await asyncio.gather(
        *(timeout_handler.handle(Message(number)) for number in range(20)),
        *(batch_handler.handle(Message(number)) for number in range(100)),
    )
    assert handler.get_stats() == {"handled": 20, "failed": 0, "running": 0}
    assert timeout_handler.get_stats() == {"handled": 20, "failed": 0, "timeouts": 0}
    assert batches == [list(range(100))]  # full, so its five seconds were not waited for


async def test_a_timeout_ends_all_attempts_together() -> None:
    async def fails(message: Message) -> None:
        raise OSError("not now")

    patient = RetryingHandler(AsyncMessageHandler(fails), RetryPolicy(initial_delay=timedelta(hours=1), jitter=False))

    with pytest.raises(TimeoutError):
        await TimeoutHandler(patient, timeout=timedelta(milliseconds=20)).handle(Message("m"))

    assert patient.get_stats()["total_retries"] == 1
