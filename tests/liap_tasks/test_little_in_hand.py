"""A consumer in the process of its broker lets a task begin before it goes on, unless it has much in hand."""

from __future__ import annotations

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
