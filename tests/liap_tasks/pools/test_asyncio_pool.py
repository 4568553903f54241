"""Async tasks in the asyncio pool of a real worker: what they see, how they end, and how the worker ends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from celery.signals import task_revoked

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from liap_tasks.coroutines import loop_watchdog
from tests.liap_tasks.conftest import DEADLINE, Outcomes

Stats = Callable[..., dict[str, float]]
NEVER = RetryPolicy(max_retries=0)


class Gate:
    """A place where coroutines wait until a thread opens it."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.arrived = threading.Event()
        self._inside = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = asyncio.Event()

    async def wait(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inside += 1
        if self._inside == self._expected:
            self.arrived.set()
        await self._opened.wait()

    def open(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._opened.set)


def test_what_hundreds_of_running_tasks_see_is_never_mixed_up(app: LiapApp, outcomes: Outcomes) -> None:
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine")
    gate, wrong = Gate(300), []

    def look(self: Any, number: int) -> tuple[Any, ...]:
        return (
            self.request.id,
            current_task.request.id,
            self.request.args,
            current_task.name,
            mine.get(""),
            self.metadata.source,
            asyncio.current_task(),
        )

    async def watch(self: Any, number: int) -> None:
        mine.set(self.request.id)
        before = look(self, number)
        await gate.wait()
        for turn in range(3):
            await asyncio.sleep(0.001 * ((number + turn) % 3))
            if look(self, number) != before or before[0] != mine.get() or before[2] != [number]:
                wrong.append((before, look(self, number)))

    tasks = [app.task(watch, bind=True, shared=False, name=f"tests.watch{kind}") for kind in "ab"]
    with EmbeddedWorker(app, pool="asyncio"):
        for number in range(300):
            tasks[number % 2].delay(number)
        assert gate.arrived.wait(DEADLINE)  # all at once
        gate.open()
        assert outcomes.states(300) == ["SUCCESS"] * 300
    assert wrong == []


def test_a_failing_coroutine_is_retried_and_then_a_dead_letter(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(
        shared=False, name="tests.fails", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.01, jitter=False)
    )
    async def fails(room: str) -> None:
        await asyncio.sleep(0)
        raise OSError(room)

    with EmbeddedWorker(app, pool="asyncio"):
        sent = fails.delay("r1")
        assert outcomes.states(2) == ["RETRY", "FAILURE"]
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.id, letter.args) == (DeadLetterReason.RETRIES_EXHAUSTED, sent.id, ("r1",))
    assert [attempt.number for attempt in letter.attempts] == [1, 2]
    assert "in fails" in letter.traceback


def test_publishing_a_dead_letter_does_not_hold_up_the_loop(
    app: LiapApp, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing, go_on = threading.Event(), threading.Event()
    publish = dead_letters.publish

    def publish_to_a_slow_broker(*args: Any, **options: Any) -> None:
        publishing.set()
        assert go_on.wait(DEADLINE)
        publish(*args, **options)

    monkeypatch.setattr(dead_letters, "publish", publish_to_a_slow_broker)

    @app.task(shared=False, name="tests.fails", retry_policy=NEVER)
    async def fails() -> None:
        raise OSError

    @app.task(shared=False, name="tests.other")
    async def other() -> None:
        await asyncio.sleep(0.001)

    with EmbeddedWorker(app, pool="asyncio"):
        sent = fails.delay()
        assert publishing.wait(DEADLINE)
        other.delay()
        assert outcomes.next()[::2] == ("tests.other", "SUCCESS")
        go_on.set()
        assert outcomes.next()[::2] == ("tests.fails", "FAILURE")
    assert dead_letters.peek(app)[0].id == sent.id


def test_a_coroutine_can_ask_for_a_retry_by_itself(app: LiapApp) -> None:
    @app.task(shared=False, bind=True, name="tests.asks", ignore_result=False)
    async def asks(self: Any) -> int:
        await asyncio.sleep(0)
        if self.attempt == 1:
            raise self.retry(countdown=0.01)
        return int(self.attempt)

    with EmbeddedWorker(app, pool="asyncio"):
        assert asks.delay().get(timeout=DEADLINE) == 2


def test_arguments_that_do_not_fit_are_a_validation_failure(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.one", typing=False)
    async def one(number: int) -> None: ...

    with EmbeddedWorker(app, pool="asyncio"):
        one.delay(1, 2)
        assert outcomes.next().state == "FAILURE"
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED


def test_a_limit_is_raised_at_the_await_and_leaves_time_to_clean_up(app: LiapApp, outcomes: Outcomes) -> None:
    cleaned: list[str] = []

    @app.task(shared=False, name="tests.overruns", timeout=0.05, retry_policy=NEVER)
    async def overruns() -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.Event().wait()
        except SoftTimeLimitExceeded:
            current: Any = asyncio.current_task()
            assert current.cancelling() == 0
            await asyncio.sleep(0.01)
            cleaned.append("with an await")
            raise

    with EmbeddedWorker(app, pool="asyncio"):
        overruns.delay()
        outcome = outcomes.next()
    assert (outcome.state, type(outcome.value)) == ("FAILURE", SoftTimeLimitExceeded)
    assert cleaned == ["with an await"]
    assert dead_letters.peek(app)[0].reason is DeadLetterReason.TIMED_OUT


def test_a_task_group_that_overruns_is_timed_out_like_anything_else(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.group", timeout=0.05, retry_policy=NEVER)
    async def group() -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(asyncio.Event().wait())
            both.create_task(asyncio.Event().wait())

    with EmbeddedWorker(app, pool="asyncio"):
        group.delay()
        assert type(outcomes.next().value) is SoftTimeLimitExceeded
    assert dead_letters.peek(app)[0].reason is DeadLetterReason.TIMED_OUT


@pytest.mark.parametrize("shielded", [False, True])
def test_a_coroutine_that_swallows_its_limit_is_abandoned(
    app: LiapApp,
    outcomes: Outcomes,
    caplog: pytest.LogCaptureFixture,
    shielded: bool,
) -> None:
    stubborn_ended, closed = asyncio.Event(), []

    async def stubborn() -> None:
        while True:
            try:
                return await stubborn_ended.wait()
            except asyncio.CancelledError:
                pass

    @app.task(shared=False, name="tests.swallows", timeout=0.05, grace=0.05, retry_policy=NEVER)
    async def swallows() -> None:
        try:
            while True:
                with suppress(Exception):
                    # A task that ignores its cancellation holds up everything that awaits it.
                    await (asyncio.create_task(stubborn()) if shielded else asyncio.sleep(DEADLINE))
        finally:
            closed.append(True)

    @app.task(shared=False, name="tests.after", ignore_result=False)
    async def after() -> str:
        stubborn_ended.set()
        return "the loop is well"

    with EmbeddedWorker(app, pool="asyncio") as worker:
        swallows.delay()
        outcome = outcomes.next()
        stats = app.control.inspect([worker.hostname]).stats()[worker.hostname]
        assert stats["pool"]["abandoned-coroutines"] == 1
        assert after.delay().get(timeout=DEADLINE) == "the loop is well"
    assert (outcome.state, type(outcome.value)) == ("FAILURE", SoftTimeLimitExceeded)
    assert closed == [True]
    assert dead_letters.peek(app)[0].reason is DeadLetterReason.TIMED_OUT
    assert "is abandoned" in caplog.text


def test_a_coroutine_cancelled_by_its_own_code_fails(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.cancels", retry_policy=NEVER)
    async def cancels() -> None:
        current: Any = asyncio.current_task()
        current.cancel()
        await asyncio.sleep(DEADLINE)

    with EmbeddedWorker(app, pool="asyncio"):
        cancels.delay()
        assert outcomes.next().state == "FAILURE"
    assert "CoroutineCancelledError" in (dead_letters.peek(app)[0].exception or "")


def test_an_exit_in_one_coroutine_leaves_the_others_running(app: LiapApp, outcomes: Outcomes) -> None:
    ran: list[int] = []

    @app.task(shared=False, bind=True, name="tests.exits", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    async def exits(self: Any) -> None:
        ran.append(self.attempt)
        if len(ran) == 1:
            raise SystemExit(3)

    with EmbeddedWorker(app, pool="asyncio"):
        exits.delay()
        # As when a prefork child is lost: that was an attempt, and there is another.
        while outcomes.next().state != "SUCCESS":
            pass
    assert ran == [1, 2]


def test_a_terminated_coroutine_is_cancelled_and_revoked(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    gate, seen, revoked = Gate(2), [], threading.Event()

    @app.task(shared=False, bind=True, name="tests.waits", ignore_result=False)
    async def waits(self: Any, name: str) -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            seen.append(name)
            raise
        return name

    def on_revoked(request: Any = None, terminated: bool = False, **_: Any) -> None:
        if terminated:
            revoked.set()

    task_revoked.connect(on_revoked)
    try:
        with EmbeddedWorker(app, pool="asyncio"):
            ends, stays = waits.delay("ends"), waits.delay("stays")
            assert gate.arrived.wait(DEADLINE)
            app.control.revoke(ends.id, terminate=True)
            assert revoked.wait(DEADLINE)
            assert outcomes.next()[:3] == ("tests.waits", ends.id, "IGNORED")
            gate.open()
            assert stays.get(timeout=DEADLINE) == "stays"
            with pytest.raises(TaskRevokedError):
                ends.get(timeout=DEADLINE)
    finally:
        task_revoked.disconnect(on_revoked)
    assert seen == ["ends"]
    assert stats(app)["ready"] == stats(app)["unacked"] == 0
    assert dead_letters.count(app) == 0


def test_a_terminated_task_that_had_not_begun_never_does(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    gate, began, revoked = Gate(1), [], threading.Event()

    @app.task(shared=False, name="tests.one_at_a_time")
    async def one_at_a_time(name: str) -> None:
        began.append(name)
        await gate.wait()

    def on_revoked(**_: Any) -> None:
        revoked.set()

    task_revoked.connect(on_revoked)
    try:
        with EmbeddedWorker(app, pool="asyncio", concurrency=1) as worker:
            one_at_a_time.delay("first")
            assert gate.arrived.wait(DEADLINE)
            second = one_at_a_time.delay("second")
            inspect = app.control.inspect([worker.hostname])
            while not inspect.query_task(second.id)[worker.hostname]:
                pass
            app.control.revoke(second.id, terminate=True)
            assert revoked.wait(DEADLINE)
            gate.open()
            assert outcomes.next().state == "SUCCESS"
    finally:
        task_revoked.disconnect(on_revoked)
    assert began == ["first"]
    assert stats(app)["ready"] == stats(app)["unacked"] == 0


def test_stopping_lets_running_coroutines_end_and_gives_the_rest_back(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    gate, ended = Gate(3), []

    @app.task(shared=False, name="tests.waits")
    async def waits(number: int) -> None:
        await gate.wait()
        await asyncio.sleep(0.01)
        ended.append(number)

    worker = EmbeddedWorker(app, pool="asyncio", concurrency=3).start()
    for number in range(8):
        waits.delay(number)
    assert gate.arrived.wait(DEADLINE)
    threading.Timer(0.1, gate.open).start()
    worker.stop()
    assert sorted(ended) == [0, 1, 2]
    assert (stats(app)["ready"], stats(app)["unacked"]) == (5, 0)


def test_plain_functions_run_in_threads_beside_the_loop(app: LiapApp, outcomes: Outcomes) -> None:
    meeting = threading.Barrier(4)
    where: list[str] = []

    @app.task(shared=False, name="tests.plain")
    def plain() -> None:
        where.append(threading.current_thread().name)
        meeting.wait(DEADLINE)

    @app.task(shared=False, name="tests.asynchronous")
    async def asynchronous() -> None:
        where.append(threading.current_thread().name)
        await asyncio.to_thread(meeting.wait, DEADLINE)

    with EmbeddedWorker(app, pool="asyncio"):
        for _ in range(3):
            plain.delay()
        asynchronous.delay()
        assert outcomes.states(4) == ["SUCCESS"] * 4
    assert len(set(where)) == 4
    assert sum("pool-thread" in name for name in where) == 3


def test_an_overrun_of_a_plain_function_in_this_pool_is_a_timeout_too(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.spins", timeout=0.05, retry_policy=NEVER)
    def spins() -> None:
        while True:
            pass

    with EmbeddedWorker(app, pool="asyncio"):
        spins.delay()
        assert type(outcomes.next().value) is SoftTimeLimitExceeded


def test_a_thread_stuck_beside_the_loop_is_replaced(app: LiapApp, outcomes: Outcomes) -> None:
    go_on = threading.Event()

    @app.task(shared=False, name="tests.stuck", timeout=0.05, grace=0.05, retry_policy=NEVER)
    def stuck() -> None:
        go_on.wait(DEADLINE)

    @app.task(shared=False, name="tests.fine", ignore_result=False)
    def fine() -> str:
        return "in another thread"

    with EmbeddedWorker(app, pool="asyncio", concurrency=1) as worker:
        stuck.delay()
        assert fine.delay().get(timeout=DEADLINE) == "in another thread"
        pool = app.control.inspect([worker.hostname]).stats()[worker.hostname]["pool"]
        assert (pool["stuck-threads"], pool["max-threads"]) == (1, 1)
        go_on.set()
        while outcomes.next().state != "IGNORED":  # what it does when it ends after all
            pass
    assert dead_letters.peek(app)[0].reason is DeadLetterReason.TIMED_OUT


def test_the_limit_of_coroutines_can_be_seen_and_changed(app: LiapApp, outcomes: Outcomes) -> None:
    first, second = Gate(2), Gate(3)

    @app.task(shared=False, name="tests.waits")
    async def waits() -> None:
        await first.wait()

    @app.task(shared=False, name="tests.waits_more")
    async def waits_more() -> None:
        await second.wait()

    with EmbeddedWorker(app, pool="asyncio", concurrency=2) as worker:
        inspect = app.control.inspect([worker.hostname])

        def pool() -> dict[str, Any]:
            info: dict[str, Any] = inspect.stats()[worker.hostname]["pool"]
            return info

        for _ in range(2):
            waits.delay()
        assert first.arrived.wait(DEADLINE)
        assert {task["name"] for task in inspect.active()[worker.hostname]} == {"tests.waits"}
        assert pool()["max-concurrency"] == pool()["running-coroutines"] == 2
        for _ in range(3):
            waits_more.delay()
        app.control.pool_grow(3, destination=[worker.hostname], reply=True)
        assert second.arrived.wait(DEADLINE)
        app.control.pool_shrink(4, destination=[worker.hostname], reply=True)
        assert (pool()["max-concurrency"], pool()["running-coroutines"]) == (1, 5)
        first.open()
        second.open()
        assert outcomes.states(5) == ["SUCCESS"] * 5


def test_a_coroutine_that_blocks_the_loop_is_named(
    app: LiapApp, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watchdog, "BLOCKED_SECONDS", 0.05)
    monkeypatch.setattr(loop_watchdog, "LOOK_SECONDS", 0.02)
    told = threading.Event()
    said: list[str] = []

    class Tells(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if "blocked the event loop" in said[-1]:
                told.set()

    handler = Tells()
    loop_watchdog.logger.addHandler(handler)

    @app.task(shared=False, name="tests.blocks")
    async def blocks() -> None:
        told.wait(DEADLINE)

    try:
        with EmbeddedWorker(app, pool="asyncio"):
            sent = blocks.delay()
            outcomes.next()
    finally:
        loop_watchdog.logger.removeHandler(handler)
    assert told.is_set()
    (message,) = said
    assert f"task tests.blocks[{sent.id}] has blocked" in message
    assert "told.wait(DEADLINE)" in message


def test_a_thousand_coroutines_run_at_once_unless_told_otherwise(app: LiapApp, outcomes: Outcomes) -> None:
    gate = Gate(1000)

    @app.task(shared=False, name="tests.waits")
    async def waits() -> None:
        await gate.wait()

    with EmbeddedWorker(app, pool="asyncio"):
        for _ in range(1000):
            waits.delay()
        assert gate.arrived.wait(DEADLINE)
        gate.open()
        assert outcomes.states(1000) == ["SUCCESS"] * 1000
