"""The few words that the tests of the in-process adapter use again and again, on kombu's channel interface."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["DEADLINE", "declare", "drain_all", "in_thread", "publish", "ready", "wait_until"]

DEADLINE = 20.0  # seconds until a wait counts as failed; far more than anything here takes


def declare(channel: Any, name: str, **arguments: Any) -> None:
    """Declare a queue that stays; ``max_length=3`` means ``x-max-length: 3``."""
    table = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    channel.queue_declare(name, auto_delete=False, arguments=table)


def publish(channel: Any, queue: str, body: bytes = b"", *, exchange: str = "", **options: Any) -> None:
    """Publish, by default straight to a queue. options: those of prepare_message, and timeout."""
    timeout = options.pop("timeout", None)
    channel.basic_publish(channel.prepare_message(body, **options), exchange, queue, timeout=timeout)


def drain_all(connection: Any) -> None:
    """Hand out everything that has arrived."""
    try:
        while True:
            connection.drain_events(timeout=0)
    except TimeoutError:
        pass


def ready(channel: Any, queue: str) -> list[bytes]:
    """Return the ready bodies in the order in which they would leave."""
    return [message.body for message in channel.peek(queue, 10_000)]


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``work`` on a thread; the returned function waits for it and returns or raises what it did."""
    outcome: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
            error.append(raised)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the thread is still at work"
        if error:
            raise error[0]
        return outcome[0]

    return result


def wait_until(condition: threading.Condition, fact: Callable[[], bool]) -> None:
    """Wait for a fact that changes under a lock that the condition shares."""
    with condition:
        assert condition.wait_for(fact, DEADLINE), "it did not come true in time"
