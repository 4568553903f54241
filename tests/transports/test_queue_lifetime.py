"""When queues and exchanges end: deletion, auto-delete, exclusive owners, ``x-expires``."""

from __future__ import annotations

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports.engine import ChannelRefusal


def exists(broker: VirtualBroker, queue: str = "q") -> bool:
    return queue in broker.engine.queues


def consume(broker: VirtualBroker, queue: str = "q", tag: str = "t"):
    channel, sink = broker.channel()
    broker.engine.begin(broker.engine.consume(channel, queue, tag))
    return channel, sink


def test_deleting_a_queue_tells_its_consumers_and_loses_what_it_held() -> None:
    broker = VirtualBroker()
    broker.declare("letters")
    broker.declare("q", dead_letter_exchange="", dead_letter_routing_key="letters")
    channel, sink = consume(broker)
    broker.publish("q", b"unacked")

    broker.engine.delete_queue(broker.connection, "q")

    assert sink.cancellations == ["t"]
    assert not channel.consumers
    # What is held can still be settled, to no effect.
    broker.engine.reject(channel, 1, requeue=True)
    assert not channel.held
    assert broker.numbers("letters").enqueued == 0


@pytest.mark.parametrize("settling", ["ack", "reject", "recover", "close"])
def test_deliveries_of_a_deleted_queue_do_not_reach_its_successor(settling: str) -> None:
    broker = VirtualBroker()
    broker.declare("q")
    channel, _ = consume(broker)
    broker.publish("q", b"old")
    broker.engine.delete_queue(broker.connection, "q")
    broker.declare("q")

    {
        "ack": lambda: broker.engine.ack(channel, 1),
        "reject": lambda: broker.engine.reject(channel, 1, requeue=True),
        "recover": lambda: broker.engine.recover(channel),
        "close": lambda: broker.engine.close_channel(channel),
    }[settling]()

    numbers = broker.numbers("q")
    assert (numbers.enqueued, numbers.ready, numbers.unacked) == (0, 0, 0)


def test_a_queue_in_use_or_not_empty_is_kept_where_asked() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    broker.publish("q")
    with pytest.raises(ChannelRefusal, match="not empty"):
        broker.engine.delete_queue(broker.connection, "q", if_empty=True)
    channel, _ = consume(broker)
    with pytest.raises(ChannelRefusal, match="in use"):
        broker.engine.delete_queue(broker.connection, "q", if_unused=True)
    assert exists(broker)

    broker.engine.close_channel(channel)

    assert broker.engine.delete_queue(broker.connection, "q", if_unused=True) == 1
    assert broker.engine.delete_queue(broker.connection, "q") == 0


def test_an_auto_delete_queue_ends_with_its_last_consumer() -> None:
    broker = VirtualBroker()
    broker.engine.declare_queue(broker.connection, "q", auto_delete=True)
    first, _ = consume(broker, tag="first")
    second, _ = consume(broker, tag="second")

    broker.engine.cancel(first, "first")
    assert exists(broker)
    broker.engine.close_channel(second)

    assert not exists(broker)


def test_an_auto_delete_queue_without_a_consumer_so_far_is_kept() -> None:
    broker = VirtualBroker()
    broker.engine.declare_queue(broker.connection, "q", auto_delete=True)
    channel, _ = broker.channel()
    broker.publish("q")
    assert broker.engine.get(channel, "q") is not None

    broker.engine.close_channel(channel)

    assert exists(broker)
    assert broker.numbers("q").ready == 1


def test_an_exclusive_queue_belongs_to_its_connection_and_ends_with_it() -> None:
    broker = VirtualBroker()
    owner, stranger = broker.engine.connect(), broker.engine.connect()
    broker.engine.declare_queue(owner, "q", exclusive=True)
    channel, _ = broker.channel(stranger)

    for forbidden in (
        lambda: broker.engine.declare_queue(stranger, "q", exclusive=True),
        lambda: broker.engine.declare_queue(stranger, "q", passive=True),
        lambda: broker.engine.bind_queue(stranger, "q", "amq.topic", "#"),
        lambda: broker.engine.purge_queue(stranger, "q"),
        lambda: broker.engine.delete_queue(stranger, "q"),
        lambda: broker.engine.consume(channel, "q"),
        lambda: broker.engine.get(channel, "q"),
    ):
        with pytest.raises(ChannelRefusal) as refusal:
            forbidden()
        assert refusal.value.reply_code == 405

    broker.publish("q")  # anybody may publish
    broker.engine.close_connection(owner)
    assert not exists(broker)


def test_an_unused_queue_expires() -> None:
    broker = VirtualBroker()
    broker.declare("q", expires=10_000)
    broker.publish("q")

    broker.clock.advance(9.9)
    assert exists(broker)
    broker.publish("q")  # publishing is not using
    broker.clock.advance(0.1)

    assert not exists(broker)


@pytest.mark.parametrize("use", ["get", "declare"])
def test_using_a_queue_puts_its_expiry_off(use: str) -> None:
    broker = VirtualBroker()
    broker.declare("q", expires=10_000)
    channel, _ = broker.channel()
    broker.clock.advance(9)

    if use == "get":
        assert broker.engine.get(channel, "q") is None
    else:
        broker.declare("q", expires=10_000)

    broker.clock.advance(9.9)
    assert exists(broker)
    broker.clock.advance(0.1)
    assert not exists(broker)


def test_a_queue_with_a_consumer_does_not_expire_until_it_has_left() -> None:
    broker = VirtualBroker()
    broker.declare("q", expires=10_000)
    channel, _ = consume(broker)
    broker.clock.advance(1000)
    assert exists(broker)

    broker.engine.cancel(channel, "t")
    broker.clock.advance(9.9)
    assert exists(broker)
    broker.clock.advance(0.1)

    assert not exists(broker)


def test_messages_of_a_queue_that_expires_are_not_dead_letters() -> None:
    broker = VirtualBroker()
    broker.declare("letters")
    broker.declare("q", expires=1000, dead_letter_exchange="", dead_letter_routing_key="letters")
    broker.publish("q")

    broker.clock.advance(1)

    assert broker.numbers("letters").enqueued == 0


def test_an_auto_delete_exchange_ends_with_its_last_binding() -> None:
    broker = VirtualBroker()
    engine, mine = broker.engine, broker.connection
    engine.declare_exchange("e", "topic", auto_delete=True)
    for name in ("q", "other"):
        broker.declare(name)
        engine.bind_queue(mine, name, "e", "#")

    engine.unbind_queue(mine, "q", "e", "#")
    assert "e" in engine.exchanges
    engine.delete_queue(mine, "other")

    assert "e" not in engine.exchanges


def test_removing_a_binding_that_was_never_made_changes_nothing() -> None:
    broker = VirtualBroker()
    engine, mine = broker.engine, broker.connection
    engine.declare_exchange("e", "topic", auto_delete=True)
    engine.declare_exchange("target")
    broker.declare("q")

    engine.unbind_queue(mine, "q", "e", "never")
    engine.unbind_exchange("target", "e", "never")
    engine.unbind_queue(mine, "missing", "e", "never")

    assert "e" in engine.exchanges


def test_a_closed_connection_leaves_nothing_behind() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    connection = broker.engine.connect()
    channel, sink = broker.channel(connection)
    broker.engine.begin(broker.engine.consume(channel, "q"))
    broker.publish("q", b"held")

    broker.engine.close_connection(connection)
    broker.engine.close_connection(connection)

    assert broker.engine.connections == [broker.connection]
    assert broker.numbers("q").consumers == 0
    assert broker.bodies("q") == [b"held"]
    assert len(sink.deliveries) == 1
