"""Threads that cannot be interrupted: their messages are dealt with, their places filled, their late returns void."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.signals import task_failure, task_success

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import Outcomes

DEADLINE = 10
NEVER = RetryPolicy(max_retries=0)
Stats = Callable[..., dict[str, float]]


class Gate:
    """A place inside the C library where threads are stuck until somebody lets them out."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        self._read = ctypes.CDLL(None).read
        self.entered = threading.Semaphore(0)
        self.left = threading.Semaphore(0)

    def stick(self) -> None:
        self.entered.release()
        self._read(self._out, ctypes.create_string_buffer(1), 1)
        self.left.release()

    def let_out(self, threads: int) -> None:
        os.write(self._in, b"x" * threads)

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let_out(9)
    gate.close()


def wait_for(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(DEADLINE * 1000):
        if condition():
            return
        done.wait(0.001)
    raise AssertionError("it did not happen in time")


def pool_of(worker: EmbeddedWorker, app: LiapApp) -> dict[str, Any]:
    answers = app.control.inspect(destination=[worker.hostname], timeout=DEADLINE, limit=1).stats() or {}
    pool: dict[str, Any] = answers[worker.hostname]["pool"]
    return pool


def test_stuck_threads_are_replaced_and_their_messages_kept(
    app: LiapApp, gate: Gate, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, name="tests.sticks", timeout=0.05, grace=0.05, retry_policy=NEVER, ignore_result=False)
    def sticks() -> str:
        gate.stick()
        return "late"

    @app.task(shared=False, name="tests.works")
    def works() -> None: ...

    ends: list[str] = []
    task_success.connect(lambda sender, **_: ends.append(f"success {sender.name}"), weak=False, dispatch_uid="stuck-s")
    task_failure.connect(lambda sender, **_: ends.append(f"failure {sender.name}"), weak=False, dispatch_uid="stuck-f")
    try:
        with EmbeddedWorker(app, concurrency=2) as worker:
            calls = [sticks.delay() for _ in range(2)]
            wait_for(lambda: dead_letters.count(app) == 2)
            works.delay()
            assert outcomes.next().task == "tests.works"
            assert pool_of(worker, app)["stuck-threads"] == 2
            gate.let_out(2)
            assert [outcomes.next().state for _ in calls] == ["IGNORED", "IGNORED"]
            wait_for(lambda: pool_of(worker, app)["stuck-threads"] == 0)
    finally:
        task_success.disconnect(dispatch_uid="stuck-s")
        task_failure.disconnect(dispatch_uid="stuck-f")
    assert sorted(ends) == ["failure tests.sticks", "failure tests.sticks", "success tests.works"]
    letters = dead_letters.peek(app)
    assert {letter.id for letter in letters} == {call.id for call in calls}
    assert {letter.reason for letter in letters} == {DeadLetterReason.TIMED_OUT}
    numbers = stats(app)
    assert (numbers["acknowledged"], numbers["unacked"], numbers["ready"], numbers["rejected"]) == (3, 0, 0, 0)


def test_an_attempt_that_was_given_up_may_be_tried_again(app: LiapApp, gate: Gate, outcomes: Outcomes) -> None:
    seen: list[int] = []

    @app.task(
        shared=False,
        bind=True,
        name="tests.sticks_once",
        timeout=0.05,
        grace=0.05,
        retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001),
    )
    def sticks_once(self: Any) -> None:
        seen.append(self.attempt)
        if self.attempt == 1:
            gate.stick()

    with EmbeddedWorker(app, concurrency=1):
        sticks_once.delay()
        assert outcomes.next().state == "SUCCESS"
        gate.let_out(1)
        assert outcomes.next().state == "IGNORED"
    assert seen == [1, 2]
    assert dead_letters.count(app) == 0


def test_a_retry_that_a_stuck_task_asks_for_too_late_is_not_sent(
    app: LiapApp, gate: Gate, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, bind=True, name="tests.asks_late", timeout=0.05, grace=0.05, retry_policy=NEVER)
    def asks_late(self: Any) -> None:
        try:
            gate.stick()
        finally:
            self.retry(countdown=0, max_retries=9)

    with EmbeddedWorker(app, concurrency=1):
        asks_late.delay()
        wait_for(lambda: dead_letters.count(app) == 1)
        gate.let_out(1)
        assert outcomes.next().state == "IGNORED"
    assert stats(app)["enqueued"] == 1


def test_a_task_may_use_its_grace_and_still_succeed(app: LiapApp, outcomes: Outcomes) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    ended = threading.Event()

    @app.task(shared=False, name="tests.cleans_up", timeout=0.05, grace=DEADLINE, retry_policy=NEVER)
    def cleans_up() -> str:
        try:
            while True:
                ended.wait(0.001)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    with EmbeddedWorker(app):
        cleans_up.delay()
        ended_with = outcomes.next()
    assert (ended_with.state, ended_with.value) == ("SUCCESS", "cleaned up")
    assert dead_letters.count(app) == 0


def test_the_solo_worker_keeps_the_message_while_it_is_stuck(
    app: LiapApp, gate: Gate, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, name="tests.sticks", timeout=0.05, grace=0.05, retry_policy=NEVER)
    def sticks() -> None:
        gate.stick()

    with EmbeddedWorker(app, pool="solo"):
        sticks.delay()
        wait_for(lambda: dead_letters.count(app) == 1)
        wait_for(lambda: stats(app)["acknowledged"] == 1)
        gate.let_out(1)
        assert outcomes.next().state == "IGNORED"
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.TIMED_OUT


def test_a_worker_stops_although_a_thread_is_stuck(app: LiapApp, gate: Gate) -> None:
    @app.task(shared=False, name="tests.sticks", timeout=0.05, grace=0.05, retry_policy=NEVER)
    def sticks() -> None:
        gate.stick()

    with EmbeddedWorker(app, concurrency=1):
        sticks.delay()
        assert gate.entered.acquire(timeout=DEADLINE)
    assert dead_letters.count(app) == 1


def test_the_pool_grows_and_shrinks(app: LiapApp) -> None:
    running = threading.Semaphore(0)
    go_on = threading.Event()

    @app.task(shared=False, name="tests.waits")
    def waits() -> None:
        running.release()
        go_on.wait(DEADLINE)

    with EmbeddedWorker(app, concurrency=1) as worker:
        for _ in range(3):
            waits.delay()
        assert running.acquire(timeout=DEADLINE)
        app.control.pool_grow(2, destination=[worker.hostname], reply=True, limit=1, timeout=DEADLINE)
        assert running.acquire(timeout=DEADLINE)
        assert running.acquire(timeout=DEADLINE)
        app.control.pool_shrink(2, destination=[worker.hostname], reply=True, limit=1, timeout=DEADLINE)
        go_on.set()
        wait_for(lambda: pool_of(worker, app)["threads"] == 1)
