"""Calls made from a coroutine: their answers, their errors in time, and a loop that is never blocked."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu.exceptions import ContentDisallowed
from pydantic import BaseModel

from liap_tasks import (
    AnswerTimeoutError,
    BrokerUnavailableError,
    EmbeddedWorker,
    LiapApp,
    QueueFullError,
    RetryPolicy,
)

NEVER = RetryPolicy(max_retries=0)


class Move(BaseModel):
    piles: int


def test_a_coroutine_gets_the_answer_of_its_call(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.add")
    def add(a: int, b: int) -> int:
        return a + b

    async def backend() -> list[int]:
        return await asyncio.gather(*(add.call(number, b=1, timeout=10) for number in range(200)))

    with EmbeddedWorker(app):
        assert asyncio.run(backend()) == list(range(1, 201))
        assert asyncio.run(backend()) == list(range(1, 201))  # a second loop of the same process


def test_the_error_of_the_task_is_raised_in_the_caller(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.refuse", retry_policy=NEVER)
    def refuse() -> None:
        raise ValueError("no such room")

    with EmbeddedWorker(app), pytest.raises(ValueError, match="no such room"):
        asyncio.run(refuse.call(timeout=10))


def test_an_answer_that_cannot_be_read_is_told_and_the_others_arrive(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.double", ignore_result=False)
    def double(number: int) -> int:
        return 2 * number

    async def backend() -> int:
        result = await double.adelay(1)
        with app.producer_or_acquire() as producer:
            producer.publish(
                {}, serializer="pickle", exchange="", routing_key=app.replies.oid, correlation_id=result.id
            )
        with pytest.raises(ContentDisallowed):
            await result.aget(timeout=10)
        with EmbeddedWorker(app):
            return int(await double.call(2, timeout=10))

    assert asyncio.run(backend()) == 4


def test_a_published_call_may_be_awaited_later(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.double", ignore_result=False)
    def double(number: int) -> int:
        return 2 * number

    async def backend() -> int:
        result = await double.adelay(21)
        assert await asyncio.to_thread(result.get, timeout=10) == 42
        return await result.aget(timeout=10)

    with EmbeddedWorker(app):
        assert asyncio.run(backend()) == 42


def test_a_call_that_asked_for_no_result_says_so(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.nothing")
    def nothing() -> None: ...

    async def backend() -> None:
        await (await nothing.adelay()).aget(timeout=1)

    with pytest.raises(RuntimeError, match="ignore_result"):
        asyncio.run(backend())


def test_nobody_waits_for_a_result_that_was_dropped(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.dropped", ignore_result=False)
    def dropped() -> None: ...

    async def backend() -> None:
        result = await dropped.adelay()
        assert app.replies._waiting.keys() == {result.id}
        del result
        gc.collect()
        assert not app.replies._waiting

    asyncio.run(backend())


def test_a_call_that_no_worker_answers_raises_in_time(app: LiapApp, stats: Callable[..., dict[str, float]]) -> None:
    @app.task(shared=False, name="tests.unheard")
    def unheard() -> None: ...

    with pytest.raises(AnswerTimeoutError) as caught:
        asyncio.run(unheard.call(timeout=1))
    assert caught.value.timeout <= 1
    assert isinstance(caught.value, TimeoutError)
    assert not app.replies._waiting


def test_a_timeout_error_of_the_task_is_the_task_s_own(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.slow_database", retry_policy=NEVER)
    def slow_database() -> None:
        raise TimeoutError("the database")

    with EmbeddedWorker(app), pytest.raises(TimeoutError, match="the database"):
        asyncio.run(slow_database.call(timeout=10))


def test_a_full_queue_refuses_the_call_in_the_coroutine(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=1)

    @app.task(shared=False, name="tests.queued")
    def queued() -> None: ...

    async def backend() -> None:
        await queued.adelay()
        with pytest.raises(QueueFullError) as caught:
            await queued.adelay()
        assert caught.value.queue == "liap_tasks"

    asyncio.run(backend())


@pytest.fixture
def silent_broker() -> Any:
    """The port of a listener that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_silent_broker_is_unavailable_within_the_time_given(
    new_app: Callable[..., LiapApp], silent_broker: int
) -> None:
    app = new_app(message_queue_url=f"amqp://guest:guest@127.0.0.1:{silent_broker}//")
    app.conf.broker_connection_timeout = 1
    app.conf.task_publish_retry = False

    @app.task(shared=False, name="tests.lost")
    def lost() -> None: ...

    async def backend() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        turning = asyncio.create_task(turn())
        with pytest.raises(BrokerUnavailableError, match=r"within 0\.2 s"):
            await lost.aapply_async(timeout=0.2)
        turning.cancel()
        return turns

    assert asyncio.run(backend()) > 10  # the loop went on meanwhile


def test_a_broker_that_refuses_connections_is_unavailable(new_app: Callable[..., LiapApp], unused_port: int) -> None:
    app = new_app(message_queue_url=f"amqp://guest:guest@127.0.0.1:{unused_port}//")
    app.conf.task_publish_retry = False
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

    @app.task(shared=False, name="tests.lost")
    def lost() -> None: ...

    with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
        asyncio.run(lost.aapply_async(timeout=10))


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_eager_calls_run_beside_the_loop(app: LiapApp) -> None:
    app.conf.task_always_eager = True

    @app.task(shared=False, name="tests.eager")
    def eager(piles: int) -> tuple[int, bool]:
        return piles, threading.current_thread() is threading.main_thread()

    assert asyncio.run(eager.call(3, timeout=5)) == (3, False)


def test_models_travel_both_ways(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.models")
    def models(move: Move) -> Move:
        return Move(piles=move.piles + 1)

    with EmbeddedWorker(app):
        assert asyncio.run(models.call({"piles": 1}, timeout=10)) == {"piles": 2}
