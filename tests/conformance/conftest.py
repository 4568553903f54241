"""Which brokers the scenarios run on, and which scenario on which broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest

from tests.conformance.driver import Driver
from transports import CAPABILITIES, VirtualClock, reset_broker
from transports.broker import BrokerThread

IN_PROCESS = ("liap-memory", "liap-priority")
OURS = (*IN_PROCESS, "liap-broker")
BROKERS = ("amqp", *OURS)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*features): run only on brokers that declare these features supported")
    config.addinivalue_line("markers", "lacks(*features): run only on brokers that declare these features missing")


def on_broker(broker: str, *more: Any) -> Any:
    """Return the parameters of a test on one broker."""
    return pytest.param(broker, *more, marks=[pytest.mark.rabbitmq] if broker == "amqp" else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen_by_hand = any("driver" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "driver" not in metafunc.fixturenames or chosen_by_hand:
        return
    needed = {feature for mark in metafunc.definition.iter_markers("requires") for feature in mark.args}
    missing = {feature for mark in metafunc.definition.iter_markers("lacks") for feature in mark.args}
    brokers = [
        on_broker(broker)
        for broker in BROKERS
        if all(getattr(CAPABILITIES[broker], feature).supported for feature in needed)
        and not any(getattr(CAPABILITIES[broker], feature).supported for feature in missing)
    ]
    if not brokers:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no broker has {needed} and lacks {missing}")
    metafunc.parametrize("driver", brokers, indirect=True)


@pytest.fixture(scope="session")
def served_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerThread]:
    """A broker behind a socket, in virtual time; each scenario has a virtual host of its own."""
    with BrokerThread(str(tmp_path_factory.mktemp("broker") / "b.sock"), clock=VirtualClock()) as served:
        yield served


@pytest.fixture
def open_driver(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Driver]]:
    """Give a function that opens a driver on an empty broker (RabbitMQ: on names of its own); all are closed after."""
    with ExitStack() as opened:

        def open_driver(broker: str) -> Driver:
            if broker == "amqp":
                driver = Driver(broker, request.getfixturevalue("rabbitmq_url"), None)
            elif broker == "liap-broker":
                served: BrokerThread = request.getfixturevalue("served_broker")
                url = f"{broker}://{served.address}"
                clock = served.call(lambda server: server.clock)
                assert isinstance(clock, VirtualClock)
                driver = Driver(broker, url, clock, vhost=uuid4().hex, settle=served.settle)
            else:
                url = f"{broker}:///conformance"
                clock = VirtualClock()
                reset_broker(url, clock=clock)
                driver = Driver(broker, url, clock)
            opened.callback(driver.close)
            return driver

        yield open_driver


@pytest.fixture
def driver(request: pytest.FixtureRequest, open_driver: Callable[[str], Driver]) -> Driver:
    """A driver on an empty broker, each of those that a scenario runs on in turn."""
    return open_driver(request.param)


@pytest.fixture
def dead_letters(driver: Driver) -> Callable[..., Any]:
    """Declare a dead-letter exchange with one queue and return that queue and the arguments that point to it."""

    def declare(label: str = "dead") -> Any:
        exchange = driver.exchange(f"{label}-x", "fanout")
        return driver.bound_queue(label, exchange), {"x-dead-letter-exchange": exchange.name}

    return declare
