"""Time to live: an expired message leaves at its time, wherever it stands and whatever happens meanwhile."""

from __future__ import annotations

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports import VirtualClock


@pytest.mark.parametrize(
    ("queue_ttl", "message_ttl", "lives"),
    [(1000, None, 1.0), (None, "2000", 2.0), (1000, "2000", 1.0), (3000, "2000", 2.0)],
)
def test_the_lower_of_the_two_times_to_live_counts(
    queue_ttl: int | None, message_ttl: str | None, lives: float
) -> None:
    broker = VirtualBroker()
    broker.declare("q", **({} if queue_ttl is None else {"message_ttl": queue_ttl}))
    broker.publish("q", **({} if message_ttl is None else {"expiration": message_ttl}))

    broker.clock.advance(lives - 0.001)
    assert broker.numbers("q").ready == 1
    broker.clock.advance(0.001)

    assert (broker.numbers("q").ready, broker.numbers("q").expired, broker.numbers("q").bytes) == (0, 1, 0)


def test_a_message_in_the_middle_leaves_at_its_time() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    for body, expiration in ((b"1", "9000"), (b"2", "1000"), (b"3", "5000")):
        broker.publish("q", body, expiration=expiration)

    broker.clock.advance(1)
    assert broker.bodies("q") == [b"1", b"3"]
    broker.clock.advance(4)
    assert broker.bodies("q") == [b"1"]


def test_zero_is_for_a_consumer_that_waits_or_nobody() -> None:
    broker = VirtualBroker()
    broker.declare("q", message_ttl=0)
    broker.publish("q", b"nobody")
    channel, sink = broker.channel()
    broker.engine.begin(broker.engine.consume(channel, "q"))

    broker.publish("q", b"waited for")

    assert sink.bodies == [b"waited for"]
    assert broker.numbers("q").expired == 1


def test_a_message_that_comes_back_after_its_time_expires() -> None:
    broker = VirtualBroker()
    broker.declare("letters")
    broker.declare("q", message_ttl=1000, dead_letter_exchange="", dead_letter_routing_key="letters")
    broker.publish("q", b"late")
    channel, _ = broker.channel()
    assert broker.engine.get(channel, "q") is not None
    broker.clock.advance(5)
    assert broker.numbers("q").expired == 0

    broker.engine.close_channel(channel)

    [letter] = broker.letters("letters")
    assert (letter.headers or {})["x-death"][0]["reason"] == "expired"
    assert broker.numbers("q").ready == 0


@pytest.mark.parametrize("ending", ["ack", "reject", "cancel", "close", "qos", "flow", "get"])
def test_no_operation_ever_hands_out_an_expired_message(ending: str) -> None:
    # The host of the engine is late: nobody has called run_due when the operation comes.
    broker = VirtualBroker()
    unattached = VirtualClock()
    broker.engine.clock = unattached
    broker.declare("q", single_active_consumer=ending in ("cancel", "close"))
    holder, _ = broker.channel()
    other, sink = broker.channel()
    for channel in (holder, other):
        broker.engine.qos(channel, 1)
        if ending in ("qos", "flow"):
            broker.engine.qos(channel, 1, for_channel=True)
    broker.engine.begin(broker.engine.consume(holder, "q", "t"))
    broker.publish("q", b"held")
    broker.publish("q", b"expired", expiration="1000")
    if ending in ("cancel", "close"):
        broker.engine.begin(broker.engine.consume(other, "q"))
    unattached.advance(5)

    engine = broker.engine
    {
        "ack": lambda: engine.ack(holder, 1),
        "reject": lambda: engine.reject(holder, 1, requeue=False),
        "cancel": lambda: engine.cancel(holder, "t"),
        "close": lambda: engine.close_channel(holder),
        "qos": lambda: engine.qos(holder, 0, for_channel=True),
        "flow": lambda: engine.flow(holder, True),
        "get": lambda: engine.get(other, "q"),
    }[ending]()

    numbers = broker.numbers("q")
    assert numbers.expired == 1
    assert b"expired" not in sink.bodies
    assert numbers.delivered == (2 if ending == "close" else 1)


def test_putting_a_message_back_again_and_again_costs_no_memory() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    broker.publish("q", expiration="300000")
    channel, _ = broker.channel()

    for _ in range(2000):
        got = broker.engine.get(channel, "q")
        assert got is not None
        broker.engine.reject(channel, got.delivery_tag, requeue=True)

    assert len(broker.engine.queue("q").expiries._heap) < 200
    broker.clock.advance(300)
    assert broker.numbers("q").expired == 1


def test_many_messages_that_leave_before_their_time_cost_no_memory() -> None:
    broker = VirtualBroker()
    broker.declare("q", message_ttl=300_000)
    channel, _ = broker.channel()

    for _ in range(2000):
        broker.publish("q")
        assert broker.engine.get(channel, "q", no_ack=True) is not None

    assert len(broker.engine.queue("q").expiries._heap) < 200
