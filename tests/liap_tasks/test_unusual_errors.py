"""Errors that are unlike others: an attempt that ends with one has failed as with any other, on every pool.

The pools that need a process of their own are in ``served/test_each_pool.py``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, NoReturn

import pytest

from liap_tasks import BatchItem, BatchTask, DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from liap_tasks.errors import AttemptAbortedError
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.liap_tasks.test_dead_letter_paths import Stats, assert_settled

ONE_MORE = RetryPolicy(max_retries=1, initial_delay=0.001, jitter=False)
NEVER = RetryPolicy(max_retries=0)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it cannot say what it is")


def test_an_error_that_cannot_say_what_it_is_is_retried_and_kept(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, name="tests.mute", retry_policy=ONE_MORE)
    def mute() -> NoReturn:
        raise MuteError("room r1")

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        mute.delay()
        assert outcomes.states(2) == ["RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.RETRIES_EXHAUSTED, "MuteError")
    assert letter.message == "MuteError('room r1')"
    assert [attempt.message for attempt in letter.attempts] == ["MuteError('room r1')"] * 2
    assert_settled(stats, app, acknowledged=2)


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_an_attempt_that_runs_out_of_memory_has_failed(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str
) -> None:
    @app.task(shared=False, name="tests.large", retry_policy=ONE_MORE, ignore_result=False)
    def large() -> NoReturn:
        raise MemoryError("too many rooms")

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        sent = large.delay()
        with pytest.raises(MemoryError, match="too many rooms"):
            sent.get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.RETRIES_EXHAUSTED, "MemoryError")
    assert_settled(stats, app, acknowledged=2)


# -- what is no Exception ------------------------------------------------------------------------------------------

NO_EXCEPTIONS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


@pytest.mark.parametrize("error", NO_EXCEPTIONS)
@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_an_attempt_that_ends_with_what_is_no_exception_has_failed(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str, error: type[BaseException]
) -> None:
    @app.task(shared=False, name="tests.ends", retry_policy=ONE_MORE, ignore_result=False)
    def ends() -> NoReturn:
        raise error("room r1")

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        sent = ends.delay()
        with pytest.raises(AttemptAbortedError, match=error.__name__):
            sent.get(timeout=DEADLINE)
        assert outcomes.states(2) == ["RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.RETRIES_EXHAUSTED, error.__name__)
    assert [(attempt.error, attempt.message) for attempt in letter.attempts] == [(error.__name__, "room r1")] * 2
    assert_settled(stats, app, acknowledged=2)
    counts = app.task_statistics["tests.ends"]
    assert (counts["errors"], counts["total_retries"], counts["dead_lettered"]) == (2, 1, 1)


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_a_coroutine_that_exits_leaves_its_thread_to_the_next(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str
) -> None:
    @app.task(shared=False, name="tests.coroutine_exits", retry_policy=NEVER)
    async def exits() -> NoReturn:
        await asyncio.sleep(0)
        sys.exit(3)

    @app.task(shared=False, name="tests.next")
    async def following() -> None:
        await asyncio.sleep(0.01)

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        exits.delay()
        following.delay()
        assert outcomes.states(2) == ["FAILURE", "SUCCESS"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception, letter.message) == ("retries_exhausted", "SystemExit", "3")
    assert_settled(stats, app, acknowledged=2)


def test_tasks_that_exit_do_not_take_the_place_of_others(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    @app.task(shared=False, name="tests.exits", retry_policy=NEVER)
    def exits() -> NoReturn:
        sys.exit(1)

    @app.task(shared=False, name="tests.behind")
    def behind() -> None: ...

    with EmbeddedWorker(app, pool="threads", concurrency=2):
        for _ in range(12):  # more than a worker of two takes at once
            exits.delay()
        behind.delay()
        assert sorted(outcomes.states(13)) == ["FAILURE"] * 12 + ["SUCCESS"]

    assert dead_letters.count(app) == 12
    assert_settled(stats, app, acknowledged=13)


def test_a_task_that_exits_frees_its_ordered_group(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.exits_in_order", retry_policy=NEVER, ordering_key="room")
    def exits_first(room: str, turn: int) -> None:
        if turn == 1:
            sys.exit(1)

    with EmbeddedWorker(app, pool="threads", concurrency=2):
        exits_first.delay("r1", 1)
        exits_first.delay("r1", 2)
        assert outcomes.states(2) == ["FAILURE", "SUCCESS"]


def test_a_task_that_is_acknowledged_early_and_exits_is_kept(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.early", retry_policy=NEVER, acks_late=False)
    def exits() -> NoReturn:
        sys.exit(1)

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        exits.delay()
        assert outcomes.states(1) == ["FAILURE"]

    assert dead_letters.count(app) == 1


def test_a_policy_may_give_up_on_an_exit(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.given_up", retry_policy=RetryPolicy(give_up_on=(SystemExit,)))
    def exits() -> NoReturn:
        sys.exit(1)

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        exits.delay()
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.PROCESSING_FAILED


def test_the_fallback_answers_for_a_task_that_exits(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.saved", retry_policy=NEVER, ignore_result=False, fallback=lambda: "pass")
    def exits() -> NoReturn:
        sys.exit(1)

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        assert exits.delay().get(timeout=DEADLINE) == "pass"

    assert dead_letters.count(app) == 0


def test_a_fallback_that_exits_leaves_a_dead_letter(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    @app.task(shared=False, name="tests.not_saved", retry_policy=NEVER, fallback=lambda: sys.exit(1))
    def fails() -> NoReturn:
        raise LookupError("room r1")

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        fails.delay()
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.exception, letter.message) == ("LookupError", "room r1")
    assert_settled(stats, app, acknowledged=1)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_batch_that_exits_has_failed_for_each_of_its_items(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str
) -> None:
    @app.task(shared=False, base=BatchTask, batch_size=2, name="tests.batch_exits", retry_policy=NEVER)
    def exits(items: list[BatchItem]) -> NoReturn:
        sys.exit(1)

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        exits.delay(1)
        exits.delay(2)
        assert outcomes.states(2) == ["FAILURE", "FAILURE"]

    letters = dead_letters.peek(app)
    assert [(letter.reason, letter.exception) for letter in letters] == [("retries_exhausted", "SystemExit")] * 2
    assert_settled(stats, app, acknowledged=2)


def test_an_exit_in_a_call_that_runs_here_and_now_is_the_caller_s(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.here_and_now", bind=True)
    def exits(self: Any) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exits.apply()
    assert dead_letters.count(app) == 0
