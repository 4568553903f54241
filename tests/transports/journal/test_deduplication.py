"""A deduplication window over kills and restarts: it ends when it would have ended, not earlier and not later."""

from __future__ import annotations

from collections.abc import Callable

from tests.transports.journal.stored_broker import StoredBroker

Start = Callable[..., StoredBroker]


def once(broker: StoredBroker, identity: str, body: bytes = b"m") -> bool:
    """Publish a message with an id; tell whether the queue took it."""
    before = broker.engine.statistics("q")["q"].deduplicated
    broker.publish("q", body, x_deduplication_id=identity)
    broker.journal.commit()
    return broker.engine.statistics("q")["q"].deduplicated == before


def test_an_id_is_known_for_its_window_however_often_the_broker_is_killed(start: Start) -> None:
    broker = start()
    broker.declare("q", deduplication_window=60_000)
    assert once(broker, "pay-1")
    broker.take("q", 1)
    broker.journal.commit()
    broker.compact()

    for _ in range(3):
        broker = broker.killed(down=10)
        assert not once(broker, "pay-1")
        broker.compact()
        assert len(broker.files()) == 1
    broker.clock.advance(29)
    assert not once(broker, "pay-1")
    broker = broker.killed(down=2)
    assert once(broker, "pay-1")
    assert not once(broker.killed(down=59), "pay-1")


def test_an_id_outlives_the_file_with_its_message(start: Start) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q", deduplication_window=60_000)
    assert once(broker, "pay-1")
    for number in range(20):
        broker.publish("q", b"%d" % number * 1000)
        broker.take("q", 1)
        broker.journal.commit()
    broker.compact()
    assert broker.files()[0].name != "0000000001.log"

    assert not once(broker.killed(), "pay-1")


def test_a_delayed_message_that_is_written_again_does_not_begin_another_window(start: Start) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q", deduplication_window=3_000)
    broker.declare("other")
    broker.publish("q", b"1", x_deduplication_id="a", x_delay=4_000)
    broker.clock.advance(4.5)
    for number in range(20):
        broker.publish("other", b"%d" % number * 1000)
        broker.take("other", 1)
        broker.journal.commit()
    broker.compact()
    assert broker.files()[0].name != "0000000001.log"

    assert once(broker.killed(), "a")


def test_a_delayed_message_that_comes_back_unseen_does_not_begin_another_window(start: Start) -> None:
    broker = start()
    broker.declare("q", deduplication_window=3_000)
    broker.publish("q", b"1", x_deduplication_id="a", x_delay=4_000)
    broker.clock.advance(4.5)
    consumer = broker.engine.consume(broker.channel, "q", no_ack=True)
    broker.engine.begin(consumer)
    broker.engine.cancel(broker.channel, consumer.tag, broker.sink.unseen)
    broker.journal.commit()

    after = broker.killed()
    assert after.bodies("q") == [b"1"]
    assert once(after, "a")


def test_the_id_of_a_message_that_the_journal_does_not_have_is_not_kept(start: Start) -> None:
    broker = start()
    broker.declare("q", deduplication_window=60_000)
    broker.publish("q", b"gone with its broker", persistent=False, x_deduplication_id="a")
    broker.journal.commit()

    assert once(broker.killed().killed(), "a")
