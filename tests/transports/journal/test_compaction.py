"""Old files go, and what lives in them stays."""

from __future__ import annotations

from collections.abc import Callable

from tests.transports.journal.stored_broker import StoredBroker

Start = Callable[..., StoredBroker]
FILE = 16 * 1024
BODY = b"x" * 200


def size(broker: StoredBroker) -> int:
    return sum(path.stat().st_size for path in broker.files())


def test_a_queue_that_is_worked_off_leaves_one_small_file(start: Start) -> None:
    broker = start(segment_bytes=FILE)
    broker.declare("q")
    for _ in range(100):
        broker.publish("q", *[BODY] * 20)
        broker.journal.commit()
        broker.take("q", 20)
        broker.journal.commit()
        broker.journal.compact_step()

    broker.compact()

    assert size(broker) <= FILE + 10_000
    assert broker.journal.statistics().copied_bytes == 0  # nothing was alive when a file was done
    assert broker.journal.statistics().live_messages == 0


def test_messages_that_stay_are_copied_and_the_files_stay_bounded(start: Start) -> None:
    broker = start(segment_bytes=FILE)
    broker.declare("stays", max_priority=3)
    broker.declare("flows")
    stays = [b"%d" % number + BODY for number in range(100)]
    for number, body in enumerate(stays):
        broker.publish("stays", body, priority=number % 3)
    broker.publish("stays", b"later", x_delay=3_600_000)
    broker.get("stays")
    expected = broker.snapshot()["queues"]["stays"]
    largest = 0
    for _ in range(300):
        broker.publish("flows", *[BODY] * 10)
        broker.journal.commit()
        broker.take("flows", 10)
        broker.journal.commit()
        broker.journal.compact_step(budget=1)
        broker.settle()
        statistics = broker.journal.statistics()
        largest = max(largest, statistics.bytes - 3 * statistics.live_bytes)
    assert statistics.copied_bytes > 10 * 100 * len(BODY)
    assert largest <= 3 * FILE

    after = broker.killed()

    assert after.snapshot()["queues"]["stays"] == expected
    assert size(after) <= 3 * (100 * 400) + 2 * FILE
    assert len(after.bodies("stays")) == 100


def test_a_deleted_queue_gives_its_room_back(start: Start) -> None:
    broker = start(segment_bytes=FILE)
    broker.declare("large")
    broker.declare("small")
    broker.publish("small", b"1")
    for _ in range(50):
        broker.publish("large", *[BODY] * 20)
        broker.journal.commit()
    assert size(broker) > 10 * FILE
    broker.engine.delete_queue(broker.connection, "large")
    broker.journal.commit()

    broker.compact()

    assert size(broker) <= 2 * FILE
    assert broker.killed().bodies("small") == [b"1"]


def test_a_step_copies_no_more_than_its_budget(start: Start) -> None:
    broker = start(segment_bytes=FILE)
    broker.declare("stays")
    broker.declare("goes")
    for _ in range(20):
        broker.publish("stays", *[BODY] * 5)
        broker.publish("goes", *[BODY] * 50)
        broker.journal.commit()
    broker.engine.purge_queue(broker.connection, "goes")
    broker.journal.commit()
    broker.journal.compact_step(budget=1)  # accounts for what was written until now
    steps = 0
    while True:
        before = broker.journal.statistics().copied_bytes
        more = broker.journal.compact_step(budget=1000)
        assert broker.journal.statistics().copied_bytes - before <= 2 * 3000  # twice what the step before wrote
        steps += 1
        if not more:
            break
    assert steps > 5
    assert broker.killed().bodies("stays") == [BODY] * 100


def test_declarations_larger_than_a_file_do_not_begin_a_file_at_each_commit(start: Start) -> None:
    broker = start(segment_bytes=4096)
    for number in range(300):
        broker.declare(f"a queue with quite a long name {number}")
    broker.journal.commit()
    for _ in range(50):
        broker.publish("a queue with quite a long name 1", b"1")
        broker.journal.commit()
        broker.journal.compact_step()

    assert broker.journal.statistics().files <= 3
    assert len(broker.killed().engine.queues) == 300
