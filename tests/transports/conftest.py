"""A fresh in-process broker for each test, and kombu connections that are closed when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kombu import Connection

import transports
from transports.shared import SharedBroker

URL = "liap-memory:///transports-tests"
Connect = Callable[..., Connection]


@pytest.fixture
def broker() -> SharedBroker:
    return transports.reset_broker(URL)


@pytest.fixture
def connect(broker: SharedBroker) -> Iterator[Connect]:
    """Open connections to the test's broker; options are transport options."""
    opened: list[Connection] = []

    def open_one(**options: object) -> Connection:
        connection = Connection(URL, transport_options=options)
        connection.connect()
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()
