"""What a worker counts equals what happened, on every kind of pool."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject

from liap_tasks import DeadLetter, EmbeddedWorker, LiapApp, RetryPolicy
from liap_tasks.task_statistics import METRICS, TaskStatistics
from tests.liap_tasks.conftest import Outcomes

ONCE_MORE = RetryPolicy(max_retries=1, initial_delay=0.001)


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_every_end_of_an_attempt_is_counted(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    @app.task(shared=False, bind=True, name="tests.ends", retry_policy=ONCE_MORE, timeout=0.1)
    def ends(self: Any, how: str) -> None:
        if how == "second time" and self.attempt == 2:
            return
        match how:
            case "well":
                return
            case "second time" | "never well":
                raise ValueError(how)
            case "overruns":
                while True:
                    time.sleep(0.001)
            case "verdict":
                raise DeadLetter
            case "ignores":
                raise Ignore
            case "rejects":
                raise Reject("no", requeue=False)
            case "asks again":
                if self.attempt == 1:
                    raise self.retry(countdown=0)

    hows = {
        "well": 1, "second time": 2, "never well": 2, "overruns": 2,
        "verdict": 1, "ignores": 1, "rejects": 1, "asks again": 2,
    }  # fmt: skip
    with EmbeddedWorker(app, pool=pool) as worker:
        for how in hows:
            ends.delay(how)
        outcomes.states(sum(hows.values()))
    counts = app.task_statistics["tests.ends"]
    assert counts == {
        "succeeded": 3,
        "errors": 6,
        "timeouts": 2,
        "total_retries": 4,
        "successful_retries": 2,
        "failed_after_retries": 2,
        "dead_lettered": 3,
        "filtered": 0,
        "waited": 0,
        "ignored": 1,
        "rejected": 1,
        "running": 0,
    }
    assert counts.keys() == METRICS.keys() | {"running"}
    assert worker.hostname


def test_a_worker_answers_for_its_tasks(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.works")
    def works() -> None: ...

    with EmbeddedWorker(app) as worker:
        works.delay()
        outcomes.next()
        for _ in range(10_000):
            if app.task_statistics["tests.works"]["succeeded"]:
                break
            time.sleep(0.001)
        inspector = app.control.inspect(destination=[worker.hostname], timeout=10, limit=1)
        (answer,) = inspector._request("task_stats").values()
    assert answer["tests.works"]["succeeded"] == 1


def test_a_task_that_never_ran_has_only_zeros() -> None:
    assert set(TaskStatistics()["nobody"].values()) == {0}
