"""Retries of letters whose queue is full: the letter waits with the dead letters until there is room."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from liap_tasks.messaging import (
    BoundedInMemoryQueue,
    DeadLetterPolicy,
    DeadLetterReason,
    Message,
    RetryableDeadLetterQueue,
)
from tests.liap_tasks.messaging.test_dead_letter_queues import taken_from
from transports import QueueFullError, VirtualClock

TRANSIENT = DeadLetterReason.RETRIES_EXHAUSTED
DELAY = 30.0


async def full_queue_and_letters(delay: float = DELAY) -> tuple[BoundedInMemoryQueue, RetryableDeadLetterQueue]:
    """Return a queue with room for one, which has one, and the queue of the letter it had no room for."""
    queue = BoundedInMemoryQueue("q", max_size=1)
    dlq = RetryableDeadLetterQueue("letters", DeadLetterPolicy(retry_delay=delay, max_retries=3))
    dlq.register_retry_queue("q", queue)
    message = await taken_from(queue)
    await queue.enqueue(Message("fills it"))
    await dlq.add(message, TRANSIENT)
    return queue, dlq


async def test_it_is_sent_when_it_is_due_and_there_is_room(clock: VirtualClock) -> None:
    queue, dlq = await full_queue_and_letters()
    [entry] = await dlq.inspect()
    assert (entry.message.payload, entry.retry_at) == ("m", entry.died_at + DELAY)
    assert queue.get_stats()["acknowledged"] == 1
    clock.advance(DELAY)  # full still
    [entry] = await dlq.inspect()
    assert entry.retry_at == entry.died_at + 2 * DELAY
    await queue.clear()
    clock.advance(DELAY - 1)
    assert (await queue.size(), await dlq.size()) == (0, 1)

    clock.advance(1)

    message = await queue.dequeue()
    assert message is not None
    assert (message.payload, message.metadata.replays) == ("m", 1)
    assert (await dlq.size(), dlq.get_stats()["retried"]) == (0, 1)


async def test_it_is_sent_by_the_machine_s_clock_too() -> None:
    queue, dlq = await full_queue_and_letters(delay=0.05)
    await queue.clear()
    message = await queue.dequeue(30)
    assert message is not None
    assert message.payload == "m"
    while await dlq.size():
        await asyncio.sleep(0.001)


async def test_many_letters_wait_with_one_timer_and_are_sent_in_their_order() -> None:
    queue, dlq = await full_queue_and_letters(delay=0.3)
    before = threading.active_count()
    for number in range(100):
        await dlq.add(Message(number), TRANSIENT, original_queue="q")
    assert threading.active_count() <= before + 1
    await queue.clear()
    sent = []
    for _ in range(2):
        message = await queue.dequeue(30)
        assert message is not None
        await queue.acknowledge(message.metadata.message_id)
        sent.append(message.payload)
    assert sent == ["m", 0]
    await dlq.close()


async def test_a_broker_that_fails_meanwhile_is_tried_again(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue, dlq = await full_queue_and_letters()
    await queue.clear()
    with monkeypatch.context() as broken:
        broken.setattr(queue.link, "run_now", None)
        clock.advance(DELAY)
    assert "cannot be sent to 'q' now" in caplog.text
    assert (await queue.size(), await dlq.size()) == (0, 1)
    clock.advance(DELAY)
    assert (await queue.size(), await dlq.size()) == (1, 0)


async def test_a_cancelled_retry_is_not_tried(clock: VirtualClock) -> None:
    queue, dlq = await full_queue_and_letters()
    await queue.clear()
    [entry] = await dlq.inspect()
    assert await dlq.cancel_retry(entry.message_id)
    assert not await dlq.cancel_retry(entry.message_id)
    clock.advance(10 * DELAY)
    assert await queue.size() == 0
    [entry] = await dlq.inspect()
    assert entry.retry_at is None


async def test_somebody_s_own_retry_is_the_only_one(clock: VirtualClock) -> None:
    queue, dlq = await full_queue_and_letters()
    [entry] = await dlq.inspect()
    with pytest.raises(QueueFullError):
        await dlq.retry(entry.message_id)
    [entry] = await dlq.inspect()
    assert entry.retry_at is not None  # the letter stays, and is tried still
    await queue.clear()
    assert await dlq.retry(entry.message_id)
    again = await queue.dequeue()
    assert again is not None
    await dlq.add(again, TRANSIENT)  # now there was room for it
    clock.advance(DELAY)
    assert (await queue.size(), await dlq.size()) == (0, 1)  # its second delay is twice as long
    clock.advance(DELAY)
    assert (await queue.size(), await dlq.size()) == (1, 0)


async def test_a_letter_of_an_object_that_is_closed_or_dropped_waits_for_somebody(clock: VirtualClock) -> None:
    queue, dlq = await full_queue_and_letters()
    await queue.clear()
    await dlq.close()
    clock.advance(DELAY)
    assert (await queue.size(), await dlq.size()) == (0, 1)
    [entry] = await dlq.inspect()
    assert entry.retry_at is None

    await dlq.purge()
    queue, dropped = await full_queue_and_letters()
    await queue.clear()
    del dropped
    gc.collect()
    clock.advance(DELAY)
    assert (await queue.size(), await dlq.size()) == (0, 1)
