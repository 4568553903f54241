"""Answers to calls of a process whose broker was away for a while."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from liap_tasks import EmbeddedWorker, LiapApp
from tests.liap_tasks.conftest import DEADLINE
from transports.broker import BrokerThread

RECEIVER = "liap-replies"


def test_answers_arrive_again_when_the_broker_has_come_back(
    tmp_path: Path, new_app: Callable[..., LiapApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "b.sock")
    app = new_app(message_queue_url=f"liap-broker://{path}")

    @app.task(shared=False, name="tests.double", ignore_result=False)
    def double(number: int) -> int:
        return 2 * number

    connect, failed = Connection.ensure_connection, threading.Event()

    def note_failure(connection: Connection, *args: Any, **options: Any) -> Any:
        try:
            return connect(connection, *args, **options)
        except Exception:
            if threading.current_thread().name == RECEIVER:
                failed.set()
            raise

    monkeypatch.setattr(Connection, "ensure_connection", note_failure)
    with BrokerThread(path), EmbeddedWorker(app):
        assert asyncio.run(double.call(1, timeout=DEADLINE)) == 2
    assert failed.wait(DEADLINE)
    with BrokerThread(path), EmbeddedWorker(app):
        assert asyncio.run(double.call(2, timeout=DEADLINE)) == 4
        receiver = next(thread for thread in threading.enumerate() if thread.name == RECEIVER)
        app.replies.close()
        receiver.join(DEADLINE)
