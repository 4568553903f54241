"""Handlers as objects: how many at once, in batches, again, and in time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from liap_tasks.messaging import (
    AsyncMessageHandler,
    BatchMessageHandler,
    HandlerChain,
    Message,
    MessageHandler,
    RetryingHandler,
    RetryPolicy,
    TimeoutHandler,
)


async def test_no_more_messages_are_handled_at_once_than_asked_for() -> None:
    running = most = 0

    async def count(message: Message) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return int(message.payload)

    handler = AsyncMessageHandler(count, max_concurrent=3)
    assert await asyncio.gather(*(handler.handle(Message(number)) for number in range(20))) == list(range(20))
    assert most == 3


async def test_a_plain_function_is_a_handler_too_and_its_failures_are_counted() -> None:
    handler = AsyncMessageHandler(lambda message: 1 / message.payload, max_concurrent=1)
    assert await handler.handle(Message(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await handler.handle(Message(0))
    assert handler.get_stats() == {"handled": 1, "failed": 1, "running": 0}


async def test_a_batch_is_run_when_its_first_message_has_waited_long_enough() -> None:
    handler = BatchMessageHandler(lambda messages: [message.payload for message in messages], 100, 0.01)
    results = await asyncio.gather(handler.handle(Message(1)), handler.handle(Message(2)))
    assert results == [[1, 2], [1, 2]]
    assert handler.get_stats() == {"batches": 1, "messages": 2, "failed_batches": 0, "waiting": 0}


async def test_all_messages_of_a_failed_batch_fail() -> None:
    async def fails(messages: list[Message]) -> None:
        raise OSError("no")

    handler = BatchMessageHandler(fails, batch_size=2)
    results = await asyncio.gather(*(handler.handle(Message(n)) for n in range(2)), return_exceptions=True)
    assert [str(error) for error in results] == ["no", "no"]


async def test_a_message_that_is_cancelled_before_its_batch_is_not_in_it() -> None:
    seen: list[Any] = []
    handler = BatchMessageHandler(lambda messages: seen.extend(message.payload for message in messages), 3, 3600)
    tasks = [asyncio.create_task(handler.handle(Message(number))) for number in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    await handler.flush()
    await tasks[1]
    assert seen == [1]


async def test_a_retried_message_knows_its_failed_attempts() -> None:
    pauses: list[float] = []
    troubles = [OSError("one"), ValueError("two")]

    async def stumbles(message: Message) -> str:
        if troubles:
            raise troubles.pop(0)
        return "done"

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    policy = RetryPolicy(max_retries=3, initial_delay=1, jitter=False)
    handler = RetryingHandler(AsyncMessageHandler(stumbles), policy, rng=Random(1), sleep=sleep)
    message = Message("m")

    assert await handler.handle(message) == "done"

    assert pauses == [1, 2]
    assert [(one.number, one.error, one.message) for one in message.metadata.attempts] == [
        (1, "OSError", "one"),
        (2, "ValueError", "two"),
    ]
    assert handler.get_stats() == {"total_retries": 2, "successful_retries": 1, "failed_after_retries": 0}


async def test_the_last_error_is_raised_when_the_retries_are_used_up() -> None:
    attempts = 0

    async def fails(message: Message) -> None:
        nonlocal attempts
        attempts += 1
        raise OSError(f"attempt {attempts}")

    handler = RetryingHandler(AsyncMessageHandler(fails), RetryPolicy(max_retries=2, initial_delay=0))
    with pytest.raises(OSError, match="attempt 3"):
        await handler.handle(Message("m"))
    assert handler.get_stats() == {"total_retries": 2, "successful_retries": 0, "failed_after_retries": 1}


async def test_an_error_that_the_policy_gives_up_on_is_raised_at_once() -> None:
    async def fails(message: Message) -> None:
        raise KeyError("wrong")

    handler = RetryingHandler(AsyncMessageHandler(fails), RetryPolicy(give_up_on=(KeyError,)))
    with pytest.raises(KeyError):
        await handler.handle(Message("m"))
    assert handler.get_stats()["total_retries"] == 0


async def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    ended: list[str] = []

    async def slow(message: Message) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cleaned up")
            raise

    handler = TimeoutHandler(AsyncMessageHandler(slow), timeout=0.01)
    with pytest.raises(TimeoutError):
        await handler.handle(Message("m"))
    assert ended == ["cleaned up"]
    assert handler.get_stats() == {"handled": 0, "failed": 0, "timeouts": 1}


async def test_an_error_of_the_handler_s_own_is_no_timeout() -> None:
    async def fails(message: Message) -> None:
        raise TimeoutError("its own")

    handler = TimeoutHandler(AsyncMessageHandler(fails), timeout=60)
    with pytest.raises(TimeoutError, match="its own"):
        await handler.handle(Message("m"))
    assert handler.get_stats() == {"handled": 0, "failed": 1, "timeouts": 0}


async def test_handlers_are_links_of_a_chain() -> None:
    class Doubles(MessageHandler):
        def can_handle(self, message: Message) -> bool:
            return isinstance(message.payload, int)

        async def handle(self, message: Message) -> int:
            return int(message.payload) * 2

    chain = HandlerChain(Doubles(), AsyncMessageHandler(lambda message: f"saw {message.payload}"))
    assert await chain.ahandle(Message(4)) == [8, "saw 4"]
    assert await chain.ahandle(Message("x")) == ["saw x"]


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: AsyncMessageHandler(print, max_concurrent=0), "max_concurrent"),
        (lambda: BatchMessageHandler(print, batch_size=0), "batch_size"),
        (lambda: BatchMessageHandler(print, batch_timeout=-1), "batch_timeout"),
        (lambda: TimeoutHandler(AsyncMessageHandler(print), timeout=0), "timeout"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        make()
