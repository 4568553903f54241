"""One queue object, waited at in several event loops."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

from liap_tasks.messaging import InMemoryQueue, Message


async def take(queue: InMemoryQueue) -> Any:
    message = await queue.dequeue(timeout=30)
    assert message is not None
    await queue.acknowledge(message.metadata.message_id)
    return message.payload


def a_loop_that_stands_still_waits_at(queue: InMemoryQueue) -> tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]:
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[Any]:
        waiting = asyncio.ensure_future(queue.dequeue(timeout=math.inf))
        await asyncio.sleep(0)
        return waiting

    return loop, loop.run_until_complete(begin())


def test_a_loop_that_stands_still_keeps_no_other_from_its_messages() -> None:
    queue = InMemoryQueue("q")
    loop, waiting = a_loop_that_stands_still_waits_at(queue)

    async def take_one_of_two() -> Any:
        taking = asyncio.create_task(take(queue))
        await asyncio.sleep(0)
        for payload in ("one", "two"):  # each waits for one: the broker gives to both
            await queue.enqueue(Message(payload))
        return await taking

    taken = asyncio.run(take_one_of_two())
    other = loop.run_until_complete(waiting)
    loop.close()

    assert other is not None
    assert {taken, other.payload} == {"one", "two"}


def test_a_busy_loop_does_not_delay_the_messages_of_another() -> None:
    queue, waits, done = InMemoryQueue("q"), threading.Event(), threading.Event()
    kept_busy: list[bool] = []

    async def busy() -> Any:
        taking = asyncio.create_task(take(queue))
        await asyncio.sleep(0)
        waits.set()
        kept_busy.append(done.wait(10))
        return await taking

    async def idle() -> Any:
        assert waits.wait(10)
        taking = asyncio.create_task(take(queue))
        await asyncio.sleep(0)
        for payload in ("one", "two"):
            await queue.enqueue(Message(payload))
        taken = await taking
        done.set()
        return taken

    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(asyncio.run(busy())))
    thread.start()
    taken.append(asyncio.run(idle()))
    thread.join()

    assert kept_busy == [True]
    assert set(taken) == {"one", "two"}
