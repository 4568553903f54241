"""Background tasks by name, done by a worker inside this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from game_tasks.messaging import DeadLetterQueue, GameTaskProcessor, MessagePriority
from liap_tasks import RetryPolicy


class Noted:
    """What tasks have done, in their order; waited for in the test's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Queue[Any] = asyncio.Queue()

    def note(self, what: Any) -> None:
        self._loop.call_soon_threadsafe(self._done.put_nowait, what)

    async def next(self) -> Any:
        return await self._done.get()


@asynccontextmanager
async def running(max_workers: int, **handlers: Callable[[Any], Any]) -> AsyncIterator[GameTaskProcessor]:
    processor = GameTaskProcessor(max_workers)
    for name, handler in handlers.items():
        processor.register_task_handler(name, handler)
    async with processor:
        yield processor
    processor.app.close()


async def test_async_and_plain_functions_do_tasks() -> None:
    noted = Noted()

    async def co(data: Any) -> None:
        noted.note(("async", data, threading.current_thread() is threading.main_thread()))

    def plain(data: Any) -> None:
        noted.note(("plain", data, threading.current_thread() is threading.main_thread()))

    async with running(2, co=co, plain=plain) as processor:
        assert await processor.submit_task("co", {"n": 1})
        assert await noted.next() == ("async", {"n": 1}, False)
        await processor.submit_task("plain", [2])
        assert await noted.next() == ("plain", [2], False)


async def test_any_callable_is_a_handler() -> None:
    noted = Noted()

    class Move:
        async def __call__(self, data: Any) -> None:
            noted.note(("async object", data))

    async def co(key: str, data: Any) -> None:
        noted.note((key, data))

    handlers: dict[str, Callable[[Any], Any]] = {
        "lambda": lambda data: noted.note(("lambda", data)),
        "object": Move(),
        "partial": partial(co, "partial"),
    }
    async with running(1, **handlers) as processor:
        for number, name in enumerate(handlers):
            await processor.submit_task(name, number)
        assert {await noted.next() for _ in handlers} == {("lambda", 0), ("async object", 1), ("partial", 2)}


async def test_a_delayed_task_is_done_after_its_delay() -> None:
    noted = Noted()
    async with running(1, note=noted.note) as processor:
        await processor.submit_task("note", "later", delay=0.2)
        await processor.submit_task("note", "now")
        assert [await noted.next(), await noted.next()] == ["now", "later"]


async def test_no_more_tasks_run_at_once_than_there_are_workers() -> None:
    noted, lock = Noted(), threading.Lock()
    at_once = most = 0

    async def count(data: Any) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        await asyncio.sleep(0.005)
        with lock:
            at_once -= 1
        noted.note(data)

    async with running(3, count=count) as processor:
        for number in range(12):
            await processor.submit_task("count", number)
        assert sorted([await noted.next() for _ in range(12)]) == list(range(12))
    assert most == 3


async def test_tasks_that_are_submitted_before_the_start_wait_for_it() -> None:
    noted = Noted()
    processor = GameTaskProcessor(1)
    processor.register_task_handler("note", noted.note)
    await processor.submit_task("note", 1)
    for number in (1, 2):  # it can be started again
        await processor.start()
        assert await noted.next() == number
        await processor.stop()
        await processor.submit_task("note", number + 1, priority=MessagePriority.LOW)
    processor.app.close()


async def test_a_handler_can_be_registered_while_the_processor_runs() -> None:
    noted = Noted()
    async with running(1) as processor:
        processor.register_task_handler("note", noted.note)
        await processor.submit_task("note", "m")
        assert await noted.next() == "m"


async def test_a_task_that_fails_is_retried_and_then_a_dead_letter() -> None:
    noted = Noted()

    async def fails(data: Any) -> None:
        noted.note(data)
        raise OSError("no")

    async with running(1) as processor:
        policy = RetryPolicy(max_retries=1, initial_delay=0)
        processor.register_task_handler("fails", fails, retry_policy=policy)
        await processor.submit_task("fails", "m")
        assert [await noted.next(), await noted.next()] == ["m", "m"]
        dlq = DeadLetterQueue()
        while not await dlq.size():
            await asyncio.sleep(0.005)
    [letter] = await dlq.inspect()
    assert (letter.letter.task, letter.reason) == ("game_task_processor.fails", "retries_exhausted")


async def test_processors_that_nobody_has_named_keep_their_tasks_apart() -> None:
    noted = Noted()
    async with running(1, move=noted.note), running(1, clean=noted.note) as other:
        async with running(1, deal=noted.note) as third:
            assert {other.name, third.name} == {"game_task_processor-2", "game_task_processor-3"}
            for number in range(6):
                await third.submit_task("deal", number)
            assert [await noted.next() for _ in range(6)] == list(range(6))
        assert await DeadLetterQueue().size() == 0


async def test_processors_of_one_name_share_the_work() -> None:
    noted, met = Noted(), threading.Barrier(2, timeout=30)

    def meet(data: Any) -> None:
        met.wait()  # both are in here, and each has one worker
        noted.note(data)

    processors = [GameTaskProcessor(1, name="shared") for _ in range(2)]
    for processor in processors:
        processor.register_task_handler("meet", meet)
        await processor.start()
    for number in range(2):
        await processors[0].submit_task("meet", number)
    assert sorted([await noted.next(), await noted.next()]) == [0, 1]
    for processor in processors:
        await processor.stop()
        processor.app.close()


async def test_a_second_handler_of_a_type_is_refused() -> None:
    processor = GameTaskProcessor(1)
    processor.register_task_handler("note", print)
    with pytest.raises(ValueError, match="type 'note' have a handler already"):
        processor.register_task_handler("note", repr)


async def test_a_type_that_nobody_has_registered_is_refused() -> None:
    processor = GameTaskProcessor(1)
    processor.register_task_handler("bot_move", print)
    with pytest.raises(LookupError, match="'bot_mvoe'; registered: bot_move"):
        await processor.submit_task("bot_mvoe", {})


def test_a_wrong_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        GameTaskProcessor(0)
