"""When a consumer ends or frees credit, whoever is entitled next goes on at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transports.virtual_broker import RecordingSink, VirtualBroker
from transports.engine import Channel, ChannelRefusal, Consumer


def subscribe(broker: VirtualBroker, channel: Channel, queue: str, tag: str, **options: Any) -> Consumer:
    consumer = broker.engine.consume(channel, queue, tag, **options)
    broker.engine.begin(consumer)
    return consumer


def two_on_a_single_active_queue(broker: VirtualBroker) -> tuple[Channel, RecordingSink, Channel, RecordingSink]:
    broker.declare("q", single_active_consumer=True)
    first, first_sink = broker.channel()
    second, second_sink = broker.channel()
    broker.engine.qos(first, 1)
    subscribe(broker, first, "q", "first")
    subscribe(broker, second, "q", "second")
    broker.publish("q", b"1")
    broker.publish("q", b"2")
    assert (first_sink.bodies, second_sink.bodies) == ([b"1"], [])
    return first, first_sink, second, second_sink


def test_the_next_consumer_takes_over_when_the_active_one_cancels() -> None:
    broker = VirtualBroker()
    first, _, _, second_sink = two_on_a_single_active_queue(broker)

    broker.engine.cancel(first, "first")

    assert second_sink.bodies == [b"2"]
    assert broker.numbers("q").unacked == 2


def test_the_next_consumer_takes_over_what_a_closed_channel_held_first() -> None:
    broker = VirtualBroker()
    first, _, _, second_sink = two_on_a_single_active_queue(broker)

    broker.engine.close_channel(first)

    assert [(one.body, one.redelivered) for one in second_sink.deliveries] == [(b"1", True), (b"2", False)]


def test_the_next_consumer_takes_over_from_one_whose_channel_was_stopped() -> None:
    broker = VirtualBroker()
    broker.declare("q", single_active_consumer=True)
    stopped, _ = broker.channel()
    broker.engine.flow(stopped, False)
    subscribe(broker, stopped, "q", "stopped")
    other, sink = broker.channel()
    subscribe(broker, other, "q", "other")
    broker.publish("q", b"1")
    assert not sink.bodies

    broker.engine.close_channel(stopped)

    assert sink.bodies == [b"1"]


def test_a_stopped_channel_goes_on_when_it_is_started_again() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    channel, sink = broker.channel()
    subscribe(broker, channel, "q", "t")
    broker.engine.flow(channel, False)
    broker.publish("q", b"1")
    assert not sink.bodies

    broker.engine.flow(channel, True)

    assert sink.bodies == [b"1"]


@pytest.mark.parametrize("ending", ["ack", "reject", "undeliver", "cancel", "recover-other"])
def test_shared_credit_that_becomes_free_serves_the_channels_other_queue(ending: str) -> None:
    broker = VirtualBroker()
    for name in ("one", "two"):
        broker.declare(name)
    channel, sink = broker.channel()
    broker.engine.qos(channel, 1, for_channel=True)
    subscribe(broker, channel, "one", "one")
    subscribe(broker, channel, "two", "two")
    broker.publish("one", b"1")
    broker.publish("two", b"2")
    assert sink.bodies == [b"1"]

    if ending == "ack":
        broker.engine.ack(channel, 1)
    elif ending == "reject":
        broker.engine.reject(channel, 1, requeue=False)
    elif ending == "cancel":
        broker.engine.cancel(channel, "one", sink.unseen)
    else:
        broker.engine.flow(channel, False)
        (broker.engine.recover(channel) if ending == "recover-other" else broker.engine.undeliver(channel, sink.unseen))
        broker.purge("one")
        broker.engine.flow(channel, True)

    assert sink.bodies == [b"1", b"2"]


def test_lowering_the_shared_limit_waits_for_acknowledgements() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    channel, sink = broker.channel()
    subscribe(broker, channel, "q", "t")
    for number in range(3):
        broker.publish("q", b"%d" % number)
    broker.engine.qos(channel, 1, for_channel=True)
    broker.publish("q", b"last")

    for tag in (1, 2):
        broker.engine.ack(channel, tag)
        assert len(sink.bodies) == 3
    broker.engine.ack(channel, 3)

    assert sink.bodies[3:] == [b"last"]


def test_unseen_deliveries_of_a_closing_channel_go_back_as_if_not_made() -> None:
    broker = VirtualBroker()
    broker.declare("q", delivery_limit=0)
    channel, sink = broker.channel()
    subscribe(broker, channel, "q", "t")
    for number in range(3):
        broker.publish("q", b"%d" % number)

    broker.engine.close_channel(channel, sink.unseen)

    assert broker.bodies("q") == [b"0", b"1", b"2"]
    numbers = broker.numbers("q")
    assert (numbers.delivered, numbers.requeued, numbers.dropped, numbers.unacked) == (0, 0, 0, 0)


def test_unseen_deliveries_without_acknowledgement_are_not_lost() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    channel, sink = broker.channel()
    subscribe(broker, channel, "q", "t", no_ack=True)
    broker.publish("q", b"1")

    broker.engine.close_channel(channel, sink.unseen)

    assert broker.bodies("q") == [b"1"]
    assert broker.numbers("q").acknowledged == 0


@pytest.mark.parametrize("first_exclusive", [True, False])
def test_an_exclusive_consumer_is_alone(first_exclusive: bool) -> None:
    broker = VirtualBroker()
    broker.declare("q")
    channel, _ = broker.channel()
    subscribe(broker, channel, "q", "first", exclusive=first_exclusive)

    with pytest.raises(ChannelRefusal) as refusal:
        broker.engine.consume(channel, "q", "second", exclusive=not first_exclusive)

    assert refusal.value.reply_code == 403
    assert broker.numbers("q").consumers == 1


def test_a_consumer_tag_is_used_once_per_channel() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    one, _ = broker.channel()
    other, _ = broker.channel()
    subscribe(broker, one, "q", "t")

    with pytest.raises(ChannelRefusal) as refusal:
        broker.engine.consume(one, "q", "t")

    assert refusal.value.reply_code == 530
    subscribe(broker, other, "q", "t")
    assert broker.numbers("q").consumers == 2
