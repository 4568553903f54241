"""Dead letters of real task messages, as the recorder would have made them."""

from __future__ import annotations

import time
from typing import Any

from kombu.utils import json

from liap_tasks import LiapApp
from liap_tasks.dead_letter_store import Letter
from liap_tasks.metadata import Attempt, MessageMetadata

__all__ = ["task_letter"]


def task_letter(
    app: LiapApp,
    letter_id: str,
    *,
    task: str = "tests.task",
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    attempts: int = 1,
    headers: dict[str, Any] | None = None,
    **fields: Any,
) -> Letter:
    """Return the letter of a call that failed ``attempts`` times with a CardTableError."""
    failed = tuple(
        Attempt(number=number, at=1_700_000_000.0 + number, error="CardTableError", message="no table")
        for number in range(1, attempts + 1)
    )
    message = app.amqp.create_task_message(f"task-{letter_id}", task, args, kwargs or {}, retries=attempts - 1)
    usual = {
        "reason": "retries_exhausted",
        "task": task,
        "task_id": f"task-{letter_id}",
        "queue": app.conf.task_default_queue,
        "exception": "CardTableError",
        "message": "no table",
        "traceback": "Traceback (most recent call last):\nCardTableError: no table\n",
        "attempts": [attempt.model_dump(mode="json") for attempt in failed],
        "headers": {**message.headers, **MessageMetadata(attempts=failed).as_headers(), **(headers or {})},
        "properties": {"correlation_id": f"task-{letter_id}", "delivery_mode": 2},
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "body": str(json.dumps(message.body)).encode(),
        "died_at": time.time() - 60,
    }
    return Letter(**{"id": letter_id, **usual, **fields})
