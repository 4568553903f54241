"""A world for each test: its own app on its own in-process broker, and a record of how attempts ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from celery.signals import task_postrun
from kombu import pools

from liap_tasks import LiapApp, create_app, ending, load_settings

DEADLINE = 10.0


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for what no event tells of."""
    waiting = threading.Event()
    for _ in range(round(DEADLINE / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen in time")


class Outcome(NamedTuple):
    task: str
    id: str
    state: str
    value: Any


class Outcomes:
    """How attempts ended, in the order in which they did; waits for the next one."""

    def __init__(self) -> None:
        self._ended: queue.Queue[Outcome] = queue.Queue()

    def note(self, sender: Any = None, task_id: str = "", state: str = "", retval: Any = None, **_: Any) -> None:
        self._ended.put(Outcome(sender.name, task_id, state, retval))

    def next(self) -> Outcome:
        return self._ended.get(timeout=DEADLINE)

    def states(self, count: int) -> list[str]:
        return [self.next().state for _ in range(count)]


class Clock:
    """POSIX seconds that pass when the test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages that go back to their queue go at once."""
    monkeypatch.setattr(ending, "PAUSE_BEFORE_REQUEUE", 0.0)


@pytest.fixture
def outcomes() -> Iterator[Outcomes]:
    record = Outcomes()
    task_postrun.connect(record.note, weak=False)
    yield record
    task_postrun.disconnect(record.note)


@pytest.fixture
def new_app() -> Iterator[Callable[..., LiapApp]]:
    """Make apps whose broker nobody else has; keyword arguments are settings."""
    made: list[LiapApp] = []

    def make(**settings: Any) -> LiapApp:
        settings.setdefault("message_queue_url", f"liap-memory:///{uuid4().hex}")
        settings.setdefault("dlq_store_url", "none")  # so that dead letters stay in their queue, to be peeked at
        app = create_app(load_settings(**settings), main="tests", set_as_current=False)
        made.append(app)
        return app

    yield make
    pools.reset()  # kombu keeps pools for the whole process, by URL
    for app in made:
        app.close()


@pytest.fixture
def app(new_app: Callable[..., LiapApp]) -> LiapApp:
    return new_app()


@pytest.fixture
def stats() -> Callable[..., dict[str, float]]:
    """Read the broker's statistics of one queue (default: the app's own)."""

    def read(app: LiapApp, name: str | None = None) -> dict[str, float]:
        name = name or app.conf.task_default_queue
        with app.connection_for_read() as connection, connection.channel() as channel:
            return channel.queue_stats(name)[name]

    return read
