"""What becomes of a dead letter that no queue takes: kept (at-least-once), or gone with a warning (at-most-once)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports.engine import ChannelRefusal, Message
from transports.wire.carried import CarriedMessage
from transports.wire.content import pack_content

REJECTING = {"max_length": 1, "overflow": "reject-publish"}


def source(broker: VirtualBroker, strategy: str, exchange: str = "", key: str = "letters") -> None:
    broker.declare(
        "q",
        message_ttl=1000,
        dead_letter_exchange=exchange,
        dead_letter_routing_key=key,
        dead_letter_strategy=strategy,
    )


def take(broker: VirtualBroker, queue: str) -> bytes | None:
    channel, _ = broker.channel()
    got = broker.engine.get(channel, queue, no_ack=True)
    return None if got is None else got.entry.message.body


def test_a_letter_without_a_queue_is_kept_until_there_is_one() -> None:
    broker = VirtualBroker()
    source(broker, "at-least-once")
    broker.publish("q", b"letter")
    broker.clock.advance(60)
    assert broker.numbers("q").dead_letter_pending == 1

    broker.declare("letters")
    broker.clock.advance(1)

    assert broker.bodies("letters") == [b"letter"]
    assert broker.numbers("q").dead_letter_pending == 0
    [letter] = broker.letters("letters")
    assert (letter.headers or {})["x-death"][0]["count"] == 1


def test_a_queue_that_keeps_letters_is_not_deleted_if_empty_is_asked() -> None:
    broker = VirtualBroker()
    source(broker, "at-least-once")
    broker.publish("q", b"letter")
    broker.clock.advance(1)

    with pytest.raises(ChannelRefusal, match="queue 'q' in vhost '/' not empty"):
        broker.engine.delete_queue(broker.connection, "q", if_empty=True)


def test_letters_for_a_full_queue_are_delivered_in_order_as_room_appears() -> None:
    broker = VirtualBroker()
    broker.declare("letters", **REJECTING)
    source(broker, "at-least-once")
    for number in range(3):
        broker.publish("q", b"%d" % number)
    broker.clock.advance(1)
    assert (broker.bodies("letters"), broker.numbers("q").dead_letter_pending) == ([b"0"], 2)

    taken = []
    for _ in range(3):
        taken.append(take(broker, "letters"))
        broker.clock.advance(1)

    assert taken == [b"0", b"1", b"2"]
    assert broker.numbers("q").dead_letter_pending == 0


def test_of_two_queues_only_the_full_one_gets_its_letter_later() -> None:
    broker = VirtualBroker()
    broker.engine.declare_exchange("dlx", "fanout")
    broker.declare("roomy")
    broker.declare("full", **REJECTING)
    for name in ("roomy", "full"):
        broker.engine.bind_queue(broker.connection, name, "dlx")
    broker.publish("full", b"in the way")
    source(broker, "at-least-once", "dlx")
    broker.publish("q", b"letter")
    broker.clock.advance(1)
    assert broker.bodies("roomy") == [b"letter"]

    assert take(broker, "full") == b"in the way"
    broker.clock.advance(5)

    assert (broker.bodies("full"), broker.bodies("roomy")) == ([b"letter"], [b"letter"])


def test_a_full_queue_that_passes_letters_nowhere_counts_as_full() -> None:
    broker = VirtualBroker()
    broker.declare("letters", max_length=0, overflow="reject-publish-dlx")
    source(broker, "at-least-once")

    broker.publish("q", b"letter")
    broker.clock.advance(1)

    assert broker.numbers("q").dead_letter_pending == 1


def test_a_full_queue_may_pass_letters_on() -> None:
    broker = VirtualBroker()
    broker.declare("last")
    broker.declare(
        "letters",
        max_length=0,
        overflow="reject-publish-dlx",
        dead_letter_exchange="",
        dead_letter_routing_key="last",
    )
    source(broker, "at-least-once")

    broker.publish("q", b"letter")
    broker.clock.advance(1)

    [letter] = broker.letters("last")
    history = [(death["queue"], death["reason"]) for death in (letter.headers or {})["x-death"]]
    assert history == [("letters", "maxlen"), ("q", "expired")]
    assert broker.numbers("q").dead_letter_pending == 0


@pytest.mark.parametrize("full", [True, False])
def test_at_most_once_a_lost_letter_is_a_warning_that_names_the_queue(
    full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = VirtualBroker()
    if full:
        broker.declare("letters", max_length=0, overflow="reject-publish")
    source(broker, "at-most-once")
    broker.publish("q", b"letter")

    with caplog.at_level(logging.WARNING, logger="transports.broker"):
        broker.clock.advance(1)

    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "'q'" in record.getMessage()
    assert "at-least-once" in record.getMessage()
    assert ("'letters'" in record.getMessage()) is full
    assert broker.numbers("q").dead_letter_pending == 0


def test_a_letter_that_was_delivered_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    broker = VirtualBroker()
    broker.declare("letters")
    source(broker, "at-most-once")
    broker.publish("q")

    with caplog.at_level(logging.WARNING):
        broker.clock.advance(1)

    assert not caplog.records


def test_a_message_cannot_go_round_for_ever() -> None:
    broker = VirtualBroker()
    broker.declare("a", message_ttl=0, dead_letter_exchange="", dead_letter_routing_key="b")
    broker.declare("b", message_ttl=0, dead_letter_exchange="", dead_letter_routing_key="a")

    broker.publish("a")

    assert (broker.numbers("a").enqueued, broker.numbers("b").enqueued) == (1, 1)
    assert (broker.numbers("a").ready, broker.numbers("b").ready) == (0, 0)


def test_a_queue_without_an_exchange_makes_no_letters() -> None:
    broker = VirtualBroker()
    broker.declare("q", message_ttl=1000)
    broker.publish("q")

    broker.clock.advance(1)

    assert (broker.numbers("q").expired, broker.numbers("q").dead_lettered) == (1, 0)


@pytest.mark.parametrize(
    ("properties", "headers"),
    [
        ({}, {"x-death": [{"queue": "q", "reason": "expired", "count": 2**64 - 1}]}),
        ({"priority": "high"}, {}),
        ({"expiration": 5}, {}),
        ({}, {"x-delay": "long"}),
    ],
)
def test_a_letter_whose_block_says_what_no_broker_wrote_arrives(
    properties: dict[str, Any], headers: dict[str, Any]
) -> None:
    broker = VirtualBroker()
    source(broker, "at-most-once")
    broker.declare("letters")
    broker.engine.publish(CarriedMessage(b"odd", pack_content(properties, headers), "", "q", priority=3))
    broker.publish("q", b"plain")

    broker.clock.advance(1)

    assert broker.bodies("letters") == [b"odd", b"plain"]


@pytest.mark.parametrize("strategy", ["at-most-once", "at-least-once"])
def test_a_letter_that_the_broker_fails_at_stays_and_disturbs_nobody(
    strategy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = VirtualBroker()
    source(broker, strategy)
    broker.declare("letters")
    whole = Message.redirected

    def broken(self: Message, *arguments: Any) -> Message:
        if self.body == b"break":
            raise RuntimeError("a defect")
        return whole(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Message, "redirected", broken)
        for body in (b"1", b"break", b"2"):
            broker.publish("q", body)
        broker.clock.advance(10)

        assert broker.bodies("letters") == [b"1", b"2"]
        assert broker.numbers("q").dead_letter_pending == 1
        assert caplog.text.count("the broker failed at a dead letter of queue 'q' (expired)") == 1

    broker.clock.advance(1)
    assert broker.bodies("letters") == [b"1", b"2", b"break"]
