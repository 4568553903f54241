"""Unique calls where the broker holds no delays and refuses by a negative confirm: RabbitMQ, the locks in SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liap_tasks import DeliveryOptions, DuplicateTaskError, EmbeddedWorker, LiapApp, QueueFullError, Unique, schedule
from tests.liap_tasks.conftest import DEADLINE, wait_until
from tests.liap_tasks.unique.conftest import Settling


@pytest.fixture
def app(new_app: Callable[..., LiapApp], rabbitmq_virtual_host: str, tmp_path: Path) -> LiapApp:
    return new_app(
        message_queue_url=rabbitmq_virtual_host,
        dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3",
        dlq_max_retries=0,
        max_queue_size=3,
    )


def test_calls_wait_for_their_turn_and_keep_their_answers(app: LiapApp, settling: Settling) -> None:
    settle = settling.make(unique=Unique(key="room", until="running"))
    settling.gate.clear()
    with EmbeddedWorker(app, concurrency=3):
        sent = [settle.submit(("r1", str(number))) for number in range(3)]
        settling.wait_until_begun()
        wait_until(lambda: app.task_statistics["tests.settle"]["waited"] >= 2)
        settling.gate.set()
        assert sorted(call.get(timeout=DEADLINE) for call in sent) == ["0", "1", "2"]
    assert settling.most_at_once == 1
    assert settling.tokens == sorted(set(settling.tokens))


def test_the_key_is_free_after_a_refusal_an_expiry_and_a_cancelled_delay(
    app: LiapApp, settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "ASK_SECONDS", 0.3)
    settle = settling.make()
    for number in range(3):
        settle.delay(f"fills {number}")
    with pytest.raises(QueueFullError):
        settle.apply_async(("refused",), retry=False)
    assert settling.lock("refused") is None

    settle.apply_async(("expired",), queue="tests.nobody", delivery=DeliveryOptions(ttl=0))
    with EmbeddedWorker(app):
        wait_until(lambda: settling.lock("expired") is None)
        delayed = settle.apply_async(("delayed",), countdown=3600)
        with pytest.raises(DuplicateTaskError):
            settle.delay("delayed")
        cancelled: list[Any] = []
        wait_until(lambda: cancelled.append(schedule.cancel(app, delayed.id)) or cancelled[-1])
        settle.submit(("delayed",)).get(timeout=DEADLINE)
    assert app.dead_letter_store.count() == 1
