"""What a broker makes of a journal with holes: it starts, with all that can be understood, and says what is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from msgpack import ExtType

from tests.transports.journal.stored_broker import StoredBroker, carried
from transports.broker.journal.batch import Batch
from transports.broker.journal.blocks import HEADER_SIZE
from transports.broker.journal.records import DEFINED, SNAPSHOT, TABLE_HEAD
from transports.engine import Message
from transports.wire.content import pack_table

Start = Callable[..., StoredBroker]


def damage(broker: StoredBroker, record: bytes, *, occurrence: int = 1) -> None:
    """Flip a bit in the block that holds these bytes (for the ``occurrence``-th time) in the newest file."""
    broker.journal.commit()
    file = broker.files()[-1]
    data = bytearray(file.read_bytes())
    position = -1
    for _ in range(occurrence):
        position = data.index(record, position + 1)
    data[position] ^= 1
    file.write_bytes(data)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]


@pytest.mark.parametrize(("lost", "kept"), [(b"events", b"game"), (b"game", b"events")])
def test_a_binding_whose_queue_or_exchange_was_lost_is_left_out_and_reported(
    start: Start, caplog: pytest.LogCaptureFixture, lost: bytes, kept: bytes
) -> None:
    broker = start()
    broker.declare("other")
    broker.journal.commit()
    broker.engine.declare_exchange("events", "topic", durable=True)
    broker.journal.commit()
    broker.declare("game")
    broker.journal.commit()
    broker.engine.bind_queue(broker.connection, "game", "events", "a.#")
    broker.publish("other", b"1")
    damage(broker, lost)

    after = broker.killed()

    assert after.bodies("other") == [b"1"]
    assert {*after.engine.queues, *after.engine.exchanges} & {"game", "events"} == {kept.decode()}
    [_, told] = errors(caplog)
    assert "the binding of queue 'game' to exchange 'events' (routing key 'a.#', virtual host '/') is left out" in told
    caplog.clear()
    after.declare("game")
    after.engine.declare_exchange("events", "topic", durable=True)
    assert not after.engine.publish(carried(b"m", "a.b", exchange="events"))
    after.journal.commit()
    again = after.killed()
    assert not again.engine.publish(carried(b"m", "a.b", exchange="events"))
    assert errors(caplog) == []


def test_a_queue_whose_deletion_was_lost_gives_way_to_the_next_of_its_name(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.engine.bind_queue(broker.connection, "q", "amq.topic", "old")
    broker.publish("q", b"old")
    broker.journal.commit()
    broker.engine.delete_queue(broker.connection, "q")
    broker.journal.commit()
    broker.declare("q")
    broker.publish("q", b"new")
    damage(broker, b"delete queue")

    after = broker.killed()

    assert after.bodies("q") == [b"new"]
    assert not after.engine.exchanges["amq.topic"].bindings
    after.take("q", 1)
    after.journal.commit()
    assert after.journal.statistics().live_messages == 0
    assert after.killed().bodies("q") == []


def test_an_exchange_whose_deletion_was_lost_gives_way_to_the_next_of_its_name(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.engine.declare_exchange("x", "topic", durable=True)
    broker.engine.bind_queue(broker.connection, "q", "x", "old")
    broker.journal.commit()
    broker.engine.delete_exchange("x")
    broker.journal.commit()
    broker.engine.declare_exchange("x", "topic", durable=True)
    broker.engine.bind_queue(broker.connection, "q", "x", "new")
    damage(broker, b"delete exchange")

    after = broker.killed()

    assert [one.routing_key for one in after.engine.exchanges["x"].bindings] == ["new"]


def test_messages_of_a_queue_that_was_lost_never_come_into_another(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("kept")
    broker.publish("kept", b"kept")
    broker.journal.commit()
    broker.declare("lost")
    broker.journal.commit()
    broker.publish("lost", b"lost")
    damage(broker, b"lost")

    after = broker.killed()
    assert "1 messages of the journal are in 1 queues whose declaration is lost" in errors(caplog)[-1]
    after.declare("lost")
    after.publish("lost", b"new")
    after.journal.commit()

    again = after.killed()
    assert again.bodies("lost") == [b"new"]
    again.publish("kept", *(b"x" * 2000 for _ in range(10)))
    again.journal.commit()
    again.take("kept", 11)
    again.take("lost", 1)
    again.compact()
    assert again.journal.statistics().files == 1


def table(kind: int, packed: bytes) -> bytes:
    return TABLE_HEAD.pack(kind, len(packed)) + packed


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (table(DEFINED, b"\xc1"), "not a packed table"),
        (table(DEFINED, pack_table(["policy", "/", "all"])), "no definition: ['policy', '/', 'all']"),
        (table(DEFINED, pack_table(["queue", "/", "p", 9, False, {"length": 5}])), "length"),
        (table(DEFINED, pack_table(["exchange", "/", "p", "odd", False, False, {}])), "the unknown type 'odd'"),
        (table(SNAPSHOT, pack_table(5)), "definitions that are no list"),
    ],
)
def test_a_record_that_cannot_be_understood_is_left_out_kept_and_reported(
    start: Start, caplog: pytest.LogCaptureFixture, record: bytes, reason: str
) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"before")
    broker.journal._batch.parts.append(record)
    broker.publish("q", b"after")
    broker.journal.commit()
    [file] = broker.files()

    after = broker.killed()

    assert after.bodies("q") == [b"before", b"after"]
    [told] = errors(caplog)
    assert f"{file.name} has 1 records that cannot be understood, the first at byte " in told
    assert reason in told
    [kept] = after.path.glob("*.kept-*")
    assert kept.name in told
    assert kept.read_bytes() == file.read_bytes()
    assert after.killed().bodies("q") == [b"before", b"after"]


def test_an_unknown_record_costs_the_rest_of_its_block(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"before")
    broker.journal._batch.parts.append(bytes([99, 1, 2, 3]))
    broker.publish("q", b"lost")
    broker.journal.commit()
    broker.publish("q", b"after")
    broker.journal.commit()

    assert broker.killed().bodies("q") == [b"before", b"after"]
    assert "unknown record 99" in errors(caplog)[0]


def test_a_message_that_cannot_be_understood_is_left_out_kept_and_reported_once(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = start()
    broker.declare("q", deduplication_window=60_000)
    broker.engine.bind_queue(broker.connection, "q", "amq.fanout")
    whole = Batch.meta

    def meta(self: Batch, message: Message, *rest: object) -> bytes:
        return b"\xc1" if message.body == b"odd" else whole(self, message, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "meta", meta)
    broker.publish("q", b"1", b"odd", b"2")
    broker.journal.commit()
    [file] = broker.files()

    after = broker.killed()

    assert after.bodies("q") == [b"1", b"2"]
    [told] = errors(caplog)
    assert "1 messages cannot be understood, the first in queue 'q' (not a packed table" in told
    [kept] = after.path.glob("*.kept-*")
    assert kept.name in told
    assert kept.read_bytes() == file.read_bytes()
    assert after.journal.statistics().live_messages == 2
    caplog.clear()
    again = after.killed()
    assert again.bodies("q") == [b"1", b"2"]
    assert errors(caplog) == []
    again.take("q", 2)
    again.compact()
    assert again.journal.statistics().files == 1


def test_values_of_types_that_were_once_taken_come_back_as_they_are(start: Start) -> None:
    broker = start()
    broker.declare("q", message_groups=True)
    broker.publish("q", b"1", b"2", x_group_id=ExtType(5, b"x"))
    broker.publish("q", b"3", x_group_id=ExtType(1, b"no decimal"))
    broker.engine.bind_queue(broker.connection, "q", "amq.headers", "", {"a": ExtType(9, b"x")})
    broker.journal.commit()

    again = broker.killed().killed()

    assert again.bodies("q") == [b"1", b"3", b"2"]
    assert len(again.engine.exchanges["amq.headers"].bindings) == 1


@pytest.mark.parametrize("salt", ["kept", "torn"])
def test_damage_to_the_header_of_the_only_file_costs_no_message(
    start: Start, caplog: pytest.LogCaptureFixture, salt: str
) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1", b"2")
    broker.journal.commit()
    if salt == "torn":  # written anew at any start with a good header
        (broker.path / "salt").write_bytes(b"1234")
        broker = broker.killed()
        for file in broker.files()[1:]:
            file.unlink()
    file = broker.files()[0]
    data = file.read_bytes()
    file.write_bytes(bytes(HEADER_SIZE) + data[HEADER_SIZE:])

    after = broker.killed()

    assert after.bodies("q") == [b"1", b"2"]
    assert "0000000001.log is damaged (bytes 0 to 36)" in errors(caplog)[0]
    caplog.clear()
    assert after.killed().bodies("q") == [b"1", b"2"]
    assert errors(caplog) == []
