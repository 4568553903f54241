"""Configuration, Environment Variables."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from game_tasks.messaging import (
    AsyncMessageHandler,
    BatchMessageHandler,
    DeadLetterQueue,
    GameTaskProcessor,
    InMemoryQueue,
    Message,
    MessageQueue,
    QueueFullError,
    TimeoutHandler,
)
from liap_tasks import ConfigurationError, load_settings
from transports import VirtualClock

DOCUMENTED = """
# Queue settings
MESSAGE_QUEUE_TYPE=memory  # memory, redis (future)
MAX_QUEUE_SIZE=10000
DEFAULT_MESSAGE_TTL=300  # seconds

# DLQ settings
DLQ_MAX_RETRIES=3
DLQ_RETRY_DELAY=60  # seconds
DLQ_RETENTION_HOURS=24

# Handler settings
MAX_CONCURRENT_HANDLERS=10
HANDLER_TIMEOUT_SECONDS=30
BATCH_SIZE=100
BATCH_TIMEOUT_SECONDS=5
"""
VARIABLES = dict(line.split("#")[0].strip().split("=") for line in DOCUMENTED.splitlines() if "=" in line)


def test_the_documented_variables_are_read_and_their_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    defaults = load_settings()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)

    read = load_settings()

    assert {name.lower() for name in VARIABLES} <= read.model_fields_set
    assert read.model_dump() == defaults.model_dump()


@pytest.mark.parametrize("kind", [None, "memory"])
async def test_memory_is_the_memory_of_this_process(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    monkeypatch.delenv("MESSAGE_QUEUE_URL")
    if kind is not None:
        monkeypatch.setenv("MESSAGE_QUEUE_TYPE", kind)
    dlq = DeadLetterQueue("failed_messages")
    queue = InMemoryQueue("moves", dead_letters=dlq)
    processor = GameTaskProcessor(max_workers=1)

    urls = {dlq.url, queue.url, MessageQueue("all_events").url, processor.app.settings.broker_url}

    assert urls == {"liap-memory://"}
    processor.app.close()


async def test_queues_and_handlers_go_by_them(monkeypatch: pytest.MonkeyPatch, clock: VirtualClock) -> None:
    monkeypatch.setenv("MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("DEFAULT_MESSAGE_TTL", "7")
    monkeypatch.setenv("DLQ_MAX_RETRIES", "1")
    monkeypatch.setenv("DLQ_RETRY_DELAY", "11")
    monkeypatch.setenv("DLQ_RETENTION_HOURS", "2")
    monkeypatch.setenv("MAX_CONCURRENT_HANDLERS", "3")
    monkeypatch.setenv("HANDLER_TIMEOUT_SECONDS", "0.02")
    monkeypatch.setenv("BATCH_SIZE", "2")
    monkeypatch.setenv("BATCH_TIMEOUT_SECONDS", "0.02")

    dlq = DeadLetterQueue("failed_messages")
    queue = InMemoryQueue("moves", dead_letters=dlq)
    await queue.enqueue(Message(1))
    await queue.enqueue(Message(2))
    with pytest.raises(QueueFullError):
        await queue.enqueue(Message(3))
    clock.advance(7)
    assert dlq.get_stats()["by_reason"] == {"expired": 2}
    clock.advance(2 * 3600)
    assert await dlq.size() == 0
    assert (dlq.policy.max_retries, dlq.policy.retry_delay) == (1, timedelta(seconds=11).total_seconds())

    assert AsyncMessageHandler(lambda message: None).max_concurrent == 3
    with pytest.raises(TimeoutError):
        await TimeoutHandler(AsyncMessageHandler(lambda message: asyncio.sleep(60))).handle(Message("slow"))
    batches: list[int] = []
    handler = BatchMessageHandler(lambda messages: batches.append(len(messages)))
    await asyncio.gather(*(handler.handle(Message(number)) for number in range(3)))
    assert batches == [2, 1]


def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_QUEUE_SIZE", "plenty")

    with pytest.raises(ConfigurationError, match="MAX_QUEUE_SIZE='plenty'"):
        InMemoryQueue("moves")
