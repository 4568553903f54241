"""A broker behind a socket in a thread of this process, and kombu connections that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection

from transports.broker import BrokerThread

Connect = Callable[..., Connection]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BrokerThread]:
    with BrokerThread(str(tmp_path / "b.sock")) as broker:
        yield broker


@pytest.fixture
def connect(served: BrokerThread) -> Iterator[Connect]:
    """Open connections to the test's broker; options are transport options."""
    opened: list[Connection] = []

    def open_one(**options: object) -> Connection:
        connection = Connection(f"liap-broker://{served.address}", transport_options=options)
        opened.append(connection)
        connection.connect()
        return connection

    yield open_one
    for connection in opened:
        connection.close()
