"""``max_concurrent`` of a batch task: so many of its batches run at once."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from liap_tasks import BatchItem, BatchTask, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.liap_tasks.pools.test_max_concurrent import THREADED, Meter

Stats = Callable[..., dict[str, float]]
NEVER = RetryPolicy(max_retries=0)


@THREADED
@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_batches_than_the_limit_run_at_once_and_all_run(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: Any, limit: int
) -> None:
    meter = Meter()

    @app.task(shared=False, base=BatchTask, name="tests.plain", batch_size=2, max_concurrent=limit)
    def plain(items: list[BatchItem]) -> None:
        with meter:
            threading.Event().wait(0.02)

    async_meter = Meter()

    @app.task(shared=False, base=BatchTask, name="tests.asynchronous", batch_size=2, max_concurrent=limit)
    async def asynchronous(items: list[BatchItem]) -> None:
        with async_meter:
            await asyncio.sleep(0.02)

    with EmbeddedWorker(app, pool=pool, concurrency=8):
        for number in range(12):
            plain.delay(number)
            asynchronous.delay(number)
        assert outcomes.states(24) == ["SUCCESS"] * 24
    assert (meter.most, async_meter.most) == (limit, limit)
    assert stats(app)["acknowledged"] == 24


def test_a_batch_that_fails_or_is_given_up_makes_room_for_the_next(app: LiapApp, outcomes: Outcomes) -> None:
    released = threading.Event()

    @app.task(
        shared=False,
        base=BatchTask,
        name="tests.fails",
        batch_size=1,
        max_concurrent=1,
        retry_policy=NEVER,
        timeout=0.1,
        grace=0.1,
        ignore_result=False,
    )
    def fails(items: list[BatchItem]) -> None:
        how = items[0].payload
        if how == "exits":
            sys.exit(1)
        if how == "is stuck":
            released.wait(DEADLINE)
        if how == "fails":
            raise LookupError

    with EmbeddedWorker(app, pool="threads", concurrency=3):
        for how in ("exits", "is stuck", "fails"):
            fails.delay(how)
        assert fails.delay("works").get(timeout=DEADLINE) is None
        released.set()
    assert dead_letters.count(app) == 3


def test_a_batch_that_waits_for_its_turn_goes_back_when_the_worker_stops(app: LiapApp, stats: Stats) -> None:
    began, go = threading.Event(), threading.Event()
    seen: list[int] = []

    @app.task(shared=False, base=BatchTask, name="tests.waits", batch_size=1, max_concurrent=1)
    def waits(items: list[BatchItem]) -> None:
        seen.extend(item.payload for item in items)
        began.set()
        go.wait(DEADLINE)

    worker = EmbeddedWorker(app, pool="threads", concurrency=2)
    worker.start()
    for number in range(3):
        waits.delay(number)
    assert began.wait(DEADLINE)
    threading.Timer(0.1, go.set).start()
    worker.stop()
    assert seen == [0]
    assert (stats(app)["ready"], stats(app)["unacked"]) == (2, 0)
