"""A broker that is not there, does not answer, or comes back: what its clients are told and do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.mixins import ConsumerMixin

from tests.transports.in_process_client import declare, in_thread, publish
from tests.transports.served.conftest import Connect
from tests.transports.served.processes import BrokerProcess
from tests.transports.served.raw import eventually
from transports import BrokerUnavailableError
from transports.broker import BrokerThread
from transports.served.stream import ConnectionLost


def unavailable(url: str) -> str:
    with pytest.raises(BrokerUnavailableError) as error:
        Connection(url, connect_timeout=0.3).transport.establish_connection()  # once; connect() would try again
    return str(error.value)


def test_without_a_broker_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    assert f"start one: python -m transports.broker --socket {path}" in unavailable(f"liap-broker://{path}")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
        told = unavailable(f"liap-broker://:secret@{where}")
    assert f"start one: LIAP_BROKER_TOKEN=... python -m transports.broker --tcp {where}" in told
    assert "secret" not in told


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "other.sock"))
        listening.listen()
        listening.settimeout(60)
        yield listening


def test_who_accepts_and_does_not_greet_is_no_broker(listener: socket.socket) -> None:
    assert "it did not greet within 0.3 s" in unavailable(f"liap-broker://{listener.getsockname()}")


def test_a_broker_that_confirms_nothing_is_given_up_after_the_time_that_it_is_said(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(call_timeout=30.0, block_timeout=10.0)
    channel = connection.channel()
    waits: list[float | None] = []

    def nothing_comes(arrived: object, timeout: float | None) -> bool:
        waits.append(timeout)
        return False

    monkeypatch.setattr(connection.connection, "wait_until", nothing_comes)

    with pytest.raises(ConnectionLost, match="the broker did not confirm a message within 40 s"):
        publish(channel, "q")
    assert waits == [40.0]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x02\x91\x0a"])
def test_who_accepts_and_says_something_else_is_no_broker(listener: socket.socket, answer: bytes) -> None:
    def accept() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            client.sendall(answer)

    accepting = in_thread(accept)
    assert "no broker that would have us" in unavailable(f"liap-broker://{listener.getsockname()}")
    accepting()


def test_a_broker_that_does_not_answer_is_given_up(connect: Connect, served: BrokerThread) -> None:
    connection = connect(call_timeout=0.2)
    channel, established = connection.channel(), connection.connection
    stopped, go_on = threading.Event(), threading.Event()
    served._loop.call_soon_threadsafe(lambda: (stopped.set(), go_on.wait(60)))
    stopped.wait(60)
    try:
        with pytest.raises(ConnectionLost, match=r"the broker did not answer declare_queue within 0\.2 s"):
            channel.queue_declare("q")
        assert not established.connected
    finally:
        go_on.set()


def test_a_broker_that_ends_tells_all_who_wait_for_it_why(tmp_path: Path) -> None:
    with BrokerThread(str(tmp_path / "b.sock")) as broker:
        connection = Connection(f"liap-broker://{broker.address}")
        channel = connection.channel()
        declare(channel, "full", max_length=0, overflow="block")
        draining = in_thread(lambda: connection.drain_events())
        publishing = in_thread(lambda: publish(channel, "full", timeout=60))
        eventually(lambda: broker.call(lambda server: len(server.waiting_publishers)), 1)
    for waiting in (draining, publishing):
        with pytest.raises(ConnectionLost, match="the broker ended the connection: the broker stops"):
            waiting()
    connection.close()


class Jobs(ConsumerMixin):
    """kombu's own loop: it connects again, declares again and consumes on."""

    def __init__(self, url: str, queue: Queue) -> None:
        self.connection = Connection(url)
        self.queue = queue
        self.seen: list[Any] = []

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        return [consumer([self.queue], callbacks=[self.take], prefetch_count=5)]

    def take(self, body: Any, message: Any) -> None:
        self.seen.append(body)
        message.ack()

    def establish_connection(self) -> Any:
        return self.connection.clone().ensure_connection(interval_start=0.01, interval_step=0.0)


def test_clients_connect_declare_and_consume_again_when_their_broker_is_back(tmp_path: Path) -> None:
    queue = Queue("jobs", durable=False)
    with BrokerProcess(str(tmp_path / "b.sock")) as broker:
        url = f"liap-broker://{broker.path}"
        jobs = Jobs(url, queue)
        consuming = in_thread(jobs.run)
        with Connection(url) as connection:
            producer = connection.Producer()
            policy = {"max_retries": 1_000, "interval_start": 0.01, "interval_step": 0.0}

            def say(word: str) -> None:
                producer.publish(word, routing_key="jobs", declare=[queue], retry=True, retry_policy=policy)

            say("before")
            eventually(lambda: jobs.seen, ["before"])
            broker.again()
            say("after")
            eventually(lambda: jobs.seen, ["before", "after"])
            jobs.should_stop = True
            say("the end")  # wakes its loop
            consuming()
