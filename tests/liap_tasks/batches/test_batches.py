"""Batch tasks through real workers: what makes a batch, how each of its items ends, what a stop does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain
from pydantic import BaseModel

from liap_tasks import (
    BatchItem,
    BatchTask,
    DeadLetterReason,
    EmbeddedWorker,
    LiapApp,
    RetryPolicy,
    dead_letters,
)
from tests.liap_tasks.conftest import DEADLINE, Outcomes, wait_until

Stats = Callable[..., dict[str, float]]
NEVER = RetryPolicy(max_retries=0)
EVERY_POOL = pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
LONG = 60


class Move(BaseModel):
    piles: int


class Batches:
    """A batch task that notes its batches."""

    def __init__(self, app: LiapApp) -> None:
        self.app = app
        self.seen: list[list[Any]] = []

    def task(self, handle: Callable[[list[BatchItem]], Any] = lambda items: None, **options: Any) -> BatchTask:
        def collect(items: list[BatchItem]) -> Any:
            self.seen.append([item.payload for item in items])
            return handle(items)

        options = {"batch_size": 3, "batch_timeout": LONG, "retry_policy": NEVER, **options}
        made: BatchTask = self.app.task(base=BatchTask, shared=False, name="tests.batch", **options)(collect)
        return made


@pytest.fixture
def batches(app: LiapApp) -> Batches:
    return Batches(app)


@EVERY_POOL
def test_a_full_batch_is_one_call(batches: Batches, outcomes: Outcomes, stats: Stats, pool: Any) -> None:
    task = batches.task()
    with EmbeddedWorker(batches.app, pool=pool):
        for number in range(6):
            task.delay(number)
        assert outcomes.states(6) == ["SUCCESS"] * 6
    assert sorted(batches.seen) == [[0, 1, 2], [3, 4, 5]]  # two threads may begin them in either order
    assert (stats(batches.app)["acknowledged"], stats(batches.app)["unacked"]) == (6, 0)


@EVERY_POOL
def test_a_batch_that_is_not_full_is_run_when_its_time_has_come(
    batches: Batches, outcomes: Outcomes, pool: Any
) -> None:
    task = batches.task(batch_timeout=0.1)
    with EmbeddedWorker(batches.app, pool=pool):
        task.delay(1)
        task.delay(2)
        assert outcomes.states(2) == ["SUCCESS"] * 2
    assert batches.seen == [[1, 2]]


@EVERY_POOL
def test_what_waits_is_run_when_the_worker_stops(batches: Batches, outcomes: Outcomes, stats: Stats, pool: Any) -> None:
    task = batches.task()
    with EmbeddedWorker(batches.app, pool=pool) as worker:
        task.delay(1)
        wait_until(lambda: worker.waiting_for_batch == 1)
    assert batches.seen == [[1]]
    assert outcomes.next().state == "SUCCESS"
    assert (stats(batches.app)["acknowledged"], stats(batches.app)["ready"]) == (1, 0)


def test_async_functions_make_batches_too(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(base=BatchTask, shared=False, name="tests.abatch", batch_size=2, ignore_result=False)
    async def double(items: list[BatchItem]) -> list[int]:
        await asyncio.sleep(0.001)
        return [2 * item.payload for item in items]

    for pool in ("asyncio", "threads"):
        with EmbeddedWorker(app, pool=pool):  # type: ignore[arg-type]  # the literal is lost in the loop
            assert [call.get(timeout=10) for call in [double.delay(1), double.delay(2)]] == [2, 4]


def test_each_item_has_its_own_outcome(batches: Batches, outcomes: Outcomes, stats: Stats) -> None:
    def decide(items: list[BatchItem]) -> None:
        for item in items:
            match item.payload:
                case "done":
                    item.done("well done")
                case "retry":
                    if item.attempt == 1:
                        item.retry(0.001)
                case "dead":
                    item.dead_letter(DeadLetterReason.MANUAL, "the referee says no")
                case "fails":
                    item.fail(KeyError("x"))

    policy = RetryPolicy(max_retries=1, give_up_on=(KeyError,))
    task = batches.task(decide, batch_size=5, batch_timeout=0.2, ignore_result=False, retry_policy=policy)
    with EmbeddedWorker(batches.app):
        calls = {how: task.delay(how) for how in ("done", "nothing", "retry", "dead", "fails")}
        assert sorted(outcomes.states(6)) == ["FAILURE", "FAILURE", "RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]
        assert calls["done"].get(timeout=10) == "well done"
        assert calls["nothing"].get(timeout=10) is None
        with pytest.raises(KeyError):
            calls["fails"].get(timeout=10)
    assert batches.seen == [["done", "nothing", "retry", "dead", "fails"], ["retry"]]
    letters = {letter.id: letter for letter in dead_letters.peek(batches.app)}
    assert {how for how, call in calls.items() if call.id in letters} == {"dead", "fails"}
    assert letters[calls["dead"].id].detail == "the referee says no"
    assert letters[calls["fails"].id].reason is DeadLetterReason.PROCESSING_FAILED
    assert stats(batches.app)["acknowledged"] == 6
    assert batches.app.task_statistics["tests.batch"]["dead_lettered"] == 2


def test_an_error_fails_the_undecided_items_by_their_own_policy(batches: Batches, outcomes: Outcomes) -> None:
    def fail_once(items: list[BatchItem]) -> None:
        items[0].done()
        if len(batches.seen) == 1:
            raise OSError("the database is away")

    policy = RetryPolicy(max_retries=1, initial_delay=0.001)
    task = batches.task(fail_once, batch_timeout=0.1, retry_policy=policy)
    with EmbeddedWorker(batches.app):
        for number in range(3):
            task.delay(number)
        assert sorted(outcomes.states(5)) == ["RETRY", "RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert batches.seen[0] == [0, 1, 2]
    assert sorted(number for batch in batches.seen[1:] for number in batch) == [1, 2]
    assert dead_letters.count(batches.app) == 0


def test_results_must_be_as_many_as_items(batches: Batches, outcomes: Outcomes) -> None:
    task = batches.task(lambda items: ["just one"])
    with EmbeddedWorker(batches.app):
        for number in range(3):
            task.delay(number)
        assert outcomes.states(3) == ["FAILURE"] * 3
    assert {letter.exception for letter in dead_letters.peek(batches.app)} == {"TypeError"}


def test_an_item_that_does_not_fit_its_model_is_dead_alone(batches: Batches, outcomes: Outcomes) -> None:
    task = batches.task(item_model=Move)
    with EmbeddedWorker(batches.app):
        task.delay({"piles": 1})
        task.delay({"piles": "many"})
        task.delay({"piles": 3})
        assert sorted(outcomes.states(3)) == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert batches.seen == [[Move(piles=1), Move(piles=3)]]
    (letter,) = dead_letters.peek(batches.app)
    assert (letter.reason, letter.args) == (DeadLetterReason.VALIDATION_FAILED, ({"piles": "many"},))


@pytest.mark.parametrize("key", ["room", lambda args, kwargs: kwargs.get("room")])
def test_messages_of_different_keys_are_never_in_one_batch(batches: Batches, outcomes: Outcomes, key: Any) -> None:
    task = batches.task(batch_size=2, batch_key=key)
    with EmbeddedWorker(batches.app, pool="solo"):
        for number, room in enumerate(["r1", "r2", "r1", "r2"]):
            task.delay(number, room=room)
        outcomes.states(4)
    assert batches.seen == [[0, 2], [1, 3]]


def test_the_time_limit_is_the_batch_s(batches: Batches, outcomes: Outcomes) -> None:
    def overrun(items: list[BatchItem]) -> None:
        items[0].done()
        while True:
            time.sleep(0.001)

    task = batches.task(overrun, timeout=0.1, batch_size=2)
    with EmbeddedWorker(batches.app):
        task.delay(1)
        task.delay(2)
        assert sorted(outcomes.states(2)) == ["FAILURE", "SUCCESS"]
    (letter,) = dead_letters.peek(batches.app)
    assert (letter.reason, letter.args) == (DeadLetterReason.TIMED_OUT, (2,))


def test_a_batch_larger_than_the_prefetch_fills(new_app: Callable[..., LiapApp], outcomes: Outcomes) -> None:
    batches = Batches(new_app(batch_size=70))
    task = batches.task(batch_size=None)
    with EmbeddedWorker(batches.app, concurrency=1):
        for number in range(70):
            task.delay(number)
        outcomes.states(70)
    assert batches.seen == [list(range(70))]


def test_the_settings_are_the_defaults(new_app: Callable[..., LiapApp]) -> None:
    task = Batches(new_app(batch_size=7, batch_timeout_seconds=0.5)).task(batch_size=None, batch_timeout=None)
    assert (task.batch_size, task.batch_timeout) == (7, 0.5)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 1.5}, {"batch_timeout": 0}])
def test_wrong_bounds_are_refused_by_name(batches: Batches, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        batches.task(**wrong).run


def test_a_revoked_item_is_left_out(batches: Batches, outcomes: Outcomes) -> None:
    task = batches.task()
    with EmbeddedWorker(batches.app, pool="solo") as worker:
        batches.app.control.revoke("r-1", destination=[worker.hostname], reply=True, timeout=5, limit=1)
        task.apply_async((0,), task_id="r-1")
        for number in (1, 2, 3):
            task.delay(number)
        outcomes.states(3)
    assert batches.seen == [[1, 2, 3]]
    assert dead_letters.count(batches.app) == 0


def test_a_chain_goes_on_from_an_item(batches: Batches, app: LiapApp, outcomes: Outcomes) -> None:
    task = batches.task(lambda items: [10 * item.payload for item in items], batch_size=1)

    @app.task(shared=False, name="tests.after", ignore_result=False)
    def after(number: int) -> int:
        return number + 1

    with EmbeddedWorker(app):
        assert chain(task.s(4), after.s()).apply_async().get(timeout=10) == 41


def test_eager_calls_are_batches_of_one(batches: Batches) -> None:
    batches.app.conf.task_always_eager = True
    task = batches.task(lambda items: [item.payload + 1 for item in items], ignore_result=False)
    assert task.delay(1).get() == 2
    assert batches.seen == [[1]]


def test_a_shared_batch_task_joins_an_app_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "7")
    other = Celery("other", set_as_current=False, broker="liap-memory:///other")

    @other.task(base=BatchTask, shared=False, name="tests.joins")
    def made(items: list[BatchItem]) -> None: ...

    assert made.batch_size == 7
    assert made.soft_time_limit == 30
    other.close()


def test_a_revoke_of_a_batch_in_the_solo_pool_does_not_end_the_worker(app: LiapApp, outcomes: Outcomes) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(items: list[BatchItem]) -> None:
        begun.set()
        go_on.wait(DEADLINE)

    batches = Batches(app)
    task = batches.task(handle, batch_size=10, batch_timeout=0.01)
    with EmbeddedWorker(app, pool="solo"):  # which runs it in the thread of its timer
        sent = task.delay(1)
        assert begun.wait(DEADLINE)
        (answer,) = app.control.revoke(sent.id, terminate=True, reply=True, timeout=DEADLINE, limit=1)
        assert "NotImplementedError" in str(answer)
        go_on.set()
        assert outcomes.next().state == "SUCCESS"
        task.delay(2)
        assert outcomes.next().state == "SUCCESS"
