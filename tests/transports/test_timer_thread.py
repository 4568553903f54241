"""The broker's only thread: there when something is due, gone when nothing is, and hard to kill."""

from __future__ import annotations

import threading

import pytest

from tests.transports.conftest import Connect
from tests.transports.in_process_client import DEADLINE, declare, publish
from transports import VirtualClock, discard_broker, get_broker, reset_broker
from transports import shared as shared_module
from transports.shared import SharedBroker


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "TIMER_LINGER", 0.01)


def timer_of(broker: SharedBroker) -> threading.Thread:
    with broker.lock:
        assert broker._timer is not None
        return broker._timer


def test_nothing_due_no_thread(connect: Connect, broker: SharedBroker) -> None:
    channel = connect().channel()
    declare(channel, "q")
    publish(channel, "q")

    assert broker._timer is None


def test_it_ends_when_idle_and_comes_back(connect: Connect, broker: SharedBroker) -> None:
    channel = connect().channel()
    declare(channel, "q")

    for round_number in (1, 2):
        publish(channel, "q", properties={"expiration": "20"})
        timer = timer_of(broker)
        timer.join(DEADLINE)
        assert not timer.is_alive()
        assert broker._timer is None
        assert channel.queue_stats("q")["q"]["expired"] == round_number


def test_it_stays_while_something_is_due(connect: Connect, broker: SharedBroker) -> None:
    channel = connect().channel()
    declare(channel, "q")
    publish(channel, "q", properties={"expiration": "3600000"})
    first = timer_of(broker)
    publish(channel, "q", properties={"expiration": "1000"})
    publish(channel, "q", properties={"expiration": "7200000"})

    assert timer_of(broker) is first
    assert first.daemon


def test_it_survives_its_own_failure(connect: Connect, broker: SharedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.exc_type))
    channel = connect().channel()
    declare(channel, "q")
    run_due = broker.engine.run_due

    def fail_once() -> None:
        monkeypatch.setattr(broker.engine, "run_due", run_due)
        raise RuntimeError("a defect of the engine")

    monkeypatch.setattr(broker.engine, "run_due", fail_once)
    with broker.lock:
        publish(channel, "q", properties={"expiration": "10"})
        timer = timer_of(broker)
    timer.join(DEADLINE)
    assert failed == [RuntimeError]

    publish(channel, "q", properties={"expiration": "10"})
    timer = timer_of(broker)
    timer.join(DEADLINE)

    assert channel.queue_stats("q")["q"]["expired"] == 2


def test_a_virtual_clock_needs_no_thread() -> None:
    clock = VirtualClock()
    broker = reset_broker("liap-memory:///timer-of-a-virtual-clock", clock=clock)
    with broker.lock:
        connection = broker.engine.connect()
        broker.engine.declare_queue(connection, "q", arguments={"x-expires": 1000})

    assert broker._timer is None
    clock.advance(1)
    assert broker.engine.queues == {}


def test_a_discarded_broker_has_no_timer_and_the_next_one_is_empty(connect: Connect, broker: SharedBroker) -> None:
    channel = connect().channel()
    declare(channel, "q")
    publish(channel, "q", properties={"expiration": "3600000"})
    timer = timer_of(broker)
    url = f"liap-memory:///{broker.engine.vhost}"
    assert get_broker(url) is broker

    discard_broker(url)
    discard_broker(url)

    timer.join(DEADLINE)
    assert not timer.is_alive()
    publish(channel, "q", properties={"expiration": "10"})
    assert broker._timer is None
    assert channel.queue_stats("q")["q"]["enqueued"] == 2  # who is connected keeps it
    assert get_broker(url).engine.queues == {}
    discard_broker(url)
