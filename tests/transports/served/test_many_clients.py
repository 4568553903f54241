"""Two hundred connections at once, forked children, gevent, and kombu's event loop."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from tests.transports.forking import in_child
from tests.transports.in_process_client import declare, drain_all, in_thread, publish, ready
from tests.transports.served.conftest import Connect
from tests.transports.served.processes import ClientProcess
from tests.transports.served.raw import eventually, sessions
from transports.broker import BrokerThread


def test_two_hundred_connections_at_once(served: BrokerThread, connect: Connect) -> None:
    clients, each = 200, 10
    shared = connect().channel()
    declare(shared, "shared")
    at_once = threading.Barrier(clients)

    def work(name: str) -> int:
        with Connection(f"liap-broker://{served.address}") as connection:
            at_once.wait(60)
            channel = connection.channel()
            channel.queue_declare(name, exclusive=True)
            got: list[Any] = []
            channel.basic_consume(name, callback=lambda message: (got.append(message), message.ack()))
            for _ in range(each):
                publish(channel, name)
                publish(channel, "shared")
            while len(got) < each:
                connection.drain_events(timeout=60)
            return len(got)

    assert [client() for client in [in_thread(lambda n=n: work(f"q{n}")) for n in range(clients)]] == [each] * clients
    eventually(lambda: sessions(served), 1)
    statistics = shared.queue_stats()
    assert list(statistics) == ["shared"]
    assert statistics["shared"]["ready"] == clients * each
    assert shared.broker_stats()["clients_served"] == clients + 1


# -- forked children -------------------------------------------------------------------------------------------

forking = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class TestAForkedChild:
    pytestmark = forking

    def test_is_told_that_the_connection_is_its_parent_s(self, connect: Connect) -> None:
        connection = connect()
        channel = connection.channel()
        declare(channel, "q")
        publish(channel, "q")
        message = channel.basic_get("q")
        established = connection.connection
        uses = {
            "publish": lambda: publish(channel, "q"),
            "get": lambda: channel.basic_get("q"),
            "ack": message.ack,
            "drain": lambda: established.drain_events(timeout=0.1),
        }

        def work() -> str:
            told = set()
            for use in uses.values():
                with pytest.raises(ConnectionError) as error:
                    use()
                told.add(str(error.value))
            return "|".join(told)

        told = in_child(work)

        assert told == f"this connection belongs to process {os.getpid()}, which forked this one: open another"
        message.ack()
        assert channel.queue_stats("q")["q"]["acknowledged"] == 1

    def test_is_told_so_at_once_while_a_thread_of_its_parent_is_publishing(self, connect: Connect) -> None:
        channel = connect().channel()

        with channel._publishing:
            told = in_child(lambda: str(publish(channel, "q")))

        assert told.startswith("ConnectionLost: this connection belongs to process")

    def test_sees_none_of_its_parent_s_deliveries(self, connect: Connect) -> None:
        connection = connect()
        channel = connection.channel()
        declare(channel, "q")
        got: list[bytes] = []
        channel.basic_consume("q", callback=lambda m: got.append(m.body))
        publish(channel, "q", b"the parent's")  # read with the confirmation, and not drained
        established = connection.connection

        def work() -> str:
            with pytest.raises(ConnectionError):
                established.drain_events(timeout=0.1)
            established.collect()
            return f"{got}"

        assert in_child(work) == "[]"
        drain_all(connection)
        assert got == [b"the parent's"]

    def test_may_be_made_in_the_middle_of_work_and_connects_by_itself(
        self, connect: Connect, served: BrokerThread
    ) -> None:
        connection = connect()
        channel = connection.channel()
        declare(channel, "q")
        declare(channel, "child")
        stop = threading.Event()
        established = connection.connection

        def work_on() -> int:
            count = 0
            while not stop.is_set():
                publish(channel, "q")
                count += 1
            return count

        def work() -> str:
            established.collect()
            with Connection(f"liap-broker://{served.address}") as own:
                publish(own.channel(), "child", b"hello")
            return "done"

        working = [in_thread(work_on) for _ in range(3)]
        assert [in_child(work) for _ in range(5)] == ["done"] * 5
        stop.set()

        published = sum(worker() for worker in working)
        assert channel.queue_stats("q")["q"]["ready"] == published
        assert ready(channel, "child") == [b"hello"] * 5


# -- event loops -----------------------------------------------------------------------------------------------

ON_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from kombu import Connection
import transports

connection = Connection(sys.argv[1])
channel, got = connection.channel(), []
channel.queue_declare("q", auto_delete=False)

def consume():
    def take(message):
        got.append(message.body)
        message.ack()
    channel.basic_qos(0, 5, False)
    channel.basic_consume("q", callback=take)
    while len(got) < 200:
        connection.drain_events(timeout=60)

def publish(own):
    for _ in range(25):
        own.basic_publish(own.prepare_message("hello"), "", "q")

consumer = gevent.spawn(consume)
gevent.joinall([gevent.spawn(publish, connection.channel()) for _ in range(4)], raise_error=True)
with Connection(sys.argv[1]) as other:
    gevent.joinall([gevent.spawn(publish, other.channel()) for _ in range(4)], raise_error=True)
consumer.get()
connection.close()
print(len(got), flush=True)
"""


def test_greenlets_share_a_connection(served: BrokerThread, connect: Connect) -> None:
    with ClientProcess(ON_GEVENT, f"liap-broker://{served.address}") as client:
        client.says("200")
    assert connect().channel().queue_stats("q")["q"]["acknowledged"] == 200


@pytest.fixture
def hub() -> Any:
    loop = Hub()
    yield loop
    loop.close()


def run_until(hub: Hub, fact: Any) -> None:
    def turns() -> bool:
        hub.run_once()
        return bool(fact())

    eventually(turns)


def test_kombu_s_loop_hands_out_what_comes(connect: Connect, hub: Hub) -> None:
    connection, other = connect(), connect().channel()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    connection.register_with_event_loop(hub)
    channel.basic_qos(0, 10, False)
    channel.basic_consume("q", callback=lambda m: (got.append(m.body), m.ack()))

    with other.pipeline():
        for number in range(500):
            publish(other, "q", b"%d" % number)

    run_until(hub, lambda: len(got) == 500)
    assert got == [b"%d" % number for number in range(500)]


def test_kombu_s_loop_hands_out_what_another_wait_has_read(connect: Connect, hub: Hub) -> None:
    """The socket is not readable any more: the delivery was read with the confirmation of a publish."""
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    connection.register_with_event_loop(hub)
    channel.basic_consume("q", callback=lambda m: got.append(m.body))

    publish(channel, "q", b"1")
    run_until(hub, lambda: got == [b"1"])
    in_thread(lambda: publish(channel, "q", b"2"))()
    run_until(hub, lambda: got == [b"1", b"2"])


def test_what_another_thread_has_read_wakes_the_sleeping_loop(connect: Connect, hub: Hub) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    connection.register_with_event_loop(hub)
    channel.basic_consume("q", callback=lambda message: None)
    readable: list[bool] = []

    def publish_and_look() -> None:
        publish(channel, "q")
        eventually(lambda: bool(hub.poller.poll(0)))
        readable.append(True)

    in_thread(publish_and_look)()
    assert readable == [True]


def test_kombu_s_loop_goes_on_behind_a_message_whose_callback_fails(connect: Connect, hub: Hub) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []

    def take(message: Any) -> None:
        got.append(message.body)
        if message.body == b"0":
            raise LookupError

    with channel.pipeline():
        for number in range(200):
            publish(channel, "q", b"%d" % number)
    connection.register_with_event_loop(hub)
    channel.basic_consume("q", callback=take)
    with pytest.raises(LookupError):
        run_until(hub, lambda: False)
    run_until(hub, lambda: len(got) == 200)
