"""The client on kombu's event loop, as in a prefork worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
from kombu.asynchronous import Hub

from transports.broker import BrokerThread


def turn_for_ever(loop: Iterator[None]) -> None:
    while True:
        next(loop)


def test_the_loop_hears_that_the_broker_is_gone_when_a_write_has_found_it_out(tmp_path: Path) -> None:
    hub = Hub()
    broker = BrokerThread(str(tmp_path / "b.sock")).start()
    with kombu.Connection(f"liap-broker://{broker.address}") as connection:
        channel = connection.default_channel
        connection.transport.register_with_event_loop(connection.connection, hub)
        loop = hub.create_loop()
        broker.stop()
        with pytest.raises(connection.connection_errors):
            channel.queue_declare("q")

        hub.call_later(30, pytest.fail, "the loop was told nothing")

        with pytest.raises(connection.connection_errors):
            turn_for_ever(loop)
    hub.close()
