"""Usage Examples, Example 2: Reliable Task Processing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from game_tasks.messaging import (
    AsyncMessageHandler,
    BoundedInMemoryQueue,
    DeadLetterHandler,
    DeadLetterPolicy,
    DeadLetterReason,
    Message,
    QueueFullError,
    RetryableDeadLetterQueue,
)
from transports import VirtualClock


class TemporaryError(Exception):
    pass


class PermanentError(Exception):
    pass


async def test_temporary_errors_are_retried_and_permanent_ones_are_kept(clock: VirtualClock) -> None:
    troubles: dict[str, list[Exception]] = {"shaky": [TemporaryError(), TemporaryError()], "wrong": [PermanentError()]}
    executed: list[Any] = []

    async def execute_task(task: str) -> None:
        if troubles.get(task):
            raise troubles[task].pop()
        executed.append(task)

    # Create reliable task queue with DLQ
    task_queue = BoundedInMemoryQueue(
        "tasks",
        max_size=1000,
        overflow_strategy="reject"
    )

    dlq = RetryableDeadLetterQueue(
        "task_dlq",
        DeadLetterPolicy(
            max_retries=5,
            retry_delay=timedelta(seconds=30),
            exponential_backoff=True
        )
    )

    # Register retry queue
    dlq.register_retry_queue("tasks", task_queue)

    # Task handler with error handling
    async def process_task(message):
        task = message.payload
        try:
            result = await execute_task(task)
            return result
        except TemporaryError:
            # Will be retried
            raise
        except PermanentError:
            # Send to DLQ
            await dlq.add(
                message,
                DeadLetterReason.VALIDATION_FAILED
            )

    handler = AsyncMessageHandler(process_task)
    dlq_handler = DeadLetterHandler(handler, dlq)

    async def handle_what_waits() -> None:
        while (message := await task_queue.dequeue()) is not None:
            await dlq_handler.handle(message)
            await task_queue.acknowledge(message.metadata.message_id)

    for task in ("fine", "shaky", "wrong"):
        await task_queue.enqueue(Message(task))
    await handle_what_waits()
    assert executed == ["fine"]
    retried = {entry.message.payload: entry.retry_at is not None for entry in await dlq.inspect()}
    assert retried == {"shaky": True, "wrong": False}

    for delay in (30, 60):  # doubled each time
        clock.advance(delay - 0.001)
        assert await task_queue.size() == 0
        clock.advance(0.001)
        assert await task_queue.size() == 1
        await handle_what_waits()

    assert executed == ["fine", "shaky"]
    assert [(entry.message.payload, entry.reason) for entry in await dlq.inspect()] == [("wrong", "validation_failed")]


async def test_the_bounded_queue_rejects_what_is_too_much() -> None:
    task_queue = BoundedInMemoryQueue("tasks", max_size=2, overflow_strategy="reject")
    await task_queue.enqueue(Message(1))
    await task_queue.enqueue(Message(2))

    with pytest.raises(QueueFullError, match="'tasks' is full"):
        await task_queue.enqueue(Message(3))

    assert [message.payload for message in await task_queue.peek(5)] == [1, 2]
