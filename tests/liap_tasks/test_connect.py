"""What a program opens at its start, so that its first message waits for nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu.connection import Connection

from liap_tasks import BrokerUnavailableError, EmbeddedWorker, LiapApp
from tests.liap_tasks.conftest import DEADLINE

BROKERS = pytest.mark.parametrize("broker", ["in process", "rabbitmq"])


@pytest.fixture
def connected_app(new_app: Callable[..., LiapApp], broker: str, request: pytest.FixtureRequest) -> LiapApp:
    return new_app() if broker == "in process" else new_app(message_queue_url=request.getfixturevalue("rabbitmq_url"))


@BROKERS
def test_the_first_call_connects_no_more(connected_app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = connected_app

    @app.task(shared=False, name="tests.add", ignore_result=False)
    def add(a: int, b: int) -> int:
        return a + b

    with EmbeddedWorker(app):
        app.connect()
        app.connect()  # it is open: nothing happens
        receiving = app.replies._thread
        assert receiving is not None
        connecting: list[threading.Thread] = []
        establish: Any = Connection._establish_connection  # type: ignore[attr-defined]  # not in the stubs

        def noted(connection: Connection) -> Any:
            connecting.append(threading.current_thread())
            return establish(connection)

        monkeypatch.setattr(Connection, "_establish_connection", noted)
        assert add.submit((1, 2)).get(timeout=DEADLINE) == 3
        assert app.replies._thread is receiving
        assert threading.current_thread() not in connecting


@pytest.mark.parametrize("scheme", ["liap-broker", "amqp", "redis"])
def test_a_program_learns_at_its_start_that_the_broker_is_away(new_app: Callable[..., LiapApp], scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = f"127.0.0.1:{port}"
    app = new_app(message_queue_url=f"{scheme}://{address}")
    with pytest.raises(BrokerUnavailableError, match=str(port)):
        app.connect()
    app.conf.task_always_eager = True  # then nobody needs it
    app.connect()
