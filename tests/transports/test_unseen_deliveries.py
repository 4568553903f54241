"""Deliveries that were pushed and not drained when their consumer, channel or connection ended."""

from __future__ import annotations

import gc
import threading

import amqp
import pytest
from amqp.exceptions import ConsumerCancelled

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, drain_all, publish, ready


@pytest.mark.parametrize("ending", ["cancel", "channel", "connection", "dropped"])
@pytest.mark.parametrize("no_ack", [False, True])
def test_they_go_back_in_order_as_if_they_had_not_been_made(connect: Connect, ending: str, no_ack: bool) -> None:
    observer = connect().channel()
    declare(observer, "q", delivery_limit=0)
    connection = connect()
    channel = connection.channel()
    tag = channel.basic_consume("q", no_ack=no_ack, callback=pytest.fail)
    for number in range(3):
        publish(observer, "q", b"%d" % number)
    assert ready(observer, "q") == []

    if ending == "cancel":
        channel.basic_cancel(tag)
    elif ending == "channel":
        channel.close()
    elif ending == "connection":
        connection.close()
    else:
        connection._connection = connection._default_channel = connection._transport = None
        del channel
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "liap-connection-dropped":
                thread.join(DEADLINE)

    assert ready(observer, "q") == [b"0", b"1", b"2"]
    numbers = observer.queue_stats("q")["q"]
    assert (numbers["delivered"], numbers["requeued"], numbers["dropped"], numbers["acknowledged"]) == (0, 0, 0, 0)


def test_what_was_seen_comes_back_marked_redelivered_before_what_was_not(connect: Connect) -> None:
    observer = connect().channel()
    declare(observer, "q")
    connection = connect()
    channel = connection.channel()
    seen = []

    def take_one(message) -> None:
        seen.append(message.body)
        channel.close()

    channel.basic_consume("q", callback=take_one)
    for number in range(3):
        publish(observer, "q", b"%d" % number)
    connection.drain_events(timeout=DEADLINE)

    assert seen == [b"0"]
    back = [observer.basic_get("q", no_ack=True) for _ in range(3)]
    assert [(m.body, m.delivery_info["redelivered"]) for m in back] == [(b"0", True), (b"1", False), (b"2", False)]


def test_cancelling_one_consumer_leaves_the_deliveries_of_the_others(connect: Connect) -> None:
    connection = connect()
    channel, other = connection.channel(), connection.channel()
    got: list[tuple[str, bytes]] = []
    for name in ("a", "b", "c"):
        declare(channel, name)
    tag = channel.basic_consume("a", callback=lambda m: got.append(("a", m.body)))
    channel.basic_consume("b", callback=lambda m: got.append(("b", m.body)))
    other.basic_consume("c", callback=lambda m: got.append(("c", m.body)))
    for number in range(2):
        for name in ("a", "b", "c"):
            publish(channel, name, b"%d" % number)

    channel.basic_cancel(tag)
    drain_all(connection)

    assert got == [("b", b"0"), ("c", b"0"), ("b", b"1"), ("c", b"1")]
    assert ready(channel, "a") == [b"0", b"1"]


@pytest.mark.parametrize("way", ["recover", "nack"])
def test_putting_everything_back_hands_out_each_message_once(connect: Connect, way: str) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got = []
    channel.basic_consume("q", callback=got.append)
    publish(channel, "q", b"1")

    if way == "recover":
        channel.basic_recover(requeue=True)
    else:
        channel.basic_nack(0, multiple=True, requeue=True)
    drain_all(connection)

    [message] = got
    message.ack()
    assert channel.queue_stats("q")["q"]["unacked"] == 0
    assert message.delivery_info["redelivered"] is (way == "nack")


def test_the_active_consumer_hands_over_when_it_is_cancelled(connect: Connect) -> None:
    connection = connect()
    first, second = connection.channel(), connection.channel()
    declare(first, "q", single_active_consumer=True)
    got: list[str] = []
    first.basic_qos(0, 1)
    tag = first.basic_consume("q", callback=lambda m: got.append("first"))
    second.basic_consume("q", callback=lambda m: got.append("second"))
    publish(first, "q")
    publish(first, "q")
    drain_all(connection)
    assert got == ["first"]

    first.basic_cancel(tag)
    drain_all(connection)

    assert got == ["first", "second"]


@pytest.mark.parametrize("listens", [True, False])
def test_a_deleted_queue_cancels_its_consumers(connect: Connect, listens: bool) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    told: list[str] = []
    channel.basic_consume("q", "tag", callback=pytest.fail, on_cancel=told.append if listens else None)

    connect().channel().queue_delete("q")

    if listens:
        drain_all(connection)
        assert told == ["tag"]
    else:
        with pytest.raises(ConsumerCancelled):
            connection.drain_events(timeout=DEADLINE)


def test_a_tag_may_be_used_again_before_the_news_of_its_first_end_was_drained(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[str] = []
    channel.basic_consume(
        "q", "tag", callback=lambda m: got.append("old"), on_cancel=lambda tag: got.append("cancelled")
    )
    channel.queue_delete("q")
    declare(channel, "q")

    channel.basic_consume("q", "tag", callback=lambda m: got.append("new"))
    publish(channel, "q")
    drain_all(connection)

    assert got == ["cancelled", "new"]


def test_a_consumer_that_was_refused_leaves_the_first_one_of_its_tag_at_work(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got = []
    channel.basic_consume("q", "tag", callback=got.append)

    with pytest.raises(amqp.NotAllowed):
        channel.basic_consume("q", "tag", callback=pytest.fail)
    publish(channel, "q", b"1")
    drain_all(connection)

    assert [message.body for message in got] == [b"1"]


@pytest.mark.parametrize("no_ack", [False, True])
def test_a_delivery_on_its_way_to_a_channel_that_another_thread_closes_goes_back(
    connect: Connect, no_ack: bool
) -> None:
    observer = connect().channel()
    declare(observer, "q")
    established = connect().connection
    channel = established.client.channel()
    channel.basic_consume("q", no_ack=no_ack, callback=pytest.fail)
    publish(observer, "q", b"1")

    # What drain_events does, with the close of another thread in the middle.
    on_its_way = established.inbox.take()
    channel.close()
    established._hand_out(on_its_way)

    assert ready(observer, "q") == [b"1"]


def test_a_delivery_that_another_consumer_has_settled_meanwhile_is_not_handed_out(connect: Connect) -> None:
    observer = connect().channel()
    declare(observer, "q")
    established = connect().connection
    channel = established.client.channel()
    channel.basic_consume("q", callback=pytest.fail)
    publish(observer, "q", b"1")

    on_its_way = established.inbox.take()
    channel.close()
    observer.basic_get("q").ack()
    channel.receive(on_its_way)

    assert observer.queue_stats("q")["q"]["acknowledged"] == 1
