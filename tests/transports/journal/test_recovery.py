"""What is there again after a kill and a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.transports.journal.stored_broker import StoredBroker, carried
from transports.broker.journal import FileJournal
from transports.engine import Broker, Message

Start = Callable[..., StoredBroker]


def test_committed_messages_come_back_in_their_order(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1", b"2", b"3")
    broker.journal.commit()
    broker.publish("q", b"4")

    after = broker.killed()

    assert after.bodies("q") == [b"1", b"2", b"3"]
    assert after.engine.statistics("q")["q"].enqueued == 3


def test_messages_that_left_do_not_come_back(start: Start) -> None:
    broker = start()
    broker.declare("q", dead_letter_exchange="", dead_letter_routing_key="dead", delivery_limit=0)
    broker.declare("dead")
    broker.publish("q", b"acked", b"rejected", b"without ack", b"limit", b"kept")
    broker.publish("q", b"delayed", x_delay=1000)
    broker.take("q", 1)
    broker.engine.reject(broker.channel, broker.get("q")[0], requeue=False)
    broker.get("q", no_ack=True)
    broker.engine.reject(broker.channel, broker.get("q")[0], requeue=True)
    broker.engine.cancel_delayed("q", "delayed")
    broker.journal.commit()

    after = broker.killed(down=10)

    assert after.bodies("q") == [b"kept"]
    assert after.bodies("dead") == [b"rejected", b"limit"]
    assert after.engine.peek("dead", 1)[0].headers["x-death"][0]["reason"] == "rejected"


def test_only_what_was_declared_to_last_comes_back(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.declare("transient", durable=False)
    broker.declare("goes with its last consumer", auto_delete=True)
    broker.engine.declare_queue(broker.connection, "exclusive", durable=True, exclusive=True)
    broker.engine.declare_exchange("lasting", "topic", durable=True)
    broker.engine.declare_exchange("passing", "topic")
    for queue in ("q", "transient", "exclusive"):
        broker.engine.bind_queue(broker.connection, queue, "lasting", "#")
    broker.engine.bind_queue(broker.connection, "q", "passing", "#")
    broker.publish("q", b"persistent")
    broker.publish("q", b"not", persistent=False)
    broker.publish("transient", b"not")
    broker.publish("exclusive", b"not")
    broker.journal.commit()

    after = broker.killed()

    assert set(after.engine.queues) == {"q", "goes with its last consumer"}
    assert after.bodies("q") == [b"persistent"]
    assert "passing" not in after.engine.exchanges
    assert [one.destination.name for one in after.engine.exchanges["lasting"].bindings] == ["q"]


def test_exchanges_of_every_type_and_their_bindings_route_as_before(start: Start) -> None:
    broker = start()
    engine = broker.engine
    broker.declare("q")
    for kind in ("direct", "fanout", "topic", "headers"):
        engine.declare_exchange(kind, kind, durable=True)
    engine.declare_exchange("spare", "fanout", durable=True)
    engine.declare_exchange("front", "direct", durable=True, arguments={"alternate-exchange": "spare"})
    engine.bind_queue(broker.connection, "q", "direct", "a")
    engine.bind_exchange("direct", "fanout")
    engine.bind_queue(broker.connection, "q", "topic", "x.*")
    engine.bind_queue(broker.connection, "q", "topic", "y.*")
    engine.unbind_queue(broker.connection, "q", "topic", "y.*")
    engine.bind_queue(broker.connection, "q", "headers", "", {"x-match": "any", "level": 3})
    engine.bind_queue(broker.connection, "q", "spare")
    engine.bind_queue(broker.connection, "q", "amq.direct", "b")
    broker.journal.commit()

    after = broker.killed()

    def routed(exchange: str, key: str, **headers: Any) -> bool:
        message = carried(b"m", key, exchange=exchange)
        return after.engine.publish(message.redirected(exchange, key, headers, {}))

    assert routed("direct", "a")
    assert routed("fanout", "a")
    assert routed("topic", "x.1")
    assert not routed("topic", "y.1")
    assert routed("headers", "", level=3)
    assert not routed("headers", "", level=True)
    assert routed("front", "")
    assert routed("amq.direct", "b")


def test_the_same_declarations_again_are_no_conflict(start: Start) -> None:
    broker = start()
    arguments = {
        "max_priority": 9,
        "message_ttl": 60_000,
        "dead_letter_exchange": "dlx",
        "deduplication_window": 1000,
        "message_groups": True,
        "max_length": 5,
        "overflow": "reject-publish",
    }
    broker.declare("q", **arguments)
    broker.engine.declare_exchange("dlx", "fanout", durable=True)
    broker.journal.commit()

    after = broker.killed()

    after.declare("q", **arguments)
    after.engine.declare_exchange("dlx", "fanout", durable=True)
    assert after.engine.queues["q"].arguments == broker.engine.queues["q"].arguments


def test_deleted_things_stay_deleted(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.declare("other")
    broker.engine.declare_exchange("x", "fanout", durable=True)
    broker.engine.bind_queue(broker.connection, "q", "x")
    broker.engine.bind_queue(broker.connection, "q", "amq.fanout")
    broker.publish("q", b"1", b"2")
    broker.journal.commit()
    tag, _ = broker.get("q")
    broker.engine.delete_queue(broker.connection, "q")
    broker.engine.ack(broker.channel, tag)
    broker.engine.delete_exchange("x")
    broker.declare("q")
    broker.publish("q", b"3")
    broker.journal.commit()

    after = broker.killed()

    assert after.bodies("q") == [b"3"]
    assert "x" not in after.engine.exchanges
    assert not after.engine.exchanges["amq.fanout"].bindings


def test_priority_and_age_decide_the_order_as_before(start: Start) -> None:
    broker = start()
    broker.declare("q", max_priority=5, priority_aging=10)
    broker.publish("q", b"old and low", priority=1)
    broker.clock.advance(30)
    broker.publish("q", b"young and middling", priority=3)
    broker.publish("q", b"young and high", priority=5)
    order = [b"young and high", b"old and low", b"young and middling"]
    assert broker.bodies("q") == order
    broker.journal.commit()

    after = broker.killed(down=100)

    assert after.bodies("q") == order


def test_a_delay_ends_when_it_would_have_ended(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"in 60 s", x_delay=60_000)
    broker.publish("q", b"in 20 s", x_delay=20_000)
    broker.publish("q", b"in 10 s", x_delay=10_000)
    broker.publish("q", b"moved to 30 s", x_delay=1000)
    broker.publish("q", b"at once")
    broker.engine.reschedule("q", "moved to 30 s", 30)
    broker.journal.commit()

    after = broker.killed(down=25)

    assert after.bodies("q") == [b"at once", b"in 10 s", b"in 20 s"]
    after.clock.advance(4.9)
    assert len(after.bodies("q")) == 3
    after.clock.advance(0.2)
    assert after.bodies("q")[3:] == [b"moved to 30 s"]
    after.clock.advance(30)
    assert after.bodies("q")[4:] == [b"in 60 s"]


def test_a_delayed_message_keeps_the_place_that_it_got_when_it_was_due(start: Start) -> None:
    broker = start()
    broker.declare("q", message_ttl=100_000)
    broker.publish("q", b"delayed", x_delay=5000)
    broker.publish("q", b"before")
    broker.clock.advance(6)
    broker.publish("q", b"after")
    broker.journal.commit()

    after = broker.killed()

    assert after.bodies("q") == [b"before", b"delayed", b"after"]
    after.clock.advance(95)
    assert after.bodies("q") == [b"delayed", b"after"]  # its time to live began when it was due
    after.clock.advance(4)
    assert after.bodies("q") == [b"after"]


def test_time_goes_on_while_the_broker_is_down(start: Start) -> None:
    broker = start()
    broker.declare("q", dead_letter_exchange="", dead_letter_routing_key="dead")
    broker.declare("dead")
    broker.publish("q", b"10 s", ttl_ms=10_000)
    broker.publish("q", b"50 s", ttl_ms=50_000)
    broker.publish("q", b"delayed 5 s, then 10 s", x_delay=5000, ttl_ms=10_000)
    broker.publish("q", b"delayed 25 s, then 10 s", x_delay=25_000, ttl_ms=10_000)
    broker.journal.commit()

    after = broker.killed(down=30)

    assert after.bodies("dead") == [b"10 s", b"delayed 5 s, then 10 s"]
    assert after.bodies("q") == [b"50 s", b"delayed 25 s, then 10 s"]
    again = after.killed()
    assert again.bodies("dead") == after.bodies("dead")
    again.clock.advance(5)
    assert again.bodies("q") == [b"50 s"]


def test_what_a_consumer_held_is_redelivered_in_its_place_and_nothing_else_is(start: Start) -> None:
    broker = start()
    broker.declare("q", delivery_limit=1)
    broker.publish("q", b"held", b"returned", b"never seen", b"waiting")
    broker.get("q")
    broker.get("q")
    broker.engine.reject(broker.channel, 2, requeue=True)
    consumer = broker.engine.consume(broker.channel, "q")
    broker.engine.begin(consumer)
    broker.engine.flow(broker.channel, False)
    broker.engine.undeliver(broker.channel, [one for one in broker.sink.unseen if one[1].message.body != b"returned"])
    broker.journal.commit()

    after = broker.killed()

    states = {entry.message.body: (entry.redelivered, entry.returns) for entry in after.engine.queues["q"].peek(9)}
    assert list(states) == [b"held", b"returned", b"never seen", b"waiting"]
    assert states == {
        b"held": (True, 0),
        b"returned": (True, 1),
        b"never seen": (False, 0),
        b"waiting": (False, 0),
    }


def test_a_message_delivered_without_acknowledgement_and_never_seen_comes_back(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1", b"2")
    consumer = broker.engine.consume(broker.channel, "q", no_ack=True)
    broker.engine.begin(consumer)
    broker.journal.commit()
    broker.engine.cancel(broker.channel, consumer.tag, broker.sink.unseen[1:])
    broker.journal.commit()

    assert broker.killed().bodies("q") == [b"2"]


def test_an_orderly_end_gives_back_what_consumers_held(start: Start) -> None:
    broker = start()
    broker.declare("q", delivery_limit=5)
    broker.publish("q", b"1")
    broker.get("q")

    after = broker.restarted()

    _, entry = after.get("q")
    assert (entry.message.body, entry.redelivered, entry.returns) == (b"1", True, 1)


def test_messages_of_a_group_stay_in_their_order_one_at_a_time(start: Start) -> None:
    broker = start()
    broker.declare("q", message_groups=True)
    broker.publish("q", b"a1", b"a2", x_group_id="a")
    broker.publish("q", b"b1", x_group_id="b")
    broker.get("q")
    broker.publish("q", b"a1 again", x_group_id="a", x_group_continues=True)
    broker.publish("q", b"b0, in 10 s", x_group_id="b", x_group_continues=True, x_delay=10_000)
    broker.journal.commit()

    after = broker.killed()

    assert after.get("q")[1].message.body == b"a1 again"
    assert after.engine.get(after.channel, "q") is None
    assert after.bodies("q") == [b"a1", b"a2", b"b1"]
    after.clock.advance(10)
    assert after.get("q")[1].message.body == b"b0, in 10 s"


def test_a_second_publish_of_a_known_id_is_still_dropped(start: Start) -> None:
    broker = start()
    broker.declare("q", deduplication_window=60_000)
    broker.publish("q", b"1", x_deduplication_id="one")
    broker.publish("q", b"2", x_deduplication_id="two")
    broker.take("q", 1)
    broker.journal.commit()

    after = broker.killed(down=30)

    after.publish("q", b"again", x_deduplication_id="one")
    after.publish("q", b"again", x_deduplication_id="two")
    assert after.bodies("q") == [b"2"]
    after.clock.advance(31)
    after.publish("q", b"again", x_deduplication_id="two")
    assert after.bodies("q") == [b"2", b"again"]


def test_a_dead_letter_without_a_place_is_kept_and_tried_again(start: Start) -> None:
    broker = start()
    broker.declare("q", dead_letter_exchange="", dead_letter_routing_key="later", dead_letter_strategy="at-least-once")
    broker.publish("q", b"1")
    broker.engine.reject(broker.channel, broker.get("q")[0], requeue=False)
    broker.clock.advance(3)
    broker.journal.commit()

    after = broker.killed()
    assert after.engine.statistics("q")["q"].dead_letter_pending == 1
    after.declare("later")
    after.clock.advance(1)
    after.journal.commit()

    again = after.killed()
    assert again.bodies("later") == [b"1"]
    assert again.engine.statistics("q")["q"].dead_letter_pending == 0
    assert again.engine.peek("later", 1)[0].headers["x-first-death-reason"] == "rejected"


def test_a_dead_letter_is_in_one_queue_or_the_other_wherever_the_write_was_torn(start: Start) -> None:
    broker = start()
    broker.declare("q", dead_letter_exchange="", dead_letter_routing_key="dead")
    broker.declare("dead")
    broker.publish("q", b"1")
    broker.journal.commit()
    before = broker.files()[-1].stat().st_size
    broker.engine.reject(broker.channel, broker.get("q")[0], requeue=False)
    broker.journal.commit()
    end = broker.files()[-1].stat().st_size

    for cut in (*range(before, end, 9), end):
        after = broker.killed(cut=cut)
        found = (after.bodies("q"), after.bodies("dead"))
        after.journal.close()
        assert found == (([], [b"1"]) if cut == end else ([b"1"], []))


def test_a_message_in_many_queues_is_written_once(start: Start) -> None:
    broker = start()
    names = [f"q{number}" for number in range(20)]
    for name in names:
        broker.declare(name)
        broker.engine.bind_queue(broker.connection, name, "amq.fanout")
    broker.journal.commit()
    before = broker.journal.statistics().written_bytes
    broker.publish("", b"x" * 10_000, exchange="amq.fanout")
    broker.journal.commit()
    assert broker.journal.statistics().written_bytes - before < 3 * 10_000  # body, and id

    after = broker.killed()

    messages = [after.engine.peek(name, 1)[0] for name in names]
    assert all(message is messages[0] for message in messages)
    assert messages[0].body == b"x" * 10_000


def test_a_rule_that_no_table_can_hold_is_no_obstacle(start: Start) -> None:
    broker = start()
    broker.declare("q", message_groups=True)
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    broker.publish("q", b"1", b"2", x_group_id=deep)
    broker.publish("q", b"3", x_group_id=deep, x_group_continues=True)
    broker.journal.commit()

    after = broker.killed()

    assert after.get("q")[1].message.body == b"3"
    assert after.engine.get(after.channel, "q") is None


def test_virtual_hosts_come_back_apart(start: Start) -> None:
    broker = start()
    other = broker.make("other")
    connection = other.connect()
    other.declare_queue(connection, "q", durable=True)
    other.publish(carried(b"there", "q"))
    broker.declare("q")
    broker.publish("q", b"here")
    broker.journal.commit()

    after = broker.killed()

    assert set(after.hosts) == {"/", "other"}
    assert after.bodies("q") == [b"here"]
    assert [message.body for message in after.hosts["other"].peek("q", 9)] == [b"there"]


def test_a_purge_is_one_record_however_large_the_queue(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", *(b"%d" % number for number in range(5000)))
    broker.publish("q", b"delayed", x_delay=1000)
    broker.get("q")
    broker.journal.commit()
    before = broker.journal.statistics().written_bytes
    broker.engine.purge_queue(broker.connection, "q")
    broker.publish("q", b"new")
    broker.journal.commit()
    assert broker.journal.statistics().written_bytes - before < 500

    after = broker.killed()

    assert after.bodies("q") == [b"0", b"new"]
    after.clock.advance(1)
    assert after.bodies("q") == [b"0", b"new", b"delayed"]
    before = after.journal.statistics().written_bytes
    after.engine.delete_queue(after.connection, "q")
    after.journal.commit()
    assert after.journal.statistics().written_bytes - before < 200
    assert after.journal.statistics().live_messages == 0


def test_a_plain_message_is_stored_like_one_that_is_carried(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.engine.publish(Message(b"1", {"delivery_mode": 2, "priority": 3}, {"id": "a", "x-delay": 10}, "", "q"))
    broker.engine.publish(Message(b"2", {"delivery_mode": 1}, None, "", "q"))
    broker.journal.commit()

    after = broker.killed(down=1)

    [message] = after.engine.peek("q", 9)
    assert (message.body, message.headers, message.properties["priority"]) == (b"1", {"id": "a"}, 3)


def test_a_broker_without_recovery_is_refused(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    broker = Broker(journal=journal)
    with pytest.raises(RuntimeError, match="recover"):
        broker.declare_queue(broker.connect(), "q", durable=True)
    journal.recover(lambda vhost: Broker(vhost, journal=journal))
    with pytest.raises(RuntimeError, match="once"):
        journal.recover(lambda vhost: Broker(vhost, journal=journal))
    journal.close()
