"""Unique tasks through embedded workers: who is refused, who waits, and when the next call may be made."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import beat, chain, chord
from celery.exceptions import Reject
from celery.result import AsyncResult
from celery.signals import task_revoked

from liap_tasks import (
    BatchTask,
    DeadLetterReason,
    DeliveryOptions,
    DuplicateTaskError,
    EmbeddedWorker,
    EventExchange,
    LiapApp,
    QueueFullError,
    RetryPolicy,
    Unique,
    UniqueStoreError,
    dead_letters,
    schedule,
)
from liap_tasks.dead_letter_store.operations import CallChange, edit, replay
from liap_tasks.testing.clock import WorkerClock
from liap_tasks.testing.isolation import isolated
from liap_tasks.unique.memory import MemoryStore
from liap_tasks.unique.running import UniqueAttempt
from tests.liap_tasks.conftest import DEADLINE, Outcomes, wait_until
from tests.liap_tasks.unique.conftest import Settling

Stats = Callable[..., dict[str, float]]


# -- callers ---------------------------------------------------------------------------------------------------


def test_a_second_call_is_refused_until_the_first_is_done(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make()
    settling.gate.clear()
    first = settle.delay("r1")
    with pytest.raises(DuplicateTaskError) as queued:
        settle.delay("r1", "again")
    other = settle.delay("r2")

    with EmbeddedWorker(settling.app, concurrency=2):
        for _ in range(2):
            settling.wait_until_begun()
        with pytest.raises(DuplicateTaskError) as running:
            settle.apply_async((), {"room": "r1"})
        settling.gate.set()
        assert {outcomes.next().id, outcomes.next().id} == {first.id, other.id}
        assert settling.lock() is None
        settle.delay("r1")
        assert outcomes.states(1) == ["SUCCESS"]

    for refused in (queued, running):
        assert (refused.value.task, refused.value.holder) == ("tests.settle", first.id)
        assert first.id in str(refused.value)
    assert settling.seen == ["well"] * 3


def test_the_caller_may_get_the_result_of_the_call_that_has_the_key(settling: Settling) -> None:
    settle = settling.make(unique=Unique(key="room", on_conflict="return"))
    first = settle.delay("r1", "first")
    second = settle.delay("r1", "second")
    assert isinstance(second, AsyncResult)
    assert second.id == first.id

    with EmbeddedWorker(settling.app):
        assert first.get(timeout=DEADLINE) == "first"
    assert settling.seen == ["first"]


def test_until_started_another_call_may_be_queued_while_one_runs(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make(unique=Unique(key="room", until="started"))
    settling.gate.clear()
    settle.delay("r1")
    with pytest.raises(DuplicateTaskError):
        settle.delay("r1")
    with EmbeddedWorker(settling.app, concurrency=1):
        settling.wait_until_begun()
        settle.delay("r1")
        with pytest.raises(DuplicateTaskError):
            settle.delay("r1")
        settling.gate.set()
        assert outcomes.states(2) == ["SUCCESS"] * 2
    assert settling.tokens == []
    assert settling.lock() is None


def test_until_running_many_may_be_queued_and_one_runs_at_a_time(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make(unique=Unique(key="room", until="running"))
    settling.gate.clear()
    sent = {settle.delay("r1").id for _ in range(4)}
    elsewhere = settle.delay("r2").id
    with EmbeddedWorker(settling.app, concurrency=4):
        for _ in range(2):
            settling.wait_until_begun()
        assert [outcomes.next().state for _ in range(3)] == ["IGNORED"] * 3  # they wait
        settling.gate.set()
        done = set()
        while done != sent | {elsewhere}:
            ended = outcomes.next()
            if ended.state == "SUCCESS":
                done.add(ended.id)
    assert settling.most_at_once == 2  # one of each room
    assert len(settling.seen) == 5
    assert len(set(settling.tokens)) == 5
    assert settling.app.task_statistics["tests.settle"]["waited"] >= 3


def test_a_call_s_arguments_are_compared_as_the_worker_gets_them(app: LiapApp) -> None:
    @app.task(name="tests.all", shared=False, unique=Unique())
    def everything(room: str, at: datetime, many: tuple[int, ...] = ()) -> None: ...

    now = datetime.now(UTC)
    everything.delay("r1", now)
    with pytest.raises(DuplicateTaskError):
        everything.delay(room="r1", at=now, many=[])
    everything.delay("r1", now + timedelta(seconds=1))


def test_a_call_whose_key_is_none_is_not_unique(settling: Settling) -> None:
    settle = settling.make(unique=Unique(key=lambda args, kwargs: args[0] if len(args) > 1 else None))
    for _ in range(2):
        settle.delay("r1")
    settle.delay("r1", "x")
    with pytest.raises(DuplicateTaskError):
        settle.delay("r1", "y")


def test_coroutines_are_refused_and_share_answers_alike(settling: Settling) -> None:
    settle = settling.make()

    @settling.app.task(name="tests.shared", shared=False, unique=Unique(on_conflict="return"), ignore_result=False)
    def shared(room: str) -> str:
        settling.begun.release()
        settling.gate.wait(DEADLINE)
        return f"{room} is settled"

    async def scenario() -> list[Any]:
        first = await settle.adelay("r1")
        with pytest.raises(DuplicateTaskError) as refused:
            await settle.adelay("r1")
        assert refused.value.holder == first.id
        settling.gate.clear()
        calls = [asyncio.create_task(shared.call("r1", timeout=DEADLINE)) for _ in range(3)]
        one = shared.submit(("r1",))
        with EmbeddedWorker(settling.app, concurrency=4):
            await asyncio.to_thread(settling.wait_until_begun)
            settling.gate.set()
            return [*await asyncio.gather(*calls), await one.aget(DEADLINE)]

    assert asyncio.run(scenario()) == ["r1 is settled"] * 4


def test_the_answer_to_another_process_s_call_is_not_waited_for_in_vain(settling: Settling) -> None:
    settle = settling.make(unique=Unique(key="room", on_conflict="return"))
    settling.app.unique_locks.store.acquire('tests.settle:{"room":"r1"}', "elsewhere", 60)

    async def scenario() -> None:
        result = await settle.adelay("r1")
        assert result.id == "elsewhere"
        with pytest.raises(RuntimeError, match="result backend that keeps results"):
            await result.aget(DEADLINE)

    asyncio.run(scenario())


def test_beat_skips_a_call_while_the_last_one_is_not_over(settling: Settling, stats: Stats) -> None:
    settling.make(unique=Unique(key="room", on_conflict="return"))
    settling.app.conf.beat_schedule = {
        "settle": {"task": "tests.settle", "schedule": timedelta(seconds=1), "args": ("r1",)}
    }
    scheduler = beat.Scheduler(app=settling.app)
    results = [scheduler.apply_async(scheduler.schedule["settle"], advance=False).id for _ in range(3)]
    assert len(set(results)) == 1
    assert stats(settling.app)["ready"] == 1


# -- when the lock is free again -------------------------------------------------------------------------------


def test_it_is_kept_across_retries_with_a_higher_token_each(settling: Settling, outcomes: Outcomes) -> None:
    later = RetryPolicy(max_retries=1, initial_delay=3600, max_delay=3600, jitter=False)
    settle = settling.make(retry_policy=later)
    first = settle.delay("r1", "badly on attempt 1")
    with EmbeddedWorker(settling.app):
        assert outcomes.states(1) == ["RETRY"]
        with pytest.raises(DuplicateTaskError):
            settle.delay("r1")
        lock = settling.lock()
        assert lock is not None
        assert lock.holder == first.id
        assert lock.expires_at > time.time() + 3600  # it covers the delay
        assert schedule.reschedule(settling.app, first.id, countdown=0)
        assert outcomes.states(1) == ["SUCCESS"]
        assert settling.lock() is None
    assert settling.tokens == sorted(set(settling.tokens))
    assert len(settling.tokens) == 2


def test_it_is_free_after_a_dead_letter(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make()
    settle.delay("r1", "badly")
    with EmbeddedWorker(settling.app):
        assert outcomes.states(1) == ["FAILURE"]
        assert settling.lock() is None
        settle.delay("r1")
        assert outcomes.states(1) == ["SUCCESS"]
    assert dead_letters.count(settling.app) == 1


def test_a_call_whose_arguments_do_not_fit_leaves_no_lock(settling: Settling, outcomes: Outcomes) -> None:
    settling.make(unique=Unique(until="running"))
    with EmbeddedWorker(settling.app):
        settling.app.send_task("tests.settle", (), {"no_such": 1})
        assert outcomes.states(1) == ["FAILURE"]
    (letter,) = dead_letters.peek(settling.app)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED


def test_it_is_free_when_a_filter_refuses_the_message(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make(filters=[lambda message: message.args != ("r1",)])
    settle.delay("r1")
    with EmbeddedWorker(settling.app):
        assert outcomes.states(1) == ["IGNORED"]
        assert settling.lock() is None


def test_it_is_free_when_the_publish_fails(new_app: Callable[..., LiapApp], settling_on: Any) -> None:
    settling = settling_on(new_app(max_queue_size=1))
    settle = settling.make()
    settle.delay("r1")
    with pytest.raises(QueueFullError):
        settle.delay("r2")
    assert settling.lock("r2") is None
    assert settling.lock("r1") is not None


def test_it_is_free_when_a_worker_comes_to_a_revoked_call(settling: Settling) -> None:
    settle = settling.make()
    revoked = threading.Event()
    task_revoked.connect(lambda **_: revoked.set(), weak=False, dispatch_uid="unique-revoked")
    try:
        settling.gate.clear()
        settle.delay("other")
        with EmbeddedWorker(settling.app, concurrency=1) as worker:
            settling.wait_until_begun()
            call = settle.apply_async(("r1",), countdown=3600)
            settling.app.control.revoke(call.id, destination=[worker.hostname], reply=True, timeout=DEADLINE)
            schedule.reschedule(settling.app, call.id, countdown=0)
            assert revoked.wait(DEADLINE)
            assert settling.lock() is None
            settling.gate.set()
    finally:
        task_revoked.disconnect(dispatch_uid="unique-revoked")
    assert settling.seen == ["well"]


def test_it_is_free_when_a_running_call_is_terminated(app: LiapApp) -> None:
    begun, revoked = threading.Event(), threading.Event()

    @app.task(name="tests.for_ever", shared=False, unique=Unique())
    async def for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    task_revoked.connect(lambda **_: revoked.set(), weak=False, dispatch_uid="unique-terminated")
    try:
        with EmbeddedWorker(app, pool="asyncio"):
            call = for_ever.delay()
            assert begun.wait(DEADLINE)
            with pytest.raises(DuplicateTaskError):
                for_ever.delay()
            app.control.revoke(call.id, terminate=True)
            assert revoked.wait(DEADLINE)
            assert app.unique_locks.store.find("tests.for_ever:{}") is None
    finally:
        task_revoked.disconnect(dispatch_uid="unique-terminated")


def test_a_delayed_call_keeps_others_out_until_it_is_cancelled(settling: Settling) -> None:
    settle = settling.make()
    call = settle.apply_async(("r1",), eta=datetime.now(UTC) + timedelta(hours=2))
    lock = settling.lock()
    assert lock is not None
    assert lock.expires_at - time.time() > 7200
    with pytest.raises(DuplicateTaskError):
        settle.delay("r1")
    assert schedule.cancel(settling.app, call.id)
    settle.delay("r1")


def test_it_is_free_when_the_broker_s_dead_letter_is_recorded(
    new_app: Callable[..., LiapApp], settling_on: Any, tmp_path: Path
) -> None:
    settling = settling_on(new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0))
    settle = settling.make()
    settle.apply_async(("r1",), queue="tests.nobody", delivery=DeliveryOptions(ttl=0))
    assert settling.lock() is not None
    with EmbeddedWorker(settling.app):
        wait_until(lambda: settling.lock() is None)
    assert settling.app.dead_letter_store.count() == 1


def test_it_is_free_when_a_worker_does_not_know_the_task(
    app: LiapApp, new_app: Callable[..., LiapApp], settling: Settling
) -> None:
    settle = settling.make()
    settle.delay("r1")
    unaware = new_app(message_queue_url=app.conf.broker_url)
    with EmbeddedWorker(unaware):
        wait_until(lambda: settling.lock() is None)
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.NO_HANDLER


def test_a_call_that_goes_back_to_its_queue_keeps_others_out_while_it_waits_there(
    app: LiapApp, outcomes: Outcomes
) -> None:
    leases: list[float] = []

    class Noting(MemoryStore):
        def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
            leases.append(seconds)
            return super().renew(key, holder, token, seconds)

    @app.task(name="tests.goes_back", shared=False, bind=True, unique=Unique(lease=10))
    def goes_back(self: Any) -> None:
        if not self.request.delivery_info.get("redelivered"):
            raise Reject("not now", requeue=True)

    app.unique_locks._store = Noting()
    goes_back.delay()
    with EmbeddedWorker(app):
        assert outcomes.states(2) == ["REJECTED", "SUCCESS"]
    assert leases == [310.0]
    assert app.unique_locks.store.find("tests.goes_back:{}") is None


def test_a_call_that_is_cut_short_keeps_its_lock_for_its_redelivery(settling: Settling) -> None:
    settle = settling.make()
    for cut_short in (asyncio.CancelledError(), SystemExit(1)):
        settle.push_request(id="call-1", headers={}, called_directly=False, is_eager=False)
        attempt = UniqueAttempt(settle)
        assert attempt.begin(("r1",), {}) is None
        attempt.end(cut_short)
        settle.pop_request()
        lock = settling.lock()
        assert lock is not None
        assert lock.holder == "call-1"


def test_a_task_that_sends_its_own_retry_and_ends_keeps_its_lock(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[Any] = []

    @app.task(name="tests.goes_on", shared=False, bind=True, unique=Unique())
    def goes_on(self: Any) -> None:
        if self.attempt == 1:
            self.retry(throw=False, countdown=3600)

    call = goes_on.delay()
    with EmbeddedWorker(app):
        outcomes.states(1)
        seen.append(app.unique_locks.store.find("tests.goes_on:{}"))
        schedule.reschedule(app, call.id, countdown=0)
        assert outcomes.states(1) == ["SUCCESS"]
    assert seen[0].holder == call.id
    assert app.unique_locks.store.find("tests.goes_on:{}") is None


def test_leases_go_by_the_app_s_clock_and_are_renewed_by_it(
    liap_app: LiapApp, virtual_clock: WorkerClock, settling_on: Callable[[LiapApp], Settling]
) -> None:
    settling = settling_on(liap_app)
    settle = settling.make(unique=Unique(key="room", lease=10, queue_lease=20), timeout=0)
    settling.gate.clear()
    settle.delay("nobody runs it")
    virtual_clock.advance(29)
    with pytest.raises(DuplicateTaskError):
        settle.delay("nobody runs it")
    virtual_clock.advance(1)
    assert settling.lock("nobody runs it") is None

    settle.delay("r1")
    with EmbeddedWorker(liap_app, concurrency=2):
        for _ in range(2):
            settling.wait_until_begun()
        virtual_clock.advance(3600, settle=False)
        with pytest.raises(DuplicateTaskError):
            settle.delay("r1")
        settling.gate.set()
        virtual_clock.settle()
        assert settling.lock() is None


def test_an_isolated_app_has_the_locks_of_nobody_else(app: LiapApp, settling: Settling) -> None:
    settle = settling.make()
    settle.delay("r1")
    for _ in range(2):
        with isolated(app):
            settle.delay("r1")
    with pytest.raises(DuplicateTaskError):
        settle.delay("r1")


# -- who waits -------------------------------------------------------------------------------------------------


def test_a_replayed_dead_letter_waits_for_the_call_that_has_its_key(
    new_app: Callable[..., LiapApp], settling_on: Any, tmp_path: Path, outcomes: Outcomes
) -> None:
    settling = settling_on(new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0))
    app = settling.app
    settle = settling.make()
    dead = settle.delay("r1", "badly on attempt 1")
    with EmbeddedWorker(app, concurrency=2):
        assert outcomes.next().state == "FAILURE"
        wait_until(lambda: app.dead_letter_store.count() == 1)
        settling.wait_until_begun()
        settling.gate.clear()
        settle.delay("r1")
        settling.wait_until_begun()
        assert replay(app).replayed == 1
        waits = outcomes.next()
        assert (waits.id, waits.state) == (dead.id, "IGNORED")
        settling.gate.set()
        assert outcomes.next().state == "SUCCESS"
        while outcomes.next().state != "FAILURE":  # it dies again, after it has got the lock
            pass
    assert settling.most_at_once == 1
    assert settling.seen == ["badly on attempt 1", "well", "badly on attempt 1"]
    assert settling.tokens == sorted(set(settling.tokens))


def test_a_dead_letter_that_was_edited_has_the_key_of_its_new_arguments(
    new_app: Callable[..., LiapApp], settling_on: Any, tmp_path: Path, outcomes: Outcomes
) -> None:
    settling = settling_on(new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0))
    app = settling.app
    settle = settling.make()
    dead = settle.delay("r1", "badly")
    with EmbeddedWorker(app, concurrency=2):
        assert outcomes.next().state == "FAILURE"
        wait_until(lambda: app.dead_letter_store.count() == 1)
        settling.wait_until_begun()
        (letter,) = app.dead_letter_store.list(limit=1)
        edit(app, letter.id, CallChange(args=["r2", "mended"]), who="somebody@here")
        settling.gate.clear()
        settle.delay("r1")
        settling.wait_until_begun()
        replay(app)
        settling.wait_until_begun()  # at once: nobody has its new key
        lock = settling.lock("r2")
        settling.gate.set()
        assert outcomes.states(2) == ["SUCCESS"] * 2
    assert lock is not None
    assert lock.holder == dead.id
    assert settling.lock("r2") is None


def test_the_rest_of_a_chain_and_a_callback_wait_rather_than_being_refused(
    settling: Settling, outcomes: Outcomes
) -> None:
    app = settling.app
    settle = settling.make()

    @app.task(name="tests.first", shared=False)
    def first() -> None: ...

    settling.gate.clear()
    settle.delay("r1", "holder")
    with EmbeddedWorker(app, concurrency=4):
        settling.wait_until_begun()
        chain(first.si(), settle.si("r1", "in a chain")).apply_async()
        first.apply_async(link=settle.si("r1", "called back"))
        states = sorted(outcomes.next().state for _ in range(4))
        assert states == ["IGNORED", "IGNORED", "SUCCESS", "SUCCESS"]
        settling.gate.set()
        wait_until(lambda: len(settling.seen) == 3)
    assert settling.seen[0] == "holder"
    assert sorted(settling.seen[1:]) == ["called back", "in a chain"]
    assert settling.most_at_once == 1


def test_a_call_that_others_depend_on_is_sent_and_waits(settling: Settling, outcomes: Outcomes) -> None:
    app = settling.app
    settle = settling.make(unique=Unique(key="room", on_conflict="return"))
    heard: list[str] = []

    @app.task(name="tests.hears", shared=False)
    def hears(what: str) -> None:
        heard.append(what)

    first = settle.delay("r1")
    linked = settle.apply_async(("r1", "linked"), link=hears.s())
    assert linked.id != first.id
    with EmbeddedWorker(app, concurrency=1):
        wait_until(lambda: heard)
    assert heard == ["linked"]
    assert settling.seen == ["well", "linked"]


def test_a_chain_of_one_key_runs_step_by_step(settling: Settling) -> None:
    settle = settling.make()
    with EmbeddedWorker(settling.app):
        result = chain(settle.si("r1", "1"), settle.si("r1", "2"), settle.si("r1", "3")).apply_async()
        assert result.get(timeout=DEADLINE) == "3"
    assert settling.seen == ["1", "2", "3"]


def test_a_waiting_call_keeps_its_result_its_attempt_and_its_order(settling: Settling, outcomes: Outcomes) -> None:
    settle = settling.make(ordering_key="room", dedup_key="how", unique=Unique(key="room", until="running"))
    store = settling.app.unique_locks.store
    lock = store.acquire('tests.settle:{"room":"r1"}', "somebody", 60)
    with EmbeddedWorker(settling.app, concurrency=4):
        sent = [settle.delay("r1", how) for how in ("1", "2", "3")]
        for _ in range(2):
            waits = outcomes.next()
            assert (waits.id, waits.state) == (sent[0].id, "IGNORED")
        store.release(lock.key, lock.holder, lock.token)
        assert [result.get(timeout=DEADLINE) for result in sent] == ["1", "2", "3"]
    assert settling.seen == ["1", "2", "3"]
    assert settling.app.task_statistics["tests.settle"]["total_retries"] == 0


def test_a_call_by_name_and_an_event_take_their_lock_when_they_begin(
    app: LiapApp, new_app: Callable[..., LiapApp], settling: Settling, outcomes: Outcomes
) -> None:
    settling.make(unique=Unique())
    unaware = new_app(message_queue_url=app.conf.broker_url)  # has the broker, not the task
    for _ in range(2):
        unaware.send_task("tests.settle", ("r1",))
    events = EventExchange(app, "tests.unique")

    @app.task(name="tests.hears", shared=False, bind=True, unique=Unique())
    def hears(self: Any, event: dict[str, Any]) -> None:
        settling.tokens.append(self.unique_lock.token)

    events.subscribe("room.#", "tests.hears")
    events.publish("room.moved", {"n": 1})
    with EmbeddedWorker(app, concurrency=3):
        wait_until(lambda: len(settling.tokens) == 3)
        wait_until(lambda: len(settling.seen) == 2)
    assert settling.most_at_once == 1


def test_a_continuation_whose_key_cannot_be_told_is_published_all_the_same(
    settling: Settling, outcomes: Outcomes
) -> None:
    settle = settling.make(unique=Unique(key=lambda args, kwargs: kwargs["no such"]))
    with pytest.raises(KeyError):
        settle.delay("r1")

    @settling.app.task(name="tests.first", shared=False)
    def first() -> None: ...

    with EmbeddedWorker(settling.app):
        chain(first.si(), settle.si("r1")).apply_async()
        assert outcomes.states(2) == ["SUCCESS", "FAILURE"]
    (letter,) = dead_letters.peek(settling.app)
    assert (letter.task, letter.exception) == ("tests.settle", "KeyError")


def test_a_worker_that_looks_for_the_locks_elsewhere_says_so(
    settling: Settling, outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    settle = settling.make()
    settle.delay("r1")
    settling.app.unique_locks._store = MemoryStore()
    with EmbeddedWorker(settling.app):
        assert outcomes.states(1) == ["SUCCESS"]
        settle.delay("r1")
        assert outcomes.states(1) == ["SUCCESS"]
    assert [record.levelname for record in caplog.records if "UNIQUE_STORE_URL is not the same" in record.message] == [
        "WARNING"
    ]


# -- locks that cannot be reached ------------------------------------------------------------------------------


class Flaky(MemoryStore):
    """Locks that can be out of reach."""

    away = False

    def _check_process(self) -> None:
        if self.away:
            raise UniqueStoreError("memory://", "away")
        super()._check_process()


@pytest.fixture
def flaky(app: LiapApp) -> Flaky:
    store = app.unique_locks._store = Flaky()
    return store


def test_without_its_locks_a_call_is_refused_and_a_message_waits(
    settling: Settling, flaky: Flaky, outcomes: Outcomes, stats: Stats
) -> None:
    settle = settling.make()
    settle.delay("r1")
    flaky.away = True
    with pytest.raises(UniqueStoreError, match=r"at memory:// cannot be reached.*UNIQUE_STORE_URL"):
        settle.delay("r2")
    with EmbeddedWorker(settling.app):
        assert outcomes.states(2) == ["IGNORED"] * 2
        flaky.away = False
        while outcomes.next().state != "SUCCESS":
            pass
    assert settling.seen == ["well"]
    assert stats(settling.app)["ready"] == 0


def test_locks_that_are_away_when_a_call_ends_hold_up_nothing(
    settling: Settling, flaky: Flaky, outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    settle = settling.make(retry_policy=RetryPolicy(max_retries=1, initial_delay=0.01))
    settling.gate.clear()
    settle.delay("r1")
    with EmbeddedWorker(settling.app):
        settling.wait_until_begun()
        flaky.away = True
        settling.gate.set()
        assert outcomes.states(1) == ["SUCCESS"]
        flaky.away = False
        assert settling.lock() is not None  # until its lease ends
    assert "is not freed, its lease must end" in caplog.text


def test_a_task_that_fails_open_goes_on_without_a_lock(settling: Settling, flaky: Flaky, outcomes: Outcomes) -> None:
    settle = settling.make(unique=Unique(key="room", fail_open=True))
    flaky.away = True
    for _ in range(2):
        settle.delay("r1")
    with EmbeddedWorker(settling.app):
        assert outcomes.states(2) == ["SUCCESS"] * 2
    assert settling.tokens == []


# -- every pool, and without a worker --------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_every_pool_runs_under_the_lock_and_frees_it(
    app: LiapApp, outcomes: Outcomes, pool: str, is_coroutine: bool
) -> None:
    held: list[Any] = []

    def look(self: Any) -> None:
        lock = app.unique_locks.store.find("tests.looks:{}")
        held.append((lock is not None and lock.token == self.unique_lock.token, self.unique_lock.held))

    async def look_from_loop(self: Any) -> None:
        await asyncio.sleep(0)
        look(self)

    looks = app.task(name="tests.looks", shared=False, bind=True, unique=Unique())(
        look_from_loop if is_coroutine else look
    )
    with EmbeddedWorker(app, pool=pool):
        for _ in range(2):
            looks.delay()
            assert outcomes.states(1) == ["SUCCESS"]
            assert app.unique_locks.store.find("tests.looks:{}") is None
    assert held == [(True, True)] * 2


def test_eager_calls_are_unique_too(settling: Settling) -> None:
    app = settling.app
    app.conf.task_always_eager = True
    settle = settling.make(retry_policy=RetryPolicy(max_retries=1, initial_delay=60))
    assert settle.delay("r1").get() == "well"
    assert settle.delay("r1", "badly on attempt 1").get() == "badly on attempt 1"
    assert settle.delay("r1", "badly").state == "FAILURE"
    assert settling.lock() is None

    @app.task(name="tests.nested", shared=False, bind=True, unique=Unique(until="running"))
    def nested(self: Any, again: bool) -> str:
        if again:
            with pytest.raises(DuplicateTaskError) as refused:
                nested.apply(kwargs={"again": True})
            assert refused.value.holder == self.request.id
            return str(nested.apply(kwargs={"again": False}).get(disable_sync_subtasks=False))
        return "other arguments"

    assert nested.delay(True).get() == "other arguments"
    assert settle("r1") == "well"  # a plain call of the function
    assert settling.lock() is None


def test_a_chord_of_one_key_loses_no_member(settling: Settling) -> None:
    app = settling.app
    app.conf.task_always_eager = True
    settle = settling.make(unique=Unique(key="room", on_conflict="return"))

    @app.task(name="tests.all_of_them", shared=False)
    def all_of_them(results: list[str]) -> int:
        return len(results)

    assert chord([settle.si("r1", "1"), settle.si("r1", "2")])(all_of_them.s()).get() == 2


def test_what_is_wrong_with_the_attribute_is_said_when_the_task_is_made(app: LiapApp) -> None:
    @app.task(name="tests.wrong", shared=False, unique=True)
    def wrong() -> None: ...

    @app.task(name="tests.batch", shared=False, base=BatchTask, unique=Unique())
    def batch(items: list[Any]) -> None: ...

    with pytest.raises(ValueError, match=r"unique of tests\.wrong must be a Unique"):
        wrong.name
    with pytest.raises(ValueError, match=r"tests\.batch is a batch task"):
        batch.name


def test_a_call_that_the_broker_may_drop_gets_no_lock(settling: Settling) -> None:
    settle = settling.make(dedup_key="room")
    with pytest.raises(ValueError, match="either dedup_key or unique"):
        settle.delay("r1")
    assert settling.lock() is None


def test_an_eager_call_that_others_depend_on_is_refused_as_it_cannot_wait(settling: Settling) -> None:
    app = settling.app
    app.conf.task_always_eager = True
    settle = settling.make(unique=Unique(key="room", on_conflict="return"))
    app.unique_locks.store.acquire('tests.settle:{"room":"r1"}', "elsewhere", 60)
    assert settle.delay("r1").id == "elsewhere"
    with pytest.raises(DuplicateTaskError):
        settle.apply_async(("r1",), link=settle.si("r2"))
    assert settling.seen == []


def test_an_attempt_that_was_given_up_leaves_the_lock_to_its_retry(settling: Settling, outcomes: Outcomes) -> None:
    app = settling.app
    out, into = os.pipe()
    read = ctypes.CDLL(None).read

    @app.task(
        name="tests.sticks",
        shared=False,
        bind=True,
        timeout=0.05,
        grace=0.05,
        unique=Unique(),
        retry_policy=RetryPolicy(max_retries=1, initial_delay=3600, max_delay=3600),
    )
    def sticks(self: Any) -> None:
        settling.tokens.append(self.unique_lock.token)
        if self.attempt == 1:
            read(out, ctypes.create_string_buffer(1), 1)

    with EmbeddedWorker(app, concurrency=2):
        call = sticks.delay()
        wait_until(lambda: schedule.scheduled(app))  # its retry
        os.write(into, b"x")
        assert outcomes.next().state == "IGNORED"  # the stuck attempt has come back
        lock = app.unique_locks.store.find("tests.sticks:{}")
        schedule.reschedule(app, call.id, countdown=0)
        assert outcomes.next().state == "SUCCESS"
    os.close(out)
    os.close(into)
    assert lock is not None
    assert lock.holder == call.id
    stuck, current = settling.tokens
    assert current > stuck


def test_a_task_that_replaces_a_unique_one_does_not_take_its_key(settling: Settling, outcomes: Outcomes) -> None:
    app = settling.app
    settle = settling.make()

    @app.task(name="tests.replaced", shared=False, bind=True, unique=Unique())
    def replaced(self: Any, room: str) -> None:
        raise self.replace(settle.si(room))

    with EmbeddedWorker(app):
        replaced.delay("r1")
        assert sorted(outcomes.states(2)) == ["IGNORED", "SUCCESS"]
    assert settling.seen == ["well"]
    assert settling.lock() is None
    assert app.unique_locks.store.find('tests.replaced:{"room":"r1"}') is None
