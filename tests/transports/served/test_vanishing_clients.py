"""A client that is gone, stopped, or does not read: what it held comes back, and the broker's memory stays bounded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transports.in_process_client import declare, publish, ready
from tests.transports.served.conftest import Connect
from tests.transports.served.processes import ClientProcess
from tests.transports.served.raw import RawClient, eventually, sessions
from transports.broker import BrokerThread
from transports.wire.address import TcpAddress
from transports.wire.content import pack_content
from transports.wire.frames import pack_frame
from transports.wire.protocol import CALL, DELIVERY, PUBLISH

CONTENT = pack_content({}, {})

HOLDING = """
import sys
from kombu import Connection
import transports

url, count, heartbeat = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
connection = Connection(url, heartbeat=heartbeat)
channel = connection.channel()
held = []
channel.basic_consume("q", callback=held.append)
while len(held) < count:
    connection.drain_events(timeout=60)
print("holding", flush=True)
while heartbeat:
    try:
        connection.drain_events(timeout=heartbeat / 2)
    except TimeoutError:
        connection.heartbeat_check()
    except ConnectionError:
        print("lost", flush=True)
        break
sys.stdin.read()
"""


def numbers(channel: Any, queue: str = "q") -> tuple[float, float]:
    """Return (ready, unacked)."""
    statistics = channel.queue_stats(queue)[queue]
    return statistics["ready"], statistics["unacked"]


def fill(channel: Any, count: int, body: bytes = b"") -> None:
    with channel.pipeline():
        for number in range(count):
            publish(channel, "q", body or b"%d" % number)


def test_a_killed_client_has_its_thousand_messages_back_in_the_queue(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    fill(channel, 1_000)
    with ClientProcess(HOLDING, f"liap-broker://{served.address}", "1000", "0") as client:
        client.says("holding")
        assert numbers(channel) == (0, 1_000)

        client.send_signal(signal.SIGKILL)
        eventually(lambda: numbers(channel), (1_000, 0))

    assert ready(channel, "q") == [b"%d" % number for number in range(1_000)]
    assert channel.basic_get("q").delivery_info["redelivered"]


FORKING = """
import os, sys
from kombu import Connection
import transports

connection = Connection(sys.argv[1])
channel = connection.channel()
message = channel.basic_get("q")
assert message
if os.fork():
    channel.queue_stats("q")  # the connection is still ours
    print("forked", flush=True)
sys.stdin.read()
"""


def test_a_killed_client_is_gone_while_a_child_lives_that_it_has_forked(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    fill(channel, 1)
    with ClientProcess(FORKING, f"liap-broker://{served.address}") as client:
        client.says("forked")
        assert numbers(channel) == (0, 1)

        client.send_signal(signal.SIGKILL)
        eventually(lambda: numbers(channel), (1, 0))


@pytest.fixture
def on_tcp(tmp_path: Path) -> Iterator[BrokerThread]:
    with BrokerThread(str(tmp_path / "b.sock"), tcp=TcpAddress("127.0.0.1", 0), token="a secret of the test") as broker:
        yield broker


def test_a_stopped_client_with_a_heartbeat_is_dropped_and_learns_of_it(
    on_tcp: BrokerThread, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        RawClient(str(on_tcp.address)).open_channel() as witness,
        ClientProcess(HOLDING, f"liap-broker://:a secret of the test@{on_tcp.tcp}", "3", "0.2") as client,
    ):
        witness.call("declare_queue", "q", False, False, False, False, None)
        witness.send(*[(PUBLISH, 1, 0, False, False, "", "q", None, None, None, 0.0, CONTENT, b"")] * 3)
        client.says("holding")

        client.send_signal(signal.SIGSTOP)
        eventually(lambda: witness.call("queue_stats", "q")["q"]["ready"], 3)
        client.send_signal(signal.SIGCONT)

        client.says("lost")
    assert "nothing was heard of it for" in caplog.text


def test_who_only_stops_sending_is_gone(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    fill(channel, 5)
    with RawClient(str(served.address)).open_channel() as client:
        client.call("consume", "q", "t", False, False, None)
        client.socket.shutdown(1)
        eventually(lambda: numbers(channel), (5, 0))


def test_who_stops_sending_and_does_not_read_is_gone_too(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    fill(channel, 20, b"x" * 100_000)
    served.call(lambda server: setattr(server, "farewell_seconds", 0.1))
    with RawClient(str(served.address)).open_channel() as client:
        client.call("consume", "q", "t", False, False, None)
        assert numbers(channel)[1] > 5
        client.socket.shutdown(1)
        eventually(lambda: numbers(channel), (20, 0))


def test_who_hangs_up_while_it_is_not_read_is_gone(connect: Connect, served: BrokerThread) -> None:
    """Its publishes stand in line for room, so many that the broker reads no more of them, nor the end behind them."""
    channel = connect().channel()
    declare(channel, "q")
    declare(channel, "full", max_length=0, overflow="block")
    fill(channel, 1)
    with RawClient(str(served.address)).open_channel() as client:
        client.call("consume", "q", "t", False, False, None)
        client.send(*[(PUBLISH, 1, 0, False, False, "", "full", None, None, None, 60, CONTENT, b"")] * 1_500)
        eventually(lambda: served.call(lambda server: any(one._reading_paused for one in server.sessions)))
        client.send((PUBLISH, 1, 0, False, False, "", "full", None, None, None, 60, CONTENT, b"not read"))
    eventually(lambda: numbers(channel), (1, 0))
    eventually(lambda: served.call(lambda server: len(server.waiting_publishers)), 0)
    assert numbers(channel, "full") == (0, 0)


def test_who_never_reads_is_sent_little_and_the_rest_is_for_others(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    with RawClient(str(served.address)).open_channel() as client:
        client.call("consume", "q", "t", False, False, None)
        fill(channel, 20_000, b"x" * 1_000)

        waiting = served.call(lambda server: max(one.out_bytes for one in server.sessions))
        assert waiting < 2_500_000
        left, given = numbers(channel)
        assert given < 5_000
        assert channel.basic_get("q", no_ack=True).body == b"x" * 1_000

        got = [client.until(DELIVERY)[4] for _ in range(int(given))]
        assert not any(got)
        eventually(lambda: numbers(channel)[0] < left - 1)  # who begins to read again is sent more


def test_who_asks_and_does_not_read_the_answers_is_read_no_more(connect: Connect, served: BrokerThread) -> None:
    channel = connect().channel()
    declare(channel, "q")
    fill(channel, 10, b"x" * 100_000)
    with RawClient(str(served.address)).open_channel() as client:
        asked = pack_frame((CALL, 1, 1, "peek", ["q", 10]))
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.sendall(asked * 100_000)
        waiting = served.call(lambda server: max(one.out_bytes for one in server.sessions))
        assert waiting < 20_000_000
        publish(channel, "q")
    eventually(lambda: sessions(served), 1)
