"""A task that calls another here and now (``apply``): each limit ends what it is for. Other pools: ``served/``."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import Outcomes

NEVER = RetryPolicy(max_retries=0)
LONG = 60


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    """Let no garbage be collected in the thread that is interrupted.

    Hypothesis times each collection, in a callback of it; what is raised in there, Python ignores.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def for_ever() -> None:
    while True:
        time.sleep(0.001)


async def await_for_ever() -> None:
    while True:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("inner_function", [for_ever, await_for_ever])
@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_limit_of_the_outer_task_ends_both(
    app: LiapApp, outcomes: Outcomes, pool: Any, inner_function: Any
) -> None:
    inner = app.task(shared=False, name="tests.inner", retry_policy=NEVER, timeout=LONG)(inner_function)
    went_on: list[bool] = []

    @app.task(shared=False, name="tests.outer", retry_policy=NEVER, timeout=0.1)
    def outer() -> None:
        inner.apply()
        went_on.append(True)

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        outer.delay()
        while (ended := outcomes.next()).task != "tests.outer":
            pass
    assert (ended.state, went_on) == ("FAILURE", [])
    (letter,) = dead_letters.peek(app)
    assert (letter.task, letter.reason) == ("tests.outer", DeadLetterReason.TIMED_OUT)


def test_the_limit_of_the_inner_task_leaves_the_outer_its_own(app: LiapApp, outcomes: Outcomes) -> None:
    inner = app.task(shared=False, name="tests.inner", retry_policy=NEVER, timeout=0.1)(for_ever)
    seen: list[str] = []

    @app.task(shared=False, name="tests.outer", retry_policy=NEVER, timeout=0.5)
    def outer() -> None:
        seen.append(inner.apply().state)
        try:
            for_ever()
        except SoftTimeLimitExceeded:
            seen.append("interrupted")
            raise

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        outer.delay()
        assert outcomes.states(2) == ["FAILURE", "FAILURE"]
    assert seen == ["FAILURE", "interrupted"]
    assert [letter.task for letter in dead_letters.peek(app)] == ["tests.inner", "tests.outer"]
