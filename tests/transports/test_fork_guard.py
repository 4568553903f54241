"""A forked child is told that the in-process broker is not its own; the parent goes on."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection

import transports
from tests.transports.conftest import URL, Connect
from tests.transports.forking import in_child
from tests.transports.in_process_client import declare, drain_all, publish, ready
from transports import BrokerUnavailableError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python 3.12 and later warn of forking a process with threads, which is what is tried here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def uses(channel: Any, connection: Connection, message: Any) -> dict[str, Callable[[], Any]]:
    return {
        "publish": lambda: publish(channel, "q"),
        "get": lambda: channel.basic_get("q"),
        "ack": lambda: message.ack(),
        "consume": lambda: channel.basic_consume("q", callback=print),
        "declare": lambda: channel.queue_declare("other"),
        "statistics": lambda: channel.queue_stats(),
        "drain": lambda: connection.drain_events(timeout=0.1),
        "new channel": lambda: connection.channel(),
        "new connection": lambda: Connection(URL).connect(),
        "get_broker": lambda: transports.get_broker(URL),
    }


@pytest.mark.parametrize("use", list(uses(None, Connection(URL), None)))
def test_every_use_in_a_forked_child_is_refused_with_the_way_out(connect: Connect, use: str) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    publish(channel, "q")
    publish(channel, "q")
    message = channel.basic_get("q")

    def work() -> str:
        uses(channel, connection, message)[use]()
        return "done"

    told = in_child(work)

    assert told.startswith("BrokerUnavailableError: ")
    assert f"process {os.getpid()}" in told
    assert "--pool threads" in told
    assert "MESSAGE_QUEUE_URL" in told


def test_deliveries_of_the_parent_are_not_handed_out_in_the_child(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", callback=lambda m: got.append(m.body))
    publish(channel, "q", b"the parent's")

    def work() -> str:
        with pytest.raises(BrokerUnavailableError):
            connection.drain_events(timeout=0.1)
        return f"{got}"

    assert in_child(work) == "[]"
    drain_all(connection)
    assert got == [b"the parent's"]


def test_closing_in_the_child_is_silent_and_changes_nothing_for_the_parent(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    channel.queue_declare("mine", exclusive=True)
    got: list[Any] = []
    channel.basic_consume("q", callback=got.append)
    publish(channel, "q", b"1")

    def work() -> str:
        channel.close()
        connection.close()
        return "closed"

    assert in_child(work) == "closed"
    drain_all(connection)
    got[0].ack()
    publish(channel, "q", b"2")
    drain_all(connection)
    assert [message.body for message in got] == [b"1", b"2"]
    assert channel.queue_stats("mine")["mine"]["ready"] == 0


def test_a_child_made_while_another_thread_works_does_not_hang(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    shared, inbox = connection.connection.shared, connection.connection.inbox

    def work() -> str:
        with pytest.raises(BrokerUnavailableError):
            publish(channel, "q")
        connection.close()
        return "done"

    answers: list[str] = []
    fork = threading.Thread(target=lambda: answers.append(in_child(work)))
    with shared.lock, inbox._arrived, inbox._taking:
        fork.start()
        fork.join()

    assert answers == ["done"]
    publish(channel, "q", b"the parent goes on")
    assert ready(channel, "q") == [b"the parent goes on"]


def test_timers_of_the_parent_go_on_after_a_fork(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "q")
    got: list[bytes] = []
    channel.basic_consume("q", callback=lambda m: got.append(m.body))
    publish(channel, "q", b"delayed", headers={"x-delay": 100})

    assert in_child(lambda: "forked") == "forked"
    connection.drain_events(timeout=20)

    assert got == [b"delayed"]


def publish_for_multiprocessing(channel: Any, answers: Any) -> None:
    try:
        publish(channel, "q")
    except BrokerUnavailableError as error:
        answers.put(f"{os.getppid()}: {error}")
    else:
        answers.put("published")


@pytest.mark.skipif(sys.platform == "darwin", reason="forking is not safe on macOS")
def test_a_child_of_multiprocessing_is_refused_too(connect: Connect) -> None:
    channel = connect().channel()
    declare(channel, "q")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    child = context.Process(target=publish_for_multiprocessing, args=(channel, answers))
    child.start()
    child.join(20)

    assert child.exitcode == 0
    assert answers.get().startswith(f"{os.getpid()}: the in-process broker")
    assert ready(channel, "q") == []


def test_a_child_may_have_a_broker_of_its_own(connect: Connect) -> None:
    connect()

    def work() -> str:
        channel = Connection("liap-memory:///made-in-the-child").channel()
        declare(channel, "q")
        publish(channel, "q", b"its own")
        return str(ready(channel, "q"))

    assert in_child(work) == "[b'its own']"
