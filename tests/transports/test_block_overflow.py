"""``x-overflow: block``: the publisher waits for room, and says so when there was none in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import RecoverableConnectionError

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, in_thread, publish, ready
from transports import QueueFullError
from transports.shared import SharedBroker


def full_queue(connect: Connect, broker: SharedBroker, **arguments: Any) -> tuple[Any, Callable[[], Any]]:
    """Return an observer's channel and the end of a publish that waits for room in the full queue "q"."""
    observer = connect().channel()
    declare(observer, "letters")
    declare(observer, "q", overflow="block", **arguments)
    publish(observer, "q", b"first", headers={"id": "first"})
    assert observer.queue_stats("q")["q"]["ready"] + observer.queue_stats("q")["q"]["delayed"] == 1
    publisher = connect().channel()
    published = in_thread(lambda: publish(publisher, "q", b"second", timeout=DEADLINE))
    await_publisher(broker)
    return observer, published


def await_publisher(broker: SharedBroker, count: int = 1) -> None:
    deadline = time.monotonic() + DEADLINE
    while broker.engine.queues["q"].awaited < count:
        assert time.monotonic() < deadline, "nobody waits for room"
        time.sleep(0.0005)


ROOM_MAKERS: dict[str, Callable[[Any], Any]] = {
    "get": lambda channel: channel.basic_get("q"),
    "get without ack": lambda channel: channel.basic_get("q", no_ack=True),
    "consume": lambda channel: channel.basic_consume("q", callback=print),
    "purge": lambda channel: channel.queue_purge("q"),
}


@pytest.mark.parametrize("bound", [{"max_length": 1}, {"max_length_bytes": 6}])
@pytest.mark.parametrize("room", list(ROOM_MAKERS))
def test_a_waiting_publisher_goes_on_when_there_is_room(
    connect: Connect, broker: SharedBroker, room: str, bound: dict[str, int]
) -> None:
    observer, published = full_queue(connect, broker, **bound)

    ROOM_MAKERS[room](observer)

    published()
    if room != "consume":
        assert ready(observer, "q") == [b"second"]
    assert observer.queue_stats("q")["q"]["enqueued"] == 2
    assert observer.queue_stats("q")["q"]["refused"] == 0


def test_expiry_makes_room(connect: Connect, broker: SharedBroker) -> None:
    observer, published = full_queue(connect, broker, max_length=1, message_ttl=100)

    published()

    assert observer.queue_stats("q")["q"]["expired"] >= 1


def test_cancelling_a_delayed_message_makes_room(connect: Connect, broker: SharedBroker) -> None:
    observer = connect().channel()
    declare(observer, "q", overflow="block", max_length=1)
    publish(observer, "q", headers={"id": "first", "x-delay": 3_600_000})
    publisher = connect().channel()
    published = in_thread(lambda: publish(publisher, "q", b"second", timeout=DEADLINE))
    await_publisher(broker)

    observer.cancel_delayed("q", "first")

    published()
    assert ready(observer, "q") == [b"second"]


def test_every_place_is_taken_once(connect: Connect, broker: SharedBroker) -> None:
    observer = connect().channel()
    declare(observer, "q", overflow="block", max_length=2)
    published = [
        in_thread(lambda number=number: publish(connect().channel(), "q", b"%d" % number, timeout=DEADLINE))
        for number in range(8)
    ]
    await_publisher(broker, 6)

    got = []
    while len(got) < 8:
        message = observer.basic_get("q", no_ack=True)
        if message is not None:
            got.append(message.body)
        assert observer.queue_stats("q")["q"]["ready"] <= 2

    for end in published:
        end()
    assert sorted(got) == [b"%d" % number for number in range(8)]


@pytest.mark.parametrize(
    ("how", "bound"),
    [("timeout", {"max_length": 1}), ("option", {"max_length": 1}), ("timeout", {"max_length_bytes": 5})],
)
def test_when_time_runs_out_the_error_has_what_a_publisher_needs(
    connect: Connect, broker: SharedBroker, how: str, bound: dict[str, int]
) -> None:
    channel = connect(block_timeout=0.05 if how == "option" else 60).channel()
    declare(channel, "q", overflow="block", **bound)
    publish(channel, "q", b"first")
    started = time.monotonic()

    with pytest.raises(QueueFullError) as refusal:
        publish(channel, "q", b"second", **({"timeout": 0.05} if how == "timeout" else {}))

    assert time.monotonic() - started >= 0.05
    assert (refusal.value.queue, refusal.value.max_length) == ("q", next(iter(bound.values())))
    assert refusal.value.retry_after > 0
    assert ready(channel, "q") == [b"first"]
    assert broker.engine.queues["q"].awaited == 0
    assert channel.queue_stats("q")["q"]["refused"] == 1


def test_retry_after_is_when_the_oldest_message_expires(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q", overflow="block", max_length=1, message_ttl=60_000)
    publish(channel, "q")

    with pytest.raises(QueueFullError) as refusal:
        publish(channel, "q", timeout=0)

    assert 50 < refusal.value.retry_after <= 60


def test_a_queue_deleted_meanwhile_lets_the_publisher_go(connect: Connect, broker: SharedBroker) -> None:
    observer, published = full_queue(connect, broker, max_length=1)

    observer.queue_delete("q")

    assert published() is None
    assert broker.engine.unroutable == 1


@pytest.mark.parametrize("what", ["channel", "connection"])
def test_closing_lets_the_waiting_publisher_go(connect: Connect, broker: SharedBroker, what: str) -> None:
    observer = connect().channel()
    declare(observer, "q", overflow="block", max_length=0)
    connection = connect()
    channel = connection.channel()
    published = in_thread(lambda: publish(channel, "q", timeout=5))
    await_publisher(broker)

    (channel if what == "channel" else connection).close()

    with pytest.raises(RecoverableConnectionError):
        published()
    assert observer.queue_stats("q")["q"]["enqueued"] == 0
    assert broker.engine.queues["q"].awaited == 0


def test_nothing_is_enqueued_anywhere_while_one_queue_is_waited_for(connect: Connect, broker: SharedBroker) -> None:
    observer = connect().channel()
    declare(observer, "roomy")
    declare(observer, "q", overflow="block", max_length=0)
    for name in ("roomy", "q"):
        observer.queue_bind(name, "amq.fanout")

    with pytest.raises(QueueFullError):
        publish(observer, "", exchange="amq.fanout", timeout=0.02)

    assert observer.queue_stats("roomy")["roomy"]["enqueued"] == 0


def test_other_channels_work_while_a_publisher_waits(connect: Connect, broker: SharedBroker) -> None:
    observer, published = full_queue(connect, broker, max_length=1)

    publish(observer, "letters", b"another queue")
    assert ready(observer, "letters") == [b"another queue"]

    observer.queue_purge("q")
    published()
