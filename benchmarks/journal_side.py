"""What the journal of a served broker costs, in one thread: writing, reading back, and what it takes on the disk."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.measure import Figure, interleaved
from transports.broker.journal import FileJournal
from transports.engine import Broker, Channel, Sink
from transports.wire.carried import CarriedMessage
from transports.wire.content import pack_content

__all__ = ["rows"]

BODY = b"x" * 200
CONTENT = pack_content(
    {"delivery_mode": 2, "content_type": "application/json", "correlation_id": "0" * 36, "priority": 0},
    {"id": "0" * 36, "task": "game.tasks.some_task", "lang": "py", "retries": 0, "root_id": "0" * 36},
)
WAKE_UP = 100  # messages between two commits


def message() -> CarriedMessage:
    return CarriedMessage(BODY, CONTENT, "", "q", priority=0)


def _broker(journal: FileJournal | None) -> tuple[Broker, Channel]:
    if journal is None:
        broker = Broker()
    else:
        brokers = journal.recover(lambda vhost: Broker(vhost, journal=journal))
        broker = brokers.get("/") or Broker(journal=journal)
    connection = broker.connect()
    broker.declare_queue(connection, "q", durable=True)
    return broker, broker.open_channel(connection, Sink())


def cycle_seconds(number: int, *, journalled: bool) -> float:
    """Return seconds of the processor a message for put+get+ack, with a commit for each ``WAKE_UP`` messages."""
    with tempfile.TemporaryDirectory() as directory:
        journal = FileJournal(directory) if journalled else None
        broker, channel = _broker(journal)
        gc.collect()
        began = process_time()
        for _ in range(number // WAKE_UP):
            for _ in range(WAKE_UP):
                broker.publish(message())
            if journal is not None:
                journal.commit()
            for _ in range(WAKE_UP):
                got = broker.get(channel, "q")
                if got is not None:
                    broker.ack(channel, got.delivery_tag)
            if journal is not None:
                journal.commit()
                journal.compact_step()
        took = (process_time() - began) / number
        if journal is not None:
            journal.close()
    return took


def _filled(directory: str, number: int) -> tuple[FileJournal, Broker]:
    journal = FileJournal(directory)
    broker, _ = _broker(journal)
    for index in range(number):
        broker.publish(message())
        if index % WAKE_UP == 0:
            journal.commit()
    journal.commit()
    return journal, broker


def recovery_and_size(number: int) -> tuple[float, float]:
    """Return messages a second that come back, and bytes a message on the disk beside its body and content."""
    with tempfile.TemporaryDirectory() as directory:
        journal, _ = _filled(directory, number)
        journal.close()
        size = sum(path.stat().st_size for path in Path(directory).iterdir()) / number
        gc.collect()
        began = perf_counter()
        journal = FileJournal(directory)
        journal.recover(lambda vhost: Broker(vhost, journal=journal))
        took = perf_counter() - began
        journal.close()
    return number / took, size - len(BODY) - len(CONTENT)


def memory_bytes(number: int) -> float:
    """Return bytes that one waiting message takes in the journal (its name and its place in the table)."""

    def fill(*, journalled: bool) -> float:
        with tempfile.TemporaryDirectory() as directory:
            journal = FileJournal(directory) if journalled else None
            broker, _ = _broker(journal)
            gc.collect()
            tracemalloc.start()
            for index in range(number):
                broker.publish(message())
                if journal is not None and index % WAKE_UP == 0:
                    journal.commit()
            if journal is not None:
                journal.commit()
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            if journal is not None:
                journal.close()
        return taken / number

    return fill(journalled=True) - fill(journalled=False)


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure the journal."""
    number = max(1000, int(100_000 * scale))
    taken = interleaved(
        repeat,
        {
            "with": lambda: cycle_seconds(number, journalled=True) * 1e6,
            "without": lambda: cycle_seconds(number, journalled=False) * 1e6,
        },
    )
    cost = taken["with"] - taken["without"]
    recovered, size = recovery_and_size(number)
    memory = memory_bytes(max(1000, number // 4))
    return [
        Figure(
            "entering and leaving a queue, added by the journal", f"{cost:.1f} µs a message", "at most 5 µs", cost <= 5
        ),
        Figure("recovery", f"{recovered:,.0f} messages/s"),
        Figure("on the disk beside body and headers", f"{size:.0f} bytes a message"),
        Figure("memory of the journal", f"{memory:.0f} bytes a message", "at most 150", memory <= 150),
    ]
