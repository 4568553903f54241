"""A consumer in the process of its broker lets a task begin before it goes on, unless it has much in hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from liap_tasks import EmbeddedWorker, LiapApp
from liap_tasks.pools.threads import TaskPool
from tests.liap_tasks.conftest import Outcomes


@pytest.fixture
def let_begin(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the pool's ``let_begin``."""
    calls: list[Any] = []
    original = TaskPool.let_begin

    def noted(pool: TaskPool) -> None:
        calls.append(pool)
        original(pool)

    monkeypatch.setattr(TaskPool, "let_begin", noted)
    return calls


def test_each_of_few_messages_begins_at_once(app: LiapApp, outcomes: Outcomes, let_begin: list[Any]) -> None:
    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    with EmbeddedWorker(app):
        for _ in range(5):
            noop.delay()
            assert outcomes.next().state == "SUCCESS"
    assert len(let_begin) == 5


def test_of_many_messages_the_last_two(app: LiapApp, outcomes: Outcomes, let_begin: list[Any]) -> None:
    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    for _ in range(12):  # all within the prefetch window: they arrive together
        noop.delay()
    with EmbeddedWorker(app, concurrency=4):
        assert outcomes.states(12) == ["SUCCESS"] * 12
    assert len(let_begin) == 2


def test_one_that_is_due_while_the_worker_connects_again_begins(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    with EmbeddedWorker(app) as worker:
        consumer: Any = getattr(worker._controller, "consumer", None)
    admitted: list[Any] = []
    consumer.waiting_lines.admit = admitted.append
    consumer.task_consumer = None
    consumer.on_task_request(SimpleNamespace(task=noop))
    assert len(admitted) == 1
