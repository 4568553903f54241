"""Nobody polls: whoever waits is woken by what it waits for, from any thread."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from amqp.exceptions import RecoverableConnectionError

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, drain_all, in_thread, publish, wait_until
from transports.shared import SharedBroker


def wait_until_drained(connection: Any) -> None:
    """Return when another thread waits inside drain_events of this connection."""
    inbox = connection.connection.inbox
    deadline = time.monotonic() + DEADLINE
    while not inbox._waiting:
        assert time.monotonic() < deadline, "nobody waits for deliveries"
        time.sleep(0.0005)


def test_a_publish_wakes_a_consumer_on_another_thread(connect: Connect) -> None:
    consumer, publisher = connect(), connect().channel()
    channel = consumer.channel()
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", callback=lambda m: got.append(m.body))
    drained = in_thread(lambda: consumer.drain_events(timeout=DEADLINE))
    wait_until_drained(consumer)

    publish(publisher, "q", b"1")

    drained()
    assert got == [b"1"]


def test_a_full_prefetch_window_wakes_on_an_ack_from_another_thread(connect: Connect) -> None:
    consumer = connect()
    channel = consumer.channel()
    declare(channel, "q")
    channel.basic_qos(0, 1)
    got: list[Any] = []
    channel.basic_consume("q", callback=got.append)
    for number in range(2):
        publish(channel, "q", b"%d" % number)
    drain_all(consumer)
    assert [message.body for message in got] == [b"0"]
    drained = in_thread(lambda: consumer.drain_events(timeout=DEADLINE))
    wait_until_drained(consumer)

    got[0].ack()

    drained()
    assert [message.body for message in got] == [b"0", b"1"]


@pytest.mark.parametrize("closing", ["own connection", "transport"])
def test_closing_the_connection_wakes_whoever_drains_it(connect: Connect, closing: str) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    channel.basic_consume("q", callback=pytest.fail)
    established = connection.connection
    drained = in_thread(lambda: established.drain_events(None))
    wait_until_drained(connection)

    if closing == "own connection":
        connection.close()
    else:
        connection.transport.close_connection(established)

    with pytest.raises(RecoverableConnectionError):
        drained()


def test_several_threads_may_drain_one_connection(connect: Connect) -> None:
    connection, publisher = connect(), connect().channel()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    everything = threading.Event()

    def callback(message: Any) -> None:
        got.append(message.body)
        if len(got) == 200:
            everything.set()

    def drain_until_closed() -> None:
        established = connection.connection
        while True:
            established.drain_events(DEADLINE)

    channel.basic_consume("q", callback=callback)
    drains = [in_thread(drain_until_closed) for _ in range(3)]
    for number in range(200):
        publish(publisher, "q", b"%d" % number)

    assert everything.wait(DEADLINE)
    connection.close()
    for drained in drains:
        with pytest.raises(RecoverableConnectionError):
            drained()
    assert sorted(got, key=int) == [b"%d" % number for number in range(200)]


def test_waiting_ends_after_its_timeout(connect: Connect) -> None:
    connection = connect()
    connection.channel()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)

    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("timed", ["ttl", "delay"])
def test_the_system_clock_fires_without_anybody_asking(connect: Connect, timed: str) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "letters")
    declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key="letters")
    got: list[bytes] = []
    started = time.monotonic()
    if timed == "ttl":
        channel.basic_consume("letters", callback=lambda m: got.append(m.body))
        publish(channel, "q", b"1", properties={"expiration": "50"})
    else:
        channel.basic_consume("q", callback=lambda m: got.append(m.body))
        publish(channel, "q", b"1", headers={"x-delay": 50})

    connection.drain_events(timeout=DEADLINE)

    assert got == [b"1"]
    assert time.monotonic() - started >= 0.05


def test_a_sooner_message_is_not_kept_waiting_by_a_later_one(connect: Connect, broker: SharedBroker) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "later")
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", callback=lambda m: got.append(m.body))
    publish(channel, "later", headers={"x-delay": 3_600_000})
    wait_until(broker._changed, lambda: broker._timer is not None)

    publish(channel, "q", b"sooner", headers={"x-delay": 20})

    connection.drain_events(timeout=DEADLINE)
    assert got == [b"sooner"]
