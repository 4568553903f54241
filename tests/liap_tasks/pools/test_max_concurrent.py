"""``max_concurrent``: the limit on one type of task holds on every pool and holds up nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject
from celery.signals import task_revoked

from liap_tasks import EmbeddedWorker, LiapApp, RetryPolicy
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.liap_tasks.pools.processes import running

Stats = Callable[..., dict[str, float]]
THREADED = pytest.mark.parametrize("pool", ["threads", "asyncio"])


class Meter:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0
        self.entered = threading.Semaphore(0)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.entered.release()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


@THREADED
def test_no_more_than_the_limit_run_at_once_and_all_run(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    plain_meter, async_meter = Meter(), Meter()

    @app.task(shared=False, name="tests.plain", max_concurrent=2)
    def plain() -> None:
        with plain_meter:
            threading.Event().wait(0.01)

    @app.task(shared=False, name="tests.asynchronous", max_concurrent=3)
    async def asynchronous() -> None:
        with async_meter:
            await asyncio.sleep(0.01)

    with EmbeddedWorker(app, pool=pool, concurrency=8):
        for _ in range(20):
            plain.delay()
            asynchronous.delay()
        assert outcomes.states(40) == ["SUCCESS"] * 40
    assert (plain_meter.most, async_meter.most) == (2, 3)


@THREADED
def test_what_waits_holds_up_no_other_type(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    meter, go_on = Meter(), threading.Event()

    @app.task(shared=False, name="tests.limited", max_concurrent=1)
    def limited() -> None:
        with meter:
            go_on.wait(DEADLINE)

    @app.task(shared=False, name="tests.other")
    def other() -> None: ...

    # Two threads and a window of eight messages: without a line of their own the limited ones would fill both.
    with EmbeddedWorker(app, pool=pool, concurrency=2):
        for _ in range(50):
            limited.delay()
        assert meter.entered.acquire(timeout=DEADLINE)
        for _ in range(5):
            other.delay()
        assert [outcomes.next()[::2] for _ in range(5)] == [("tests.other", "SUCCESS")] * 5
        go_on.set()
        assert outcomes.states(50) == ["SUCCESS"] * 50
    assert meter.most == 1


@THREADED
def test_a_worker_stops_with_a_line_waiting_and_gives_it_back(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: Any
) -> None:
    meter, go_on = Meter(), threading.Event()

    @app.task(shared=False, name="tests.limited", max_concurrent=1)
    def limited() -> None:
        with meter:
            go_on.wait(DEADLINE)

    worker = EmbeddedWorker(app, pool=pool, concurrency=2).start()
    for _ in range(10):
        limited.delay()
    assert meter.entered.acquire(timeout=DEADLINE)
    ending = threading.Thread(target=worker.stop)
    ending.start()
    assert worker._stopping.wait(DEADLINE)
    go_on.set()
    ending.join(DEADLINE)
    assert not ending.is_alive()
    assert not meter.entered.acquire(blocking=False)
    assert (stats(app)["ready"], stats(app)["unacked"]) == (9, 0)


def test_every_way_to_end_makes_room_for_the_next(app: LiapApp, outcomes: Outcomes) -> None:
    meter = Meter()

    @app.task(
        shared=False,
        bind=True,
        name="tests.ends",
        max_concurrent=1,
        timeout=0.05,
        retry_policy=RetryPolicy(max_retries=1, initial_delay=0.01, jitter=False),
    )
    async def ends(self: Any, how: str) -> None:
        with meter:
            if how == "fails":
                raise OSError
            if how == "ignores":
                raise Ignore
            if how == "rejects":
                raise Reject("not now", requeue=not self.request.delivery_info["redelivered"])
            if how == "overruns":
                await asyncio.Event().wait()

    with EmbeddedWorker(app, pool="asyncio"):
        for how in ("fails", "ignores", "rejects", "overruns", "returns"):
            ends.delay(how)
        assert sorted(outcomes.states(8)) == sorted(
            ["RETRY", "FAILURE", "IGNORED", "REJECTED", "REJECTED", "RETRY", "FAILURE", "SUCCESS"]
        )
    assert meter.most == 1


def test_revoked_tasks_leave_the_line(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    meter, go_on, revoked = Meter(), threading.Event(), threading.Semaphore(0)

    @app.task(shared=False, name="tests.limited", max_concurrent=1)
    def limited() -> None:
        with meter:
            go_on.wait(DEADLINE)

    def on_revoked(**_: Any) -> None:
        revoked.release()

    task_revoked.connect(on_revoked)
    try:
        with EmbeddedWorker(app, concurrency=2) as worker:
            sent = [limited.delay() for _ in range(4)]
            assert meter.entered.acquire(timeout=DEADLINE)
            app.control.revoke([sent[1].id, sent[2].id], destination=[worker.hostname], reply=True)
            go_on.set()
            assert [outcomes.next().id for _ in range(2)] == [sent[0].id, sent[3].id]
            assert revoked.acquire(timeout=DEADLINE)
            assert revoked.acquire(timeout=DEADLINE)
    finally:
        task_revoked.disconnect(on_revoked)
    assert stats(app)["ready"] == stats(app)["unacked"] == 0


def test_the_solo_pool_has_no_line(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.limited", max_concurrent=1)
    def limited() -> None: ...

    with EmbeddedWorker(app, pool="solo"):
        for _ in range(1500):  # deeper than Python's stack, if one began the next
            limited.delay()
        assert outcomes.states(1500) == ["SUCCESS"] * 1500


def test_a_limit_below_zero_is_refused(app: LiapApp) -> None:
    with pytest.raises(ValueError, match=r"max_concurrent of tests\.below must be at least 0"):

        @app.task(shared=False, name="tests.below", max_concurrent=-1, lazy=False)
        def below() -> None: ...


SOURCE = """
import time
from liap_tasks import create_app

app = create_app(main="limits")

@app.task(name="limits.limited", max_concurrent=2, ignore_result=False)
def limited():
    begun = time.time()
    time.sleep(0.02)
    return [begun, time.time()]
"""


def test_the_limit_of_a_prefork_worker_is_one_for_all_its_processes(rabbit_app: LiapApp, tmp_path: Path) -> None:
    with running(rabbit_app, SOURCE, tmp_path, "-P", "prefork", "-c", "4") as worker:
        sent = [rabbit_app.send_task("limits.limited", ignore_result=False) for _ in range(16)]
        spans = [result.get(timeout=3 * DEADLINE) for result in sent]
        assert worker.stop() == 0
    most = max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)
    assert most == 2
