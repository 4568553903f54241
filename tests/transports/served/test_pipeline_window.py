"""A pipeline has so much under way that the broker still reads what else its connection has to say."""

from __future__ import annotations

import threading

import pytest

from tests.transports.in_process_client import DEADLINE, declare, in_thread, publish
from tests.transports.served.conftest import Connect


@pytest.mark.parametrize(("count", "size"), [(2_500, 10), (1_000, 100_000)])
def test_acknowledgements_make_room_for_a_pipeline_on_the_same_connection(
    connect: Connect, count: int, size: int
) -> None:
    connection = connect(block_timeout=3)
    publisher, consumer = connection.channel(), connection.channel()
    declare(publisher, "q", max_length=10, overflow="block")
    consumed = 0
    enough = threading.Event()

    def take(message: object) -> None:
        nonlocal consumed
        message.ack()  # type: ignore[attr-defined]  # kombu has no types
        consumed += 1
        if consumed == count:
            enough.set()

    def drain() -> None:
        while not enough.is_set():
            connection.drain_events(timeout=DEADLINE)

    consumer.basic_qos(0, 5, False)
    consumer.basic_consume("q", callback=take)
    drained = in_thread(drain)
    with publisher.pipeline():
        for _ in range(count):
            publish(publisher, "q", b"x" * size)

    drained()
    assert consumed == count
