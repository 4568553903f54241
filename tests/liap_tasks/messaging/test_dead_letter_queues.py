"""Dead letters as objects: kept before they are acknowledged, sent back without loss, retried by themselves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from liap_tasks import DeadLetterError, EmbeddedWorker, RetryPolicy, create_app, dead_letters, load_settings
from liap_tasks.messaging import (
    AsyncMessageHandler,
    BoundedInMemoryQueue,
    DeadLetter,
    DeadLetterHandler,
    DeadLetterPolicy,
    DeadLetterQueue,
    DeadLetterReason,
    DeliveryOptions,
    InMemoryQueue,
    Message,
    MessageHandler,
    MessageQueue,
    QueueFullError,
    RetryableDeadLetterQueue,
    RetryingHandler,
)
from transports import BrokerUnavailableError, InvalidArgumentError, VirtualClock

TRANSIENT = DeadLetterReason.RETRIES_EXHAUSTED


async def taken_from(queue: MessageQueue, payload: Any = "m", **options: Any) -> Message:
    """Put a message into a queue and take it out."""
    await queue.enqueue(Message(payload), DeliveryOptions(**options))
    message = await queue.dequeue()
    assert message is not None
    return message


async def all_payloads(dlq: DeadLetterQueue) -> list[Any]:
    return [entry.message.payload for entry in await dlq.inspect()]


async def test_a_letter_tells_how_it_died(clock: VirtualClock) -> None:
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    message = await taken_from(queue, {"n": 1})
    message.metadata.source = "engine"

    message_id = await dlq.add(message, DeadLetterReason.VALIDATION_FAILED, ValueError("n is odd"))

    [entry] = await dlq.inspect()
    assert entry.message == message
    assert (entry.message_id, entry.reason) == (message_id, "validation_failed")
    assert (entry.error_message, entry.letter.exception, entry.original_queue) == ("n is odd", "ValueError", "q")
    assert (entry.died_at, entry.retry_at) == (clock.time(), None)
    assert await dlq.size() == 1
    assert dlq.get_stats() == {
        "total_entries": 1,
        "by_reason": {"validation_failed": 1},
        "added": 1,
        "retried": 0,
        "recovered": 0,
        "purged": 0,
    }


async def test_a_message_that_cannot_be_kept_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    message = await taken_from(queue)

    async def away(operation: Any) -> None:
        raise BrokerUnavailableError("away")

    monkeypatch.setattr(dlq.link, "run", away)
    with pytest.raises(BrokerUnavailableError):
        await dlq.add(message, DeadLetterReason.MANUAL)
    await queue.close()

    assert [again.payload for again in await queue.peek(9)] == ["m"]


async def test_retry_sends_a_letter_back_to_its_queue() -> None:
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    letters = [await taken_from(queue, number, dedup_key=str(number), ordering_key="a") for number in range(1)]
    letters += [await taken_from(queue, number) for number in range(1, 4)]
    for message in letters:
        await dlq.add(message, DeadLetterReason.MANUAL)

    assert await dlq.retry(letters[2].metadata.message_id)
    assert await dlq.retry(letters[0].metadata.message_id)

    assert await dlq.retry("unknown") is False
    assert await all_payloads(dlq) == [1, 3]  # the others are in their places
    returned = [await queue.dequeue(), await queue.dequeue()]
    assert [message.payload for message in returned if message] == [2, 0]
    assert returned[1] is not None
    assert returned[1].metadata.message_id == letters[0].metadata.message_id
    assert (returned[1].metadata.replays, returned[1].metadata.attempts) == (1, ())
    assert dlq.get_stats()["retried"] == 2


async def test_a_retry_that_ends_between_sending_and_leaving_sends_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    message_id = await dlq.add(await taken_from(queue))
    send_back = dlq._send_back

    def send_back_and_die(*args: Any) -> None:
        send_back(*args)
        raise OSError("the program dies")

    with monkeypatch.context() as dying:
        dying.setattr(dlq, "_send_back", send_back_and_die)
        with pytest.raises(OSError, match="dies"):
            await dlq.retry(message_id)
    assert (await queue.size(), await dlq.size()) == (1, 1)

    assert await dlq.retry(message_id)

    assert (await queue.size(), await dlq.size()) == (1, 0)


async def test_retry_to_another_queue() -> None:
    dlq, other = DeadLetterQueue("dead"), InMemoryQueue("other")
    message_id = await dlq.add(Message("m"))
    with pytest.raises(DeadLetterError, match="nobody knows which queue"):
        await dlq.retry(message_id)
    assert await dlq.retry(message_id, other)
    assert [message.payload for message in await other.peek()] == ["m"]


async def test_a_letter_stays_when_its_queue_is_full_or_gone() -> None:
    queue, dlq = BoundedInMemoryQueue("q", max_size=1), DeadLetterQueue("dead")
    full = await dlq.add(await taken_from(queue))
    await queue.enqueue(Message("fills it"))
    gone = await dlq.add(Message("g"), original_queue="never was")

    with pytest.raises(QueueFullError):
        await dlq.retry(full, queue)
    with pytest.raises(DeadLetterError, match="declare that queue"):
        await dlq.retry(gone)

    assert await all_payloads(dlq) == ["m", "g"]


async def test_a_recovered_message_is_held_until_it_is_acknowledged() -> None:
    dlq = DeadLetterQueue("dead")
    first, second = [await dlq.add(Message(number)) for number in range(2)]

    recovered = await dlq.recover(second)
    assert recovered is not None
    assert recovered.payload == 1
    assert await dlq.recover(second) is None
    assert await all_payloads(dlq) == [0]
    await dlq.close()
    assert await all_payloads(dlq) == [0, 1]

    assert await dlq.recover(first) is not None
    assert await dlq.acknowledge(first) is True
    assert await dlq.acknowledge(first) is False
    await dlq.close()
    assert await all_payloads(dlq) == [1]


async def test_letters_are_chosen_by_reason_and_age(clock: VirtualClock) -> None:
    dlq = DeadLetterQueue("dead")
    for payload, reason in (("old", "manual"), ("odd", "validation_failed"), ("new", "manual")):
        await dlq.add(Message(payload), reason)
        clock.advance(60)

    assert [entry.message.payload for entry in await dlq.inspect(reason="manual")] == ["old", "new"]
    assert [entry.message.payload for entry in await dlq.inspect(limit=1, reason="validation_failed")] == ["odd"]
    assert await dlq.purge(older_than=timedelta(seconds=90), reason="manual") == 1
    assert await all_payloads(dlq) == ["odd", "new"]
    assert await dlq.purge() == 2
    assert await dlq.size() == 0


async def test_what_a_queue_rejects_expires_or_drops_comes_to_the_queue_it_names(clock: VirtualClock) -> None:
    dlq = DeadLetterQueue("dead")
    queue = BoundedInMemoryQueue("q", max_size=1, overflow_strategy="drop_oldest", dead_letters=dlq)
    message = await taken_from(queue, "rejected")
    await queue.reject(message.metadata.message_id)
    await queue.enqueue(Message("dropped"))
    await queue.enqueue(Message("expired"), DeliveryOptions(ttl=5))
    clock.advance(5)

    assert [(entry.message.payload, entry.reason) for entry in await dlq.inspect()] == [
        ("rejected", "rejected"),
        ("dropped", "maxlen"),
        ("expired", "expired"),
    ]
    assert {entry.original_queue for entry in await dlq.inspect()} == {"q"}
    assert await dlq.retry(message.metadata.message_id)
    assert [again.payload for again in await queue.peek()] == ["rejected"]


async def test_the_app_s_dead_letters_are_read_in_the_same_way(broker_url: str) -> None:
    app = create_app(load_settings(dlq_store_url="none"), main="tests", set_as_current=False)

    @app.task(name="tests.fails", shared=False, retry_policy=RetryPolicy(max_retries=0))
    def fails(room: str) -> None:
        raise OSError("no")

    dlq = DeadLetterQueue()
    with EmbeddedWorker(app):
        fails.delay("r1")
        while not await dlq.size():
            await asyncio.sleep(0.005)
    app.close()

    [entry] = await dlq.inspect()
    assert (entry.reason, entry.letter.task, entry.original_queue) == ("retries_exhausted", "tests.fails", "liap_tasks")
    assert entry.message.payload[0] == ["r1"]
    assert len(dead_letters.peek(app)) == 1


# -- automatic retries -----------------------------------------------------------------------------------------


def retryable(queue: MessageQueue, **policy: Any) -> RetryableDeadLetterQueue:
    policy = {"max_retries": 3, "retry_delay": timedelta(seconds=30), **policy}
    dlq = RetryableDeadLetterQueue("dead", DeadLetterPolicy(**policy))
    dlq.register_retry_queue(queue.name, queue)
    return dlq


async def test_a_letter_is_retried_with_growing_delays_until_its_retries_are_used_up(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue, max_delay=100)
    message: Message | None = await taken_from(queue)

    for delay in (30, 60, 100):
        assert message is not None
        await dlq.add(message, TRANSIENT, OSError("no"))
        [entry] = await dlq.inspect()
        assert (entry.retry_at, entry.reason) == (clock.time() + delay, TRANSIENT)
        assert await dlq.size() == 1
        assert dlq.get_stats()["by_reason"] == {TRANSIENT: 1}
        clock.advance(delay - 0.001)
        assert await queue.dequeue() is None
        clock.advance(0.001)
        assert await dlq.size() == 0
        message = await queue.dequeue()
    assert message is not None
    assert message.metadata.replays == 3
    await dlq.add(message, TRANSIENT)
    clock.advance(3600)

    assert await queue.size() == 0
    [entry] = await dlq.inspect()
    assert (entry.retry_at, entry.letter.replays) == (None, 3)


async def test_a_retry_needs_no_object_any_more_once_it_is_scheduled(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    await dlq.add(await taken_from(queue), TRANSIENT)
    await dlq.close()
    await queue.close()
    clock.advance(30)
    assert await InMemoryQueue("q").size() == 1


async def test_letters_that_would_die_again_wait_for_somebody(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    await dlq.add(await taken_from(queue), DeadLetterReason.VALIDATION_FAILED)
    await dlq.add(Message("of a queue without retries"), TRANSIENT, original_queue="other")
    await dlq.add(await taken_from(queue, "nobody waits for it any more", answer_within=60), TRANSIENT)
    assert [entry.retry_at for entry in await dlq.inspect()] == [None, None, None]


async def test_a_cancelled_retry_leaves_the_letter_as_it_died(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    message = await taken_from(queue)
    handler = RetryingHandler(AsyncMessageHandler(fails), RetryPolicy(max_retries=1, initial_delay=0))
    await DeadLetterHandler(handler, dlq).handle(message)
    message_id = message.metadata.message_id
    [scheduled] = await dlq.inspect()

    assert await dlq.cancel_retry(message_id) is True
    assert await dlq.cancel_retry(message_id) is False

    [kept] = await dlq.inspect()
    assert (kept.retry_at, kept.letter.id, kept.reason) == (None, scheduled.letter.id, TRANSIENT)
    assert kept.message.metadata == message.metadata
    assert [attempt.error for attempt in kept.message.metadata.attempts] == ["OSError", "OSError"]
    clock.advance(3600)
    assert await queue.size() == 0
    assert await dlq.size() == 1


async def fails(message: Message) -> None:
    raise OSError("no")


async def test_a_letter_whose_retry_was_cancelled_can_be_sent_back_all_the_same(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    message = await taken_from(queue)
    await dlq.add(message, TRANSIENT)
    await dlq.cancel_retry(message.metadata.message_id)

    assert await dlq.retry(message.metadata.message_id)

    assert (await queue.size(), await dlq.size()) == (1, 0)


async def test_a_letter_that_waits_for_its_retry_can_be_sent_at_once(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    message = await taken_from(queue)
    await dlq.add(message, TRANSIENT)
    assert await dlq.retry(message.metadata.message_id)
    assert await queue.size() == 1
    assert await dlq.size() == 0
    clock.advance(3600)
    assert queue.get_stats()["enqueued"] == 2


async def test_a_letter_that_waits_for_its_retry_can_be_recovered_or_sent_elsewhere(clock: VirtualClock) -> None:
    queue, other = InMemoryQueue("q"), InMemoryQueue("other")
    dlq = retryable(queue)
    ids = []
    for number in range(2):
        message = await taken_from(queue, number)
        ids.append(await dlq.add(message, TRANSIENT))

    recovered = await dlq.recover(ids[0])
    assert recovered is not None
    assert recovered.payload == 0
    await dlq.acknowledge(ids[0])
    assert await dlq.retry(ids[1], other)
    clock.advance(120)

    assert await queue.size() == 0
    assert [message.payload for message in await other.peek(9)] == [1]
    assert await dlq.size() == 0


async def test_clearing_the_queue_leaves_the_letters_that_wait_there_for_their_retry(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    await dlq.add(await taken_from(queue), TRANSIENT)
    await queue.enqueue(Message("now"))
    await queue.enqueue(Message("later"), DeliveryOptions(delay=5))

    assert await queue.clear() == 2

    assert await all_payloads(dlq) == ["m"]
    clock.advance(30)
    message = await queue.dequeue()
    assert message is not None
    assert (message.payload, await queue.size(), await dlq.size()) == ("m", 0, 0)


async def test_letters_that_wait_for_their_retry_are_purged_too(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    await dlq.add(await taken_from(queue, "old"), TRANSIENT)
    clock.advance(10)
    await dlq.add(await taken_from(queue, "new"), TRANSIENT)
    await dlq.add(await taken_from(queue, "of another reason"), DeadLetterReason.TIMED_OUT)

    assert await dlq.purge(older_than=5) == 1
    assert await all_payloads(dlq) == ["new", "of another reason"]
    assert await dlq.purge(reason=DeadLetterReason.TIMED_OUT) == 1
    assert await all_payloads(dlq) == ["new"]
    assert await dlq.purge() == 1
    assert (await dlq.size(), dlq.get_stats()["purged"]) == (0, 3)


async def test_with_one_queue_registered_letters_of_unknown_origin_go_there(clock: VirtualClock) -> None:
    queue = InMemoryQueue("q")
    dlq = retryable(queue)
    await dlq.add(Message("hand-made"), TRANSIENT)
    clock.advance(30)
    assert [message.payload for message in await queue.peek()] == ["hand-made"]


def test_a_queue_that_cannot_hold_delays_is_refused() -> None:
    dlq = RetryableDeadLetterQueue("dead")
    with pytest.raises(InvalidArgumentError, match="liap-memory"):
        dlq.register_retry_queue("q", MessageQueue("q", url="amqp://nobody@127.0.0.1:1//"))


# -- the handler -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no"), "retries_exhausted"),
        (TimeoutError(), "timed_out"),
        (DeadLetter(DeadLetterReason.MANUAL, "by hand"), "manual"),
    ],
)
async def test_a_failed_message_is_kept_with_the_reason_of_its_error(error: Exception, reason: str) -> None:
    def raises(message: Message) -> None:
        raise error

    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    handler = DeadLetterHandler(AsyncMessageHandler(raises), dlq)

    assert await handler.handle(await taken_from(queue)) is None

    assert [entry.reason for entry in await dlq.inspect()] == [reason]
    assert queue.get_stats()["unacked"] == 0
    assert handler.get_stats() == {"handled": 0, "dead_lettered": 1}


async def test_a_message_that_the_handler_cannot_handle_is_kept() -> None:
    class Picky(MessageHandler):
        def can_handle(self, message: Message) -> bool:
            return message.payload != "m"

        async def handle(self, message: Message) -> str:
            return "done"

    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    handler = DeadLetterHandler(Picky(), dlq)
    assert await handler.handle(await taken_from(queue, "other")) == "done"
    await handler.handle(await taken_from(queue))
    assert [entry.reason for entry in await dlq.inspect()] == ["no_handler"]


async def test_a_policy_that_is_not_enabled_lets_errors_be_raised() -> None:
    dlq = DeadLetterQueue("dead")
    handler = DeadLetterHandler(AsyncMessageHandler(fails), dlq, DeadLetterPolicy(enabled=False))
    with pytest.raises(OSError, match="no"):
        await handler.handle(Message("m"))
    assert await dlq.size() == 0


async def test_letters_are_found_by_several_at_once() -> None:
    """Each of them holds what it passes on its way to the letter."""
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue("dead")
    ids = [await dlq.add(Message(number)) for number in range(400)]
    objects = [DeadLetterQueue("dead") for _ in range(4)]

    sent = await asyncio.gather(*(objects[place % 4].retry(one, queue) for place, one in enumerate(ids[-12:])))

    assert sent == [True] * 12
    assert (await queue.size(), await dlq.size()) == (12, 388)
