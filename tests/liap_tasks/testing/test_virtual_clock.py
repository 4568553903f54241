"""Virtual time through a real worker: when ``advance`` returns, everything that was due has happened."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liap_tasks import BatchItem, BatchTask, DeadLetterPolicy, EmbeddedWorker, LiapApp, RetryPolicy, schedule
from liap_tasks.dead_letter_store import LetterFilter
from liap_tasks.testing import DeadLetters, NotAtRestError, WorkerClock

NEVER = RetryPolicy(max_retries=0)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def note(liap_app: LiapApp, virtual_clock: WorkerClock, seen: list[Any]) -> Callable[..., Any]:
    """Make a task that notes its argument and the second at which it ran, and fails for some arguments."""

    def make(fails: tuple[Any, ...] = (), **options: Any) -> Any:
        @liap_app.task(name="tests.note", shared=False, **options)
        def note(what: Any) -> None:
            seen.append((what, round(virtual_clock.now(), 3)))
            if what in fails:
                raise ValueError(what)

        return note

    return make


def test_a_delayed_call_runs_at_its_second(
    note: Callable[..., Any], virtual_clock: WorkerClock, liap_worker: EmbeddedWorker, seen: list[Any]
) -> None:
    task = note()
    task.apply_async(("late",), countdown=3600)
    task.apply_async(("soon",), eta=datetime.fromtimestamp(virtual_clock.time() + 10, UTC))
    task.delay("now")
    virtual_clock.settle()
    assert seen == [("now", 0)]
    virtual_clock.advance(3599)
    assert seen == [("now", 0), ("soon", 10)]
    virtual_clock.advance(1)
    assert seen[-1] == ("late", 3600)


@pytest.mark.parametrize("liap_worker_options", [{"pool": pool} for pool in ("solo", "threads", "asyncio")])
def test_each_retry_runs_at_its_second_and_the_last_leaves_a_dead_letter(
    note: Callable[..., Any],
    virtual_clock: WorkerClock,
    liap_worker: EmbeddedWorker,
    seen: list[Any],
    dead_letters: DeadLetters,
) -> None:
    policy = RetryPolicy(max_retries=3, initial_delay=1, max_delay=60, jitter=False)
    task = note(fails=("x",), retry_policy=policy)
    task.delay("x")
    virtual_clock.advance(6)
    assert seen == [("x", 0), ("x", 1), ("x", 3)]
    assert not dead_letters
    virtual_clock.advance(1)
    assert seen[-1] == ("x", 7)
    [letter] = dead_letters
    assert (letter.reason, letter.died_at) == ("retries_exhausted", virtual_clock.time())
    assert [attempt["at"] - letter.died_at for attempt in letter.attempts] == pytest.approx([-7, -6, -4, 0])


def test_a_message_that_waits_too_long_expires(
    liap_app: LiapApp, note: Callable[..., Any], virtual_clock: WorkerClock, seen: list[Any], dead_letters: DeadLetters
) -> None:
    task = note()
    task.delay("a")
    task.apply_async(("b",), answer_within=10)
    virtual_clock.advance(10)
    assert [letter.reason for letter in dead_letters] == ["expired"]
    virtual_clock.advance(290)
    with EmbeddedWorker(liap_app):
        virtual_clock.settle()
    assert seen == []
    assert [dead_letters.call_of(letter).args for letter in dead_letters] == [["b"], ["a"]]


def test_a_deadline_ends_the_retries(
    note: Callable[..., Any],
    virtual_clock: WorkerClock,
    liap_worker: EmbeddedWorker,
    seen: list[Any],
    dead_letters: DeadLetters,
) -> None:
    policy = RetryPolicy(max_retries=9, initial_delay=10, exponential=False, jitter=False)
    task = note(fails=("x",), retry_policy=policy)
    task.apply_async(("x",), answer_within=25)
    virtual_clock.advance(600)
    assert [at for _, at in seen] == [0, 10, 20]
    assert "leaves no time" in dead_letters[0].detail


def test_a_dead_letter_is_tried_again_and_in_the_end_purged(
    liap_app: LiapApp,
    note: Callable[..., Any],
    virtual_clock: WorkerClock,
    liap_worker: EmbeddedWorker,
    seen: list[Any],
    dead_letters: DeadLetters,
) -> None:
    policy = DeadLetterPolicy(max_retries=2, retry_delay=60, ttl=timedelta(hours=24))
    task = note(fails=("x",), retry_policy=NEVER, dead_letter_policy=policy)
    task.delay("x")
    virtual_clock.advance(59)
    assert [at for _, at in seen] == [0]
    virtual_clock.advance(600)
    assert [at for _, at in seen] == [0, 60, 180]
    assert [letter.replays for letter in dead_letters] == [2]
    virtual_clock.advance(24 * 3600)
    assert liap_app.dead_letter_store.count(LetterFilter(states=("purged",))) == 3
    assert not dead_letters


def test_the_deduplication_window_passes(
    note: Callable[..., Any], virtual_clock: WorkerClock, liap_worker: EmbeddedWorker, seen: list[Any]
) -> None:
    task = note(dedup_key="what")
    for _ in range(2):
        task.delay("once")
    virtual_clock.advance(299)
    task.delay("once")
    virtual_clock.advance(2)
    task.delay("once")
    virtual_clock.settle()
    assert [at for _, at in seen] == [0, 301]


def test_a_batch_that_is_not_full_is_run_when_its_time_has_come(
    liap_app: LiapApp, virtual_clock: WorkerClock, seen: list[Any]
) -> None:
    @liap_app.task(base=BatchTask, name="tests.batch", shared=False, batch_size=10, batch_timeout=5)
    def batch(items: list[BatchItem]) -> None:
        seen.append(([item.payload for item in items], virtual_clock.now()))

    with EmbeddedWorker(liap_app):
        batch.delay(1)
        virtual_clock.advance(3)
        batch.delay(2)
        virtual_clock.advance(1.5)
        assert seen == []
        virtual_clock.advance(1)
    assert seen == [([1, 2], 5)]


def test_events_of_one_key_wait_for_a_retry_of_the_one_before(
    note: Callable[..., Any], virtual_clock: WorkerClock, liap_worker: EmbeddedWorker, seen: list[Any]
) -> None:
    policy = RetryPolicy(max_retries=1, initial_delay=30, jitter=False)
    task = note(fails=("first",), retry_policy=policy, ordering_key=lambda args, kwargs: "room")
    task.delay("first")
    task.delay("second")
    virtual_clock.advance(29)
    assert seen == [("first", 0)]
    virtual_clock.advance(1)
    assert seen == [("first", 0), ("first", 30), ("second", 30)]


def test_a_rescheduled_call_runs_when_it_was_moved_to(
    liap_app: LiapApp,
    note: Callable[..., Any],
    virtual_clock: WorkerClock,
    liap_worker: EmbeddedWorker,
    seen: list[Any],
) -> None:
    call = note().apply_async(("x",), countdown=10)
    [listed] = schedule.scheduled(liap_app)
    assert listed.due.timestamp() == pytest.approx(virtual_clock.time() + 10)
    assert schedule.reschedule(liap_app, call.id, eta=listed.due + timedelta(seconds=90))
    virtual_clock.advance_to(listed.due + timedelta(seconds=91))
    assert seen == [("x", 100)]


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("liap_worker_options", [{"pool": "asyncio"}, {"pool": "threads"}])
def test_a_task_that_never_ends_runs_out_of_its_time_or_that_of_its_call(
    liap_app: LiapApp,
    virtual_clock: WorkerClock,
    liap_worker: EmbeddedWorker,
    dead_letters: DeadLetters,
    asynchronous: bool,
) -> None:
    begun = threading.Semaphore(0)
    options: dict[str, Any] = {"shared": False, "retry_policy": NEVER, "timeout": 30, "ignore_result": False}

    @liap_app.task(name="tests.async_loop", fallback=lambda: "the fallback", **options)
    async def async_loop() -> None:
        begun.release()
        await asyncio.Event().wait()

    @liap_app.task(name="tests.loop", fallback=lambda: "the fallback", **options)
    def loop() -> None:
        begun.release()
        while True:
            time.sleep(0.001)

    task = async_loop if asynchronous else loop
    limited, asked = task.delay(), task.apply_async(answer_within=20)
    for _ in range(2):
        assert begun.acquire(timeout=60)
    virtual_clock.advance(20, settle=False)
    assert asked.get(timeout=60) == "the fallback"
    virtual_clock.advance(9.9, settle=False)
    assert not limited.ready()
    virtual_clock.advance(0.1, settle=False)
    assert limited.get(timeout=60) == "the fallback"
    virtual_clock.advance(3600)
    assert not dead_letters


def test_a_worker_that_does_not_come_to_rest_is_named(
    liap_app: LiapApp, virtual_clock: WorkerClock, liap_worker: EmbeddedWorker
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @liap_app.task(name="tests.waits", shared=False)
    def waits() -> None:
        begun.set()
        go_on.wait(60)

    waits.delay()
    assert begun.wait(60)
    virtual_clock.patience = 0.05
    with pytest.raises(NotAtRestError, match="1 messages of queue 'liap_tasks' are being processed"):
        virtual_clock.advance(1)
    virtual_clock.advance(1, settle=False)
    go_on.set()
    virtual_clock.patience = 60
    virtual_clock.settle()
