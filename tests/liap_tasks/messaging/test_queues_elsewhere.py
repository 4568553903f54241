"""The same objects on brokers elsewhere, RabbitMQ and our served one: their calls run in a thread of their own."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from liap_tasks.messaging import (
    DeadLetterPolicy,
    DeadLetterQueue,
    DeliveryOptions,
    Message,
    MessagePriority,
    MessageQueue,
    QueueFullError,
    RetryableDeadLetterQueue,
)
from tests.coroutines import DEADLINE
from transports import BrokerUnavailableError, InvalidArgumentError
from transports.broker import BrokerThread


@pytest.fixture(scope="module")
def served_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker behind a Unix socket."""
    with BrokerThread(str(tmp_path_factory.mktemp("broker") / "b.sock")) as served:
        yield f"liap-broker://{served.address}"


@pytest.fixture(params=[pytest.param("amqp", marks=pytest.mark.rabbitmq), "liap-broker"])
def remote_url(request: pytest.FixtureRequest) -> str:
    """The URL of each broker in turn."""
    return str(request.getfixturevalue("rabbitmq_url" if request.param == "amqp" else "served_url"))


@pytest.fixture
def names(remote_url: str) -> Iterator[tuple[str, str]]:
    """Return the names of a queue and a dead-letter queue of the test's own."""
    made = f"q-{uuid4().hex}", f"dead-{uuid4().hex}"
    yield made
    with Connection(remote_url) as connection, connection.channel() as channel:
        for name in made:
            channel.queue_delete(name)


async def test_messages_are_waited_for_shared_settled_and_put_back(remote_url: str, names: tuple[str, str]) -> None:
    async with DeadLetterQueue(names[1], url=remote_url) as dlq:
        queue = MessageQueue(names[0], url=remote_url, dead_letters=dlq)
        async with queue, MessageQueue(names[0], url=remote_url, dead_letters=dlq) as other:
            assert await queue.dequeue() is None
            assert await queue.dequeue(timeout=0.05) is None
            waiting = [asyncio.create_task(one.dequeue(timeout=math.inf)) for one in (queue, other, queue)]
            for number in range(3):
                await other.enqueue(Message({"n": number}), DeliveryOptions(priority=MessagePriority.HIGH))
            taken = await asyncio.gather(*waiting)
            assert sorted(message.payload["n"] for message in taken if message) == [0, 1, 2]

            # While one dequeue waits, the object goes on with everything else.
            idle = asyncio.create_task(queue.dequeue(timeout=math.inf))
            assert taken[0] is not None
            assert taken[2] is not None
            assert await queue.acknowledge(taken[0].metadata.message_id)
            assert await queue.reject(taken[2].metadata.message_id)
            assert not idle.done()
            idle.cancel()
            await asyncio.wait([idle])

            assert await queue.enqueue(Message("last"))
            assert [message.payload for message in await queue.peek(5)] == ["last"]
            stats = queue.get_stats()
            assert (stats["enqueued"], stats["dequeued"], stats["acknowledged"], stats["rejected"]) == (1, 2, 1, 1)
        # Closed, the other object has put back what it held.
        async with MessageQueue(names[0], url=remote_url, dead_letters=dlq) as again:
            first = await again.dequeue(timeout=30)
            assert first is not None
            assert taken[1] is not None
            assert (first.metadata.message_id, first.redelivered) == (taken[1].metadata.message_id, True)
            assert await again.size() == 1

            [letter] = await dlq.inspect()
            assert (letter.message.payload, letter.reason) == (taken[2].payload, "rejected")
            assert await dlq.retry(letter.message_id, again)
            assert await dlq.size() == 0
            assert await again.clear() == 2


async def test_letters_are_added_recovered_sent_back_and_purged(remote_url: str, names: tuple[str, str]) -> None:
    async with (
        MessageQueue(names[0], url=remote_url) as queue,
        DeadLetterQueue(names[1], url=remote_url) as dlq,
    ):
        ids = [await queue.enqueue(Message(number)) for number in range(4)]
        for _ in ids:
            message = await queue.dequeue(timeout=30)
            assert message is not None
            await dlq.add(message, "manual", OSError(f"no {message.payload}"))

        assert [entry.error_message for entry in await dlq.inspect()] == ["no 0", "no 1", "no 2", "no 3"]
        assert await dlq.retry(ids[2])
        assert await dlq.retry("unknown") is False
        recovered = await dlq.recover(ids[1])
        assert recovered is not None
        assert recovered.payload == 1
        assert await dlq.acknowledge(ids[1])
        assert [entry.message.payload for entry in await dlq.inspect()] == [0, 3]
        assert await dlq.purge(reason="manual") == 2

        again = await queue.dequeue(timeout=30)
        assert again is not None
        assert (again.payload, again.metadata.replays) == (2, 1)
        assert dlq.get_stats() == {
            "total_entries": 4,
            "by_reason": {"manual": 4},
            "added": 4,
            "retried": 1,
            "recovered": 1,
            "purged": 2,
        }


async def test_a_full_queue_is_told(remote_url: str, names: tuple[str, str]) -> None:
    async with MessageQueue(names[0], url=remote_url, max_size=1) as queue:
        await queue.enqueue(Message(0))
        with pytest.raises(QueueFullError, match=names[0]):
            await queue.enqueue(Message(1))


async def test_a_delay_that_the_broker_would_ignore_is_refused(rabbitmq_url: str) -> None:
    queue = MessageQueue("q", url=rabbitmq_url)
    with pytest.raises(InvalidArgumentError, match="hold delayed messages"):
        await queue.enqueue(Message(2), DeliveryOptions(delay=1))


async def test_a_served_broker_holds_delays_retries_and_publishers(served_url: str) -> None:
    async with (
        MessageQueue("bounded", url=served_url, max_size=1, overflow_strategy="block") as queue,
        RetryableDeadLetterQueue("retried", DeadLetterPolicy(retry_delay=0.05), url=served_url) as dlq,
    ):
        dlq.register_retry_queue("bounded", queue)
        await queue.enqueue(Message("m"), DeliveryOptions(delay=0.05))
        blocked = asyncio.create_task(queue.enqueue(Message("blocked")))
        first = await queue.dequeue(timeout=30)
        assert first is not None
        await blocked
        await queue.acknowledge((await _next(queue)).metadata.message_id)
        await dlq.add(first, "retries_exhausted")
        again = await _next(queue)
        assert (again.payload, again.metadata.replays) == ("m", 1)
        await queue.acknowledge(again.metadata.message_id)
        await dlq.add(again, "retries_exhausted")
        assert [entry.retry_at is not None for entry in await dlq.inspect()] == [True]
        assert await dlq.cancel_retry(again.metadata.message_id)
        assert [entry.retry_at for entry in await dlq.inspect()] == [None]


async def test_closing_ends_the_enqueues_that_wait_for_room_there(served_url: str) -> None:
    queue = MessageQueue("full", url=served_url, max_size=1, overflow_strategy="block", block_timeout=0.5)
    await queue.enqueue(Message(0))
    blocked = [asyncio.create_task(queue.enqueue(Message(number))) for number in (1, 2)]
    await asyncio.sleep(0)
    while not queue._room or len(queue._room._waiting) < 2:
        await asyncio.sleep(0.001)

    await queue.close()

    for ended in await asyncio.gather(*blocked, return_exceptions=True):
        assert isinstance(ended, BrokerUnavailableError)
    async with queue:
        assert await queue.size() == 1


async def _next(queue: MessageQueue) -> Message:
    message = await queue.dequeue(timeout=30)
    assert message is not None
    return message


async def test_cancelled_dequeues_lose_nothing(remote_url: str, names: tuple[str, str]) -> None:
    done: set[int] = set()
    async with MessageQueue(names[0], url=remote_url) as queue:

        async def consume() -> None:
            while True:
                message = await queue.dequeue(timeout=math.inf)
                assert message is not None
                done.add(message.payload)
                await queue.acknowledge(message.metadata.message_id)

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        for number in range(60):
            await queue.enqueue(Message(number))
            consumers[number % 2].cancel()
            consumers[number % 2] = asyncio.create_task(consume())
        while len(done) < 60:
            await asyncio.sleep(0.001)
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
        assert await queue.size() == 0


async def test_a_lost_connection_is_told_and_the_next_call_connects_again(
    remote_url: str, names: tuple[str, str]
) -> None:
    async with MessageQueue(names[0], url=remote_url) as queue:
        await queue.enqueue(Message("m"))
        held = await queue.dequeue()
        assert held is not None
        waiting = asyncio.create_task(queue.dequeue(timeout=math.inf))
        await queue.size()  # the wait has begun when this is answered

        await queue.link.run(cut)

        with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
            await waiting
        again = await queue.dequeue(timeout=30)
        assert again is not None
        assert again.metadata.message_id == held.metadata.message_id
        assert await queue.acknowledge(held.metadata.message_id)


def cut(channel: Any) -> None:
    """Cut the line, as a broken network does."""
    established = channel.connection
    line = getattr(established, "sock", None) or established._stream._socket
    line.shutdown(socket.SHUT_RDWR)


async def test_a_broker_that_does_not_answer_holds_nobody_up_and_is_told_when_it_is_gone() -> None:
    loop = asyncio.get_running_loop()
    silent = socket.create_server(("127.0.0.1", 0))
    silent.setblocking(False)
    port = silent.getsockname()[1]
    async with MessageQueue("q", url=f"amqp://nobody:none@127.0.0.1:{port}//") as queue:
        sending = asyncio.create_task(queue.enqueue(Message("m")))
        accepted, _ = await loop.sock_accept(silent)  # this loop runs while the other side is waited for
        assert not sending.done()
        silent.close()
        accepted.close()
        with pytest.raises(BrokerUnavailableError, match=rf"amqp://nobody:\*\*@127.0.0.1:{port}// cannot be reached"):
            await sending


def test_an_object_that_is_dropped_ends_its_thread(remote_url: str, names: tuple[str, str]) -> None:
    queue = MessageQueue(names[0], url=remote_url)
    asyncio.run(queue.enqueue(Message("m")))
    [thread] = [one for one in threading.enumerate() if one.name == "liap-queue-link"]
    del queue
    thread.join(DEADLINE)
    assert not thread.is_alive()


HOLDS = """
import asyncio, sys
from liap_tasks.messaging import MessageQueue

async def main():
    queue = MessageQueue("held", url=sys.argv[1])
    message = await queue.dequeue(timeout=30)
    print(message.payload, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_what_a_killed_program_held_is_in_its_queue_again(served_url: str) -> None:
    async with MessageQueue("held", url=served_url) as queue:
        message_id = await queue.enqueue(Message("m"))
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDS, served_url, stdout=asyncio.subprocess.PIPE
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"m\n"
        assert await queue.dequeue() is None

        holder.kill()
        await holder.wait()

        message = await queue.dequeue(timeout=30)
        assert message is not None
        assert (message.metadata.message_id, message.redelivered) == (message_id, True)
        await queue.acknowledge(message_id)
