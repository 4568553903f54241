"""Messages as large as a frame, and larger; connections that come and go; nothing is left open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

from tests.transports.in_process_client import declare, in_thread, publish
from tests.transports.served.raw import eventually, sessions
from transports import InvalidArgumentError
from transports.broker import BrokerThread

FRAME_MAX = 1024 * 1024


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BrokerThread]:
    with BrokerThread(str(tmp_path / "b.sock"), frame_max=FRAME_MAX) as broker:
        yield broker


def largest(channel: object) -> bytes:
    """Return the largest body that goes to queue ``q`` in one frame."""
    low, high = 0, FRAME_MAX
    while high - low > 1:
        middle = (low + high) // 2
        try:
            publish(channel, "nowhere", bytes(middle))
            low = middle
        except InvalidArgumentError:
            high = middle
    return bytes(low)


def test_the_largest_message_goes_every_way_that_a_message_can_go(served: BrokerThread) -> None:
    """As a dead letter it is larger than a frame of a client may be, and is delivered all the same."""
    with Connection(f"liap-broker://{served.address}") as connection:
        channel = connection.channel()
        declare(channel, "nowhere", max_length=0)
        declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key="dead")
        declare(channel, "dead")
        body = largest(channel)
        assert len(body) > FRAME_MAX - 200
        publish(channel, "q", body[: len(body) - 10])
        channel.basic_get("q").requeue()
        channel.basic_get("q").reject()
        assert len(channel.peek("dead", 1)[0].body) == len(body) - 10
        got = []
        channel.basic_consume("dead", callback=got.append)
        while not got:
            connection.drain_events(timeout=60)
        assert got[0].headers["x-death"][0]["reason"] == "rejected"
        got[0].ack()


def test_a_message_larger_than_a_frame_is_refused_before_it_is_sent(served: BrokerThread) -> None:
    with Connection(f"liap-broker://{served.address}") as connection:
        channel = connection.channel()
        declare(channel, "q")
        with pytest.raises(InvalidArgumentError, match=f"at most {FRAME_MAX} bytes"):
            publish(channel, "q", bytes(FRAME_MAX))
        publish(channel, "q", b"small")
        assert channel.basic_get("q").body == b"small"


def test_large_messages_of_many_threads_do_not_mix(served: BrokerThread) -> None:
    with Connection(f"liap-broker://{served.address}") as connection:
        shared = connection.channel()
        declare(shared, "q")
        bodies = [bytes([65 + number]) * (FRAME_MAX - 1_000) for number in range(4)]
        for sent in [in_thread(lambda body=body: [publish(shared, "q", body) for _ in range(5)]) for body in bodies]:
            sent()
        got: list[bytes] = []
        shared.basic_consume("q", callback=lambda message: (got.append(message.body), message.ack()))
        while len(got) < 20:
            connection.drain_events(timeout=60)
        assert sorted(got) == sorted(bodies * 5)


def test_connections_that_come_and_go_leave_no_file_open(served: BrokerThread) -> None:
    url = f"liap-broker://{served.address}"

    def come_and_go(way: int) -> None:
        connection = Connection(url)
        channel = connection.channel()
        channel.queue_declare(exclusive=True)
        established = connection.connection
        if way == 0:
            connection.close()
        elif way == 1:
            established.collect()
        elif way == 2:  # the broker ends it
            served.call(lambda server: [session.drop("a test") for session in list(server.sessions)])
            with pytest.raises(ConnectionError):
                established.drain_events(timeout=60)
        # else it is dropped
        del connection, channel, established

    come_and_go(0)
    eventually(lambda: sessions(served), 0)
    gc.collect()  # what other tests have left is none of ours
    before = len(os.listdir("/proc/self/fd"))
    for way in range(4):
        come_and_go(way)
        gc.collect()
        eventually(lambda: sessions(served), 0)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert served.call(lambda server: (server.brokers, len(server.writing))) == ({}, 0)
