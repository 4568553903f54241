"""Monitoring and Metrics."""

from __future__ import annotations

import pytest

from game_tasks.messaging import (
    AsyncMessageHandler,
    DeadLetterQueue,
    InMemoryQueue,
    Message,
    RetryingHandler,
    RetryPolicy,
)


async def test_the_statistics_have_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    dlq = DeadLetterQueue("failed_messages")
    queue = InMemoryQueue("moves", dead_letters=dlq)
    troubles = [OSError("not now")]

    async def stumbles_once(message: Message) -> None:
        if troubles:
            raise troubles.pop()

    retry_handler = RetryingHandler(AsyncMessageHandler(stumbles_once), RetryPolicy(initial_delay=0))
    for number in range(3):
        await queue.enqueue(Message(number))
    for settle in (queue.acknowledge, queue.reject):
        message = await queue.dequeue()
        assert message is not None
        await retry_handler.handle(message)
        await settle(message.metadata.message_id)
    await dlq.add(Message("by hand"), "manual")

    # Get queue statistics
    stats = queue.get_stats()
    print(f"Enqueued: {stats['enqueued']}")
    print(f"Processed: {stats['dequeued']}")
    print(f"Failed: {stats['rejected']}")

    # Get DLQ metrics
    dlq_stats = dlq.get_stats()
    print(f"Dead letters: {dlq_stats['total_entries']}")
    print(f"By reason: {dlq_stats['by_reason']}")

    # Get handler metrics
    retry_stats = retry_handler.get_stats()
    print(f"Total retries: {retry_stats['total_retries']}")
    print(f"Success rate: {retry_stats['successful_retries'] / retry_stats['total_retries']}")

    assert capsys.readouterr().out.splitlines() == [
        "Enqueued: 3",
        "Processed: 2",
        "Failed: 1",
        "Dead letters: 2",
        "By reason: {'rejected': 1, 'manual': 1}",
        "Total retries: 1",
        "Success rate: 1.0",
    ]
