"""Async tasks on the threads and solo pools, called eagerly, and called directly."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import Any

import pytest
from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import DEADLINE, Outcomes

NEVER = RetryPolicy(max_retries=0)
POOLS = pytest.mark.parametrize("pool", ["threads", "solo"])
EVERY_POOL = pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])


class Move(BaseModel):
    seat: int
    pieces: list[str]


@POOLS
def test_a_thread_keeps_its_loop_for_the_next_attempt(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    loops: dict[str, set[int]] = {}

    @app.task(shared=False, bind=True, name="tests.where")
    async def where(self: Any) -> None:
        await asyncio.sleep(0.001)
        assert current_task.request.id == self.request.id
        loops.setdefault(threading.current_thread().name, set()).add(id(asyncio.get_running_loop()))

    with EmbeddedWorker(app, pool=pool, concurrency=3):
        for _ in range(30):
            where.delay()
        assert outcomes.states(30) == ["SUCCESS"] * 30
    assert {len(seen) for seen in loops.values()} == {1}


@POOLS
def test_overruns_end_and_the_next_attempt_is_well(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    @app.task(shared=False, name="tests.overruns", timeout=0.05, grace=0.05, retry_policy=NEVER)
    async def overruns(swallow: bool) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except SoftTimeLimitExceeded:
                if not swallow:
                    raise

    @app.task(shared=False, name="tests.fine")
    async def fine() -> None:
        await asyncio.sleep(0.001)

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        for swallow in (False, True):
            overruns.delay(swallow)
            assert type(outcomes.next().value) is SoftTimeLimitExceeded
            fine.delay()
            assert outcomes.next().state == "SUCCESS"
    assert [letter.reason for letter in dead_letters.peek(app)] == [DeadLetterReason.TIMED_OUT] * 2


@EVERY_POOL
def test_models_are_honoured_as_arguments_and_results(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    @app.task(shared=False, name="tests.play", ignore_result=False, retry_policy=NEVER)
    async def play(move: Move) -> Move:
        await asyncio.sleep(0)
        return Move(seat=move.seat + 1, pieces=move.pieces[::-1])

    with EmbeddedWorker(app, pool=pool):
        assert play.delay({"seat": 1, "pieces": ["a", "b"]}).get(timeout=DEADLINE) == {"seat": 2, "pieces": ["b", "a"]}
        outcomes.next()
        play.delay({"seat": "nowhere"})
        assert outcomes.next().state == "FAILURE"
    assert dead_letters.peek(app)[0].reason is DeadLetterReason.VALIDATION_FAILED


@EVERY_POOL
def test_a_plain_function_may_return_something_to_await(app: LiapApp, pool: Any) -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0.001)
        return value + 1

    @app.task(shared=False, name="tests.returns", ignore_result=False)
    def returns(value: int) -> Any:
        return later(value)

    with EmbeddedWorker(app, pool=pool):
        assert returns.delay(1).get(timeout=DEADLINE) == 2


@EVERY_POOL
def test_an_async_fallback_answers(app: LiapApp, pool: Any) -> None:
    async def instead(value: int) -> int:
        await asyncio.sleep(0.001)
        return -value

    @app.task(shared=False, name="tests.fails", fallback=instead, retry_policy=NEVER, ignore_result=False)
    async def fails(value: int) -> int:
        raise OSError

    with EmbeddedWorker(app, pool=pool):
        assert fails.delay(3).get(timeout=DEADLINE) == -3


def test_eager_calls_run_to_their_end_here(app: LiapApp) -> None:
    @app.task(shared=False, bind=True, name="tests.eager")
    async def eager(self: Any, value: int) -> list[Any]:
        await asyncio.sleep(0.001)
        if self.attempt == 1:
            raise self.retry(countdown=0)
        return [value, self.attempt, threading.current_thread() is threading.main_thread()]

    assert eager.apply((1,)).get() == [1, 2, True]
    app.conf.task_always_eager = True
    assert eager.delay(2).get() == [2, 2, True]


def test_eager_calls_from_a_running_loop_run_on_a_thread_beside_it(app: LiapApp) -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where")

    @app.task(shared=False, bind=True, name="tests.eager", retry_policy=NEVER)
    async def eager(self: Any, fails: bool) -> list[Any]:
        await asyncio.sleep(0.001)
        assert current_task.request.id == self.request.id
        if fails:
            raise LookupError("as asked")
        return [self.request.id, where.get(), threading.current_thread() is threading.main_thread()]

    @app.task(shared=False, name="tests.overruns", timeout=0.05, retry_policy=NEVER)
    async def overruns() -> None:
        await asyncio.Event().wait()

    async def program() -> None:
        where.set("in the program")
        results = [eager.apply((False,)) for _ in range(3)]
        assert [result.get() for result in results] == [[result.id, "in the program", False] for result in results]
        assert type(eager.apply((True,)).result) is LookupError
        assert type(overruns.apply().result) is SoftTimeLimitExceeded

    asyncio.run(program())


def test_a_direct_call_gives_the_coroutine(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.direct")
    async def direct(value: int) -> int:
        await asyncio.sleep(0)
        return value

    assert asyncio.run(direct(7)) == 7


GEVENT = """
from gevent import monkey
monkey.patch_all()
import asyncio, uuid
import gevent
from celery import current_task
from liap_tasks import RetryPolicy, create_app, load_settings

app = create_app(load_settings(), main="green", set_as_current=False)

@app.task(bind=True, name="green.look", retry_policy=RetryPolicy(max_retries=0), timeout=5)
async def look(self, number):
    for _ in range(3):
        await asyncio.sleep(0.05)
        assert self.request.id == current_task.request.id
    return [number, self.request.id]

turns = 0
def count():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.01)

counting = gevent.spawn(count)
greenlets = [gevent.spawn(lambda n=n: look.apply((n,)).get()) for n in range(20)]
before = turns
with gevent.Timeout(20):
    gevent.joinall(greenlets, raise_error=True)
print(sorted(greenlet.value[0] for greenlet in greenlets) == list(range(20)), turns - before > 5)

@app.task(name="green.cancelled", retry_policy=RetryPolicy(max_retries=0))
async def cancelled():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled too", flush=True)
        raise

killed = gevent.spawn(cancelled.apply)
gevent.sleep(0.1)
killed.kill()
assert look.apply((1,)).get()[0] == 1
"""


def test_greenlets_of_gevent_wait_without_holding_up_each_other() -> None:

    done = subprocess.run([sys.executable, "-c", GEVENT], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n") == ["True True", "cancelled too", ""], done.stderr


def test_a_coroutine_with_celery_s_autoretry_runs_on_the_pool_s_loop(app: LiapApp, outcomes: Outcomes) -> None:
    threads: list[str] = []

    @app.task(shared=False, name="tests.autoretry", autoretry_for=(LookupError,))
    async def wrapped() -> None:
        threads.append(threading.current_thread().name)

    with EmbeddedWorker(app, pool="asyncio"):
        wrapped.delay()
        assert outcomes.states(1) == ["SUCCESS"]
    assert threads == ["liap-asyncio-pool"]
