"""Using the channel from inside its own callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import RecoverableConnectionError

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, drain_all, publish, ready


def test_publishing_from_a_return_handler(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "unroutable")
    channel.events["basic_return"].add(
        lambda error, exchange, key, message: publish(channel, "unroutable", message.body + key.encode())
    )

    channel.basic_publish(channel.prepare_message(b"lost "), "", "nowhere", mandatory=True)

    assert ready(channel, "unroutable") == [b"lost nowhere"]


def test_a_return_handler_that_publishes_into_the_void_is_called_again(connect: Connect) -> None:
    channel = connect().channel()
    keys: list[str] = []

    def handler(error: Any, exchange: str, key: str, message: Any) -> None:
        keys.append(key)
        if len(keys) < 3:
            channel.basic_publish(channel.prepare_message(b""), "", f"nowhere-{len(keys)}", mandatory=True)

    channel.events["basic_return"].add(handler)
    channel.basic_publish(channel.prepare_message(b""), "", "nowhere", mandatory=True)

    assert keys == ["nowhere", "nowhere-1", "nowhere-2"]


def actions(channel: Any, connection: Any) -> dict[str, Callable[[Any], None]]:
    return {
        "cancel": lambda message: channel.basic_cancel("tag"),
        "close the channel": lambda message: channel.close(),
        "close the connection": lambda message: connection.close(),
        "delete the queue": lambda message: channel.queue_delete("q"),
        "purge": lambda message: channel.queue_purge("q"),
        "recover": lambda message: channel.basic_recover(requeue=True),
    }


@pytest.mark.parametrize("action", list(actions(None, None)))
def test_a_callback_may_end_its_own_consumer(connect: Connect, action: str) -> None:
    observer = connect().channel()
    declare(observer, "q")
    connection = connect()
    channel = connection.channel()
    got: list[bytes] = []

    def callback(message: Any) -> None:
        got.append(message.body)
        if len(got) == 1:
            actions(channel, connection)[action](message)

    channel.basic_consume("q", "tag", callback=callback, on_cancel=lambda tag: None)
    for number in range(3):
        publish(observer, "q", b"%d" % number)

    closed = False
    try:
        drain_all(connection.connection)
    except RecoverableConnectionError:
        closed = True

    assert closed is (action == "close the connection")
    if action in ("cancel", "close the channel", "close the connection"):
        assert got == [b"0"]
        waiting = [b"1", b"2"] if action == "cancel" else [b"0", b"1", b"2"]
        assert ready(observer, "q") == waiting
    elif action == "recover":
        assert got == [b"0", b"0", b"1", b"2"]
    else:
        # What had been pushed before the purge, or before the queue ended, is delivered.
        assert got == [b"0", b"1", b"2"]


def test_a_callback_may_publish_to_its_own_queue_without_end_and_the_drain_returns(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got = 0

    def callback(message: Any) -> None:
        nonlocal got
        got += 1
        message.ack()
        publish(channel, "q")

    channel.basic_consume("q", callback=callback)
    publish(channel, "q")

    connection.drain_events(timeout=DEADLINE)

    assert 1 <= got <= 100


def test_a_callback_may_drain_again(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []

    def callback(message: Any) -> None:
        if not got:
            got.append(message.body)
            drain_all(connection)
        else:
            got.append(message.body)

    channel.basic_consume("q", callback=callback)
    for number in range(3):
        publish(channel, "q", b"%d" % number)

    connection.drain_events(timeout=DEADLINE)

    assert got == [b"0", b"1", b"2"]


def test_an_error_in_a_callback_loses_no_other_delivery(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []

    def callback(message: Any) -> None:
        got.append(message.body)
        if message.body == b"0":
            raise KeyError("the consumer's own")

    channel.basic_consume("q", callback=callback)
    for number in range(3):
        publish(channel, "q", b"%d" % number)

    with pytest.raises(KeyError):
        connection.drain_events(timeout=DEADLINE)
    drain_all(connection)

    assert got == [b"0", b"1", b"2"]
    assert channel.queue_stats("q")["q"]["unacked"] == 3


def test_a_closed_channel_refuses_everything(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")
    message = channel.prepare_message(b"")
    channel.close()
    channel.close()

    for use in (
        lambda: channel.basic_publish(message, "", "q"),
        lambda: channel.basic_get("q"),
        lambda: channel.basic_consume("q", callback=pytest.fail),
        lambda: channel.basic_ack(1),
        lambda: channel.queue_declare("q"),
        lambda: channel.queue_stats(),
    ):
        with pytest.raises(RecoverableConnectionError):
            use()
