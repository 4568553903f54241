"""What users of a queue object count on: waiting, sharing, cancelling, closing, bounds."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from kombu import Connection

from liap_tasks import ConfigurationError, create_app
from liap_tasks.messaging import (
    BoundedInMemoryQueue,
    DeadLetterQueue,
    DeliveryOptions,
    InMemoryQueue,
    Message,
    MessagePriority,
    MessageQueue,
    PriorityInMemoryQueue,
    QueueFullError,
)
from transports import BrokerUnavailableError, get_broker


async def payloads(queue: MessageQueue) -> list[Any]:
    """Take everything out of a queue."""
    taken = []
    while (message := await queue.dequeue()) is not None:
        taken.append(message.payload)
        await queue.acknowledge(message.metadata.message_id)
    return taken


async def test_what_was_put_in_comes_out_whole() -> None:
    queue = InMemoryQueue("q")
    sent = Message({"n": [1, None, "é"]}, headers={"shard": 3})
    sent.metadata.source = "engine"
    options = DeliveryOptions(correlation_id="game-7", priority=8)

    await queue.enqueue(sent, options)
    got = await queue.dequeue()

    assert got is not None
    assert (got.payload, got.headers, got.priority, got.redelivered) == (sent.payload, {"shard": 3}, 8, False)
    assert got.metadata.message_id == sent.metadata.message_id
    assert (got.metadata.source, got.metadata.correlation_id) == ("engine", "game-7")
    assert got.metadata.timestamp == sent.metadata.timestamp
    assert sent.metadata.correlation_id is None  # what is asked for one delivery stays out of the message


async def test_other_clients_read_and_write_the_same_messages(broker_url: str) -> None:
    queue = InMemoryQueue("q")
    await queue.enqueue(Message({"from": "here"}))
    with Connection(broker_url) as connection, connection.SimpleQueue(queue.declaration) as other:
        received = other.get(block=False)
        assert received.payload == {"from": "here"}
        received.ack()
        other.put({"from": "there"})

    message = await queue.dequeue()

    assert message is not None
    assert message.payload == {"from": "there"}
    assert await queue.acknowledge(message.metadata.message_id)  # it was given an id


async def test_a_dequeue_that_waits_in_vain_returns_none() -> None:
    queue = InMemoryQueue("q")
    assert await queue.dequeue() is None
    began = time.monotonic()
    assert await queue.dequeue(timeout=timedelta(milliseconds=50)) is None
    assert time.monotonic() - began >= 0.05


async def test_a_message_wakes_a_dequeue_that_waits() -> None:
    queue = InMemoryQueue("q")
    waiting = asyncio.create_task(queue.dequeue(timeout=math.inf))
    await asyncio.sleep(0)
    await InMemoryQueue("q").enqueue(Message("from another object"))
    message = await waiting
    assert message is not None
    assert message.payload == "from another object"


async def test_a_message_from_another_thread_wakes_it_too() -> None:
    queue = InMemoryQueue("q")
    waiting = asyncio.create_task(queue.dequeue(timeout=30))
    await asyncio.sleep(0)
    publisher = threading.Thread(target=lambda: asyncio.run(InMemoryQueue("q").enqueue(Message("m"))))
    publisher.start()
    message = await waiting
    publisher.join()
    assert message is not None
    assert message.payload == "m"


async def test_two_consumers_share_the_messages() -> None:
    queues = InMemoryQueue("q"), InMemoryQueue("q")
    taken: tuple[list[int], list[int]] = ([], [])

    async def consume(queue: InMemoryQueue, into: list[int]) -> None:
        while (message := await queue.dequeue(timeout=math.inf)) is not None:
            into.append(message.payload)
            await queue.acknowledge(message.metadata.message_id)

    consuming = [asyncio.create_task(consume(*pair)) for pair in zip(queues, taken, strict=True)]
    for number in range(40):
        await queues[0].enqueue(Message(number))
        await asyncio.sleep(0)
    while len(taken[0]) + len(taken[1]) < 40:
        await asyncio.sleep(0.001)
    for task in consuming:
        task.cancel()
    await asyncio.wait(consuming)

    assert sorted(taken[0] + taken[1]) == list(range(40))
    assert min(len(taken[0]), len(taken[1])) >= 10


async def test_an_idle_object_keeps_no_message_from_the_others() -> None:
    idle, other = InMemoryQueue("q"), InMemoryQueue("q")
    assert await idle.dequeue(timeout=0.01) is None
    await idle.enqueue(Message("m"))
    assert await idle.size() == 1
    assert await payloads(other) == ["m"]


async def test_a_cancelled_dequeue_loses_nothing() -> None:
    """Whenever it is cancelled: before, while and just after a message has been taken for it."""
    chance, queue = random.Random(7), InMemoryQueue("q")
    done: list[int] = []

    async def consume() -> None:
        while True:
            message = await queue.dequeue(timeout=30)
            assert message is not None
            done.append(message.payload)
            await queue.acknowledge(message.metadata.message_id)

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    for number in range(300):
        await queue.enqueue(Message(number))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        unlucky = chance.randrange(4)
        consumers[unlucky].cancel()
        consumers[unlucky] = asyncio.create_task(consume())
    while len(done) < 300:
        await asyncio.sleep(0.001)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)

    assert sorted(done) == list(range(300))
    stats = queue.get_stats()
    assert (stats["size"], stats["unacked"], stats["consumers"]) == (0, 0, 0)


async def test_a_wait_for_that_gives_up_loses_nothing() -> None:
    queue = InMemoryQueue("q")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.dequeue(timeout=30), 0.01)
    await queue.enqueue(Message("m"))
    assert await payloads(queue) == ["m"]


async def test_closing_puts_back_what_is_not_settled_in_its_place() -> None:
    queue = InMemoryQueue("q")
    for number in range(4):
        await queue.enqueue(Message(number))
    taken = [await queue.dequeue() for _ in range(3)]
    assert taken[1] is not None
    await queue.acknowledge(taken[1].metadata.message_id)

    await queue.close()

    assert [message.payload for message in await queue.peek(9)] == [0, 2, 3]
    first = await queue.dequeue()
    assert first is not None
    assert first.redelivered
    assert taken[0] is not None
    assert taken[0].metadata.message_id == first.metadata.message_id


async def test_an_object_that_is_dropped_puts_back_what_it_held() -> None:
    queue = InMemoryQueue("q")
    await queue.enqueue(Message("m"))
    assert await queue.dequeue() is not None
    del queue
    gc.collect()
    message = await InMemoryQueue("q").dequeue(timeout=30)
    assert message is not None
    assert message.payload == "m"


async def test_closing_ends_a_dequeue_that_waits() -> None:
    queue = InMemoryQueue("q")
    waiting = asyncio.create_task(queue.dequeue(timeout=30))
    await asyncio.sleep(0)
    await queue.close()
    with pytest.raises(BrokerUnavailableError, match="closed"):
        await waiting


async def test_a_settled_message_cannot_be_settled_again() -> None:
    queue = InMemoryQueue("q")
    message_id = await queue.enqueue(Message("m"))
    assert await queue.acknowledge(message_id) is False  # it has not been dequeued
    await queue.dequeue()
    assert await queue.acknowledge(message_id) is True
    assert await queue.acknowledge(message_id) is False
    assert await queue.reject(message_id) is False


async def test_a_message_that_was_put_in_twice_is_settled_twice() -> None:
    queue, message = InMemoryQueue("q"), Message("m")
    await queue.enqueue(message)
    await queue.enqueue(message)
    await queue.dequeue()
    await queue.dequeue()
    identity = message.metadata.message_id
    assert [await queue.acknowledge(identity) for _ in range(3)] == [True, True, False]


async def test_a_rejected_message_goes_back_or_becomes_a_dead_letter() -> None:
    queue = InMemoryQueue("q")
    for number in range(2):
        await queue.enqueue(Message(number))
    message = await queue.dequeue()
    assert message is not None

    assert await queue.reject(message.metadata.message_id, requeue=True)
    again = await queue.dequeue()
    assert again is not None
    assert (again.payload, again.redelivered) == (0, True)
    assert await queue.reject(again.metadata.message_id)

    [letter] = await DeadLetterQueue().inspect()
    assert (letter.message.payload, letter.reason, letter.original_queue) == (0, "rejected", "q")
    assert await payloads(queue) == [1]


async def test_urgent_messages_come_first_and_equals_in_their_order() -> None:
    queue = PriorityInMemoryQueue("q")
    for payload, priority in (("a", MessagePriority.LOW), ("b", MessagePriority.CRITICAL), ("c", MessagePriority.LOW)):
        await queue.enqueue(Message(payload, priority=priority))
    await queue.enqueue(Message("d"), DeliveryOptions(priority=MessagePriority.CRITICAL))
    assert await payloads(queue) == ["b", "d", "a", "c"]


async def test_peek_shows_the_next_messages_and_leaves_them() -> None:
    queue = InMemoryQueue("q")
    for number in range(5):
        await queue.enqueue(Message(number))
    assert [message.payload for message in await queue.peek(2)] == [0, 1]
    assert [message.payload for message in await queue.peek(99)] == [0, 1, 2, 3, 4]
    assert await queue.size() == 5
    assert (await payloads(queue))[0] == 0


async def test_a_number_of_messages_to_look_at_below_zero_is_refused() -> None:
    queue, dlq = InMemoryQueue("q"), DeadLetterQueue()
    await queue.enqueue(Message("m"))
    assert await queue.peek(0) == []
    assert await dlq.inspect(0) == []
    with pytest.raises(ValueError, match="n must be a whole number of at least 0, not -1"):
        await queue.peek(-1)
    with pytest.raises(ValueError, match="limit must be a whole number of at least 0, not -1"):
        await dlq.inspect(-1)


async def test_clear_drops_waiting_and_delayed_messages_for_good() -> None:
    queue = InMemoryQueue("q")
    await queue.enqueue(Message(1))
    await queue.enqueue(Message(2), DeliveryOptions(delay=60))
    assert await queue.clear() == 2
    stats = queue.get_stats()
    assert (stats["size"], stats["delayed"], stats["dead_lettered"]) == (0, 0, 0)


async def test_an_unreadable_message_becomes_a_dead_letter_and_the_next_one_is_taken(broker_url: str) -> None:
    queue = InMemoryQueue("q")
    await queue.declare()
    with Connection(broker_url) as connection, connection.Producer() as producer:
        producer.publish(b"{", routing_key="q", content_type="application/json", content_encoding="utf-8")
        producer.publish(b"\x80", routing_key="q", content_type="application/x-python-serialize")
    await queue.enqueue(Message("fine"))
    assert [message.payload for message in await queue.peek(9)] == [b"{", b"\x80", "fine"]

    assert await payloads(queue) == ["fine"]

    letters = await DeadLetterQueue().inspect()
    assert [(letter.reason, letter.letter.body) for letter in letters] == [
        ("undecodable", b"{"),
        ("undecodable", b"\x80"),
    ]


async def test_messages_of_one_ordering_key_are_delivered_one_at_a_time() -> None:
    queue = InMemoryQueue("q")
    for payload, key in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        await queue.enqueue(Message(payload), DeliveryOptions(ordering_key=key))
    first, other = await queue.dequeue(), await queue.dequeue()
    assert first is not None
    assert other is not None
    assert (first.payload, other.payload) == ("a1", "b1")
    assert await queue.dequeue() is None
    await queue.acknowledge(first.metadata.message_id)
    assert await payloads(queue) == ["a2"]


async def test_a_second_message_with_the_same_dedup_key_is_dropped() -> None:
    queue = InMemoryQueue("q")
    for number in range(2):
        await queue.enqueue(Message(number), DeliveryOptions(dedup_key="once"))
    assert await payloads(queue) == [0]


async def test_drop_oldest_makes_a_dead_letter_of_the_oldest() -> None:
    dlq = DeadLetterQueue("dropped")
    queue = BoundedInMemoryQueue("q", max_size=2, overflow_strategy="drop_oldest", dead_letters=dlq)
    for number in range(3):
        await queue.enqueue(Message(number))
    assert await payloads(queue) == [1, 2]
    assert [(letter.message.payload, letter.reason) for letter in await dlq.inspect()] == [(0, "maxlen")]


async def somebody_waits_for_room(broker_url: str, queue: str) -> None:
    while not get_broker(broker_url).engine.queues[queue].awaited:
        await asyncio.sleep(0.001)


async def test_a_blocked_enqueue_waits_for_room_while_the_loop_goes_on(broker_url: str) -> None:
    queue = BoundedInMemoryQueue("q", max_size=1, overflow_strategy="block")
    await queue.enqueue(Message(0))
    blocked = [asyncio.create_task(queue.enqueue(Message(number))) for number in (1, 2, 3)]
    await somebody_waits_for_room(broker_url, "q")
    assert not any(task.done() for task in blocked)

    taken = []
    while len(taken) < 4:
        message = await queue.dequeue(timeout=30)
        assert message is not None
        taken.append(message.payload)
        await queue.acknowledge(message.metadata.message_id)

    assert taken == [0, 1, 2, 3]
    await asyncio.gather(*blocked)


async def test_a_blocked_enqueue_gives_up_with_an_error() -> None:
    queue = BoundedInMemoryQueue("q", max_size=1, overflow_strategy="block", block_timeout=0.05)
    await queue.enqueue(Message(0))
    began = time.monotonic()
    with pytest.raises(QueueFullError, match="'q' is full"):
        await queue.enqueue(Message(1))
    assert time.monotonic() - began >= 0.05
    assert await payloads(queue) == [0]


async def test_a_cancelled_blocked_enqueue_puts_nothing_in(broker_url: str) -> None:
    queue = BoundedInMemoryQueue("q", max_size=1, overflow_strategy="block")
    await queue.enqueue(Message(0))
    blocked = [asyncio.create_task(queue.enqueue(Message(number))) for number in (1, 2)]
    await somebody_waits_for_room(broker_url, "q")
    for task in blocked:
        task.cancel()
    await asyncio.wait(blocked)
    assert all(task.cancelled() for task in blocked)

    assert await payloads(queue) == [0]
    await queue.enqueue(Message(3))
    assert await payloads(queue) == [3]


async def test_closing_ends_the_enqueues_that_wait_for_room(broker_url: str) -> None:
    queue = BoundedInMemoryQueue("q", max_size=1, overflow_strategy="block", block_timeout=3600)
    await queue.enqueue(Message(0))
    blocked = [asyncio.create_task(queue.enqueue(Message(number))) for number in (1, 2)]
    await somebody_waits_for_room(broker_url, "q")

    await queue.close()

    for ended in await asyncio.gather(*blocked, return_exceptions=True):
        assert isinstance(ended, BrokerUnavailableError)
        assert "closed" in str(ended)
    assert await payloads(queue) == [0]
    await queue.enqueue(Message(3))
    assert await payloads(queue) == [3]


async def test_statistics_are_the_broker_s_of_the_whole_queue() -> None:
    one, other = InMemoryQueue("q"), InMemoryQueue("q")
    for number in range(3):
        await one.enqueue(Message(number))
    message = await other.dequeue()
    assert message is not None
    await other.reject(message.metadata.message_id)
    stats = one.get_stats()
    assert {name: stats[name] for name in ("enqueued", "dequeued", "rejected", "size")} == {
        "enqueued": 3,
        "dequeued": 1,
        "rejected": 1,
        "size": 2,
    }


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_size": 0}, "max_size"),
        ({"max_size": True}, "max_size"),
        ({"overflow_strategy": "drop"}, "overflow_strategy must be one of reject, drop_oldest, block"),
        ({"block_timeout": -1}, "block_timeout"),
        ({"dead_letters": DeadLetterQueue("d", url="liap-memory:///elsewhere")}, "use one broker"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        InMemoryQueue("q", **options)


def test_a_broker_that_would_not_keep_the_rules_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a broker whose queues keep their rules"):
        MessageQueue("q", url="redis://127.0.0.1:6379/0")


async def test_objects_that_declare_a_queue_differently_do_not_share_it_in_silence() -> None:
    await InMemoryQueue("q").enqueue(Message(1))
    with pytest.raises(Exception, match="inequivalent arg 'x-max-length' for queue 'q'"):
        await BoundedInMemoryQueue("q", max_size=3).enqueue(Message(2))


async def test_a_queue_object_works_in_one_loop_after_another(broker_url: str) -> None:
    queue = InMemoryQueue("q")

    def elsewhere() -> Any:
        async def take() -> Any:
            message = await queue.dequeue(timeout=30)
            assert message is not None
            await queue.acknowledge(message.metadata.message_id)
            return message.payload

        return asyncio.run(take())

    for number in range(2):
        taking = asyncio.get_running_loop().run_in_executor(None, elsewhere)
        await queue.enqueue(Message(number))
        assert await taking == number
    assert not get_broker(broker_url).engine.queues["q"].unacked


async def test_an_app_and_a_queue_object_agree_on_how_a_queue_is_declared(broker_url: str) -> None:
    app = create_app(main="tests", set_as_current=False)
    async with MessageQueue("shared") as queue:
        await queue.enqueue(Message("m"))
        with app.connection_for_write() as connection, connection.channel() as channel:
            app.missing_queue("shared").bind(channel).declare()  # would be refused if it differed
        assert await queue.size() == 1
    app.close()
