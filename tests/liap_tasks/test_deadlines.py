"""Deadlines: a call that nobody can use any more is neither run nor retried; a fallback answers in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from liap_tasks import (
    AnswerTimeoutError,
    DeadLetter,
    DeadLetterReason,
    DeliveryOptions,
    EmbeddedWorker,
    LiapApp,
    QueueFullError,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.policies.deadline import deadline_from, reserved_for_fallback
from tests.liap_tasks.conftest import Outcomes

NEVER = RetryPolicy(max_retries=0)


class Move(BaseModel):
    piles: int


# -- the value -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "answer_within", "moment"),
    [
        (None, None, None),
        (1_000.5, None, 1_000.5),
        (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), None, 60.0),
        (datetime(1970, 1, 1, 0, 1), None, 60.0),  # a naive one is UTC
        (None, 2.5, 102.5),
        (None, timedelta(minutes=1), 160.0),
    ],
)
def test_a_deadline_is_a_moment(deadline: Any, answer_within: Any, moment: float | None) -> None:
    assert deadline_from(deadline=deadline, answer_within=answer_within, now=100.0) == moment


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"answer_within": 0}, "answer_within"),
        ({"answer_within": -1}, "answer_within"),
        ({"deadline": 1.0, "answer_within": 1.0}, "not both"),
    ],
)
def test_what_is_no_moment_is_refused_by_name(asked: dict[str, Any], named: str, app: LiapApp) -> None:
    @app.task(shared=False, name="tests.asked")
    def asked_for() -> None: ...

    with pytest.raises(ValueError, match=named):
        DeliveryOptions(**asked)
    with pytest.raises(ValueError, match=named):
        asked_for.apply_async(**asked)


def test_a_fallback_gets_a_little_of_the_time() -> None:
    assert [reserved_for_fallback(left) for left in (1.0, 0.1, 0.0, -1.0)] == [0.05, 0.025, 0.0, 0.0]


# -- in the queue and in the worker ----------------------------------------------------------------------------


def test_a_call_whose_deadline_passes_in_the_queue_is_an_expired_dead_letter(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.late")
    def late() -> None: ...

    app.amqp.queues["liap_tasks"]
    late.apply_async(answer_within=0.01)
    with app.connection_for_read() as connection, connection.channel() as channel:
        while channel.queue_stats("liap_tasks")["liap_tasks"]["ready"]:
            threading.Event().wait(0.005)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.task) == (DeadLetterReason.EXPIRED, "tests.late")


def test_a_running_attempt_is_interrupted_at_the_deadline_and_not_retried(app: LiapApp, outcomes: Outcomes) -> None:
    ended: list[float] = []

    @app.task(shared=False, bind=True, name="tests.slow", timeout=30)
    def slow(self: Any) -> None:
        try:
            while True:
                time.sleep(0.001)
        except SoftTimeLimitExceeded:
            ended.append(time.time() - self.deadline)
            raise

    with EmbeddedWorker(app):
        slow.apply_async(deadline=time.time() + 2)  # enough for a stalled machine to begin it
        assert outcomes.states(1) == ["FAILURE"]
    assert ended[0] >= -0.01
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.TIMED_OUT


def test_no_retry_is_begun_after_the_deadline(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.again", retry_policy=RetryPolicy(max_retries=5, initial_delay=60, jitter=False))
    def again() -> None:
        raise ValueError("no")

    with EmbeddedWorker(app):
        again.apply_async(delivery=DeliveryOptions(answer_within=20))
        assert outcomes.states(1) == ["FAILURE"]
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.detail) == (
        DeadLetterReason.RETRIES_EXHAUSTED,
        "its deadline leaves no time for another attempt",
    )


def test_a_retry_keeps_the_deadline(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[float] = []

    @app.task(shared=False, bind=True, name="tests.twice", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    def twice(self: Any) -> None:
        seen.append(self.deadline)
        if self.attempt == 1:
            raise ValueError("no")

    with EmbeddedWorker(app, pool="solo"):
        twice.apply_async(deadline=time.time() + 20)
        assert outcomes.states(2) == ["RETRY", "SUCCESS"]
    assert len(set(seen)) == 1


def test_the_rest_of_a_chain_has_the_deadline_and_other_calls_have_not(app: LiapApp, outcomes: Outcomes) -> None:
    seen: dict[str, float | None] = {}

    @app.task(shared=False, bind=True, name="tests.first")
    def first(self: Any) -> None:
        seen["first"] = self.deadline
        aside.delay()

    @app.task(shared=False, bind=True, name="tests.second")
    def second(self: Any, _: Any) -> None:
        seen["second"] = self.deadline

    @app.task(shared=False, bind=True, name="tests.aside")
    def aside(self: Any) -> None:
        seen["aside"] = self.deadline

    with EmbeddedWorker(app):
        chain(first.s(), second.s()).apply_async(answer_within=20)
        outcomes.states(3)
    assert seen["first"] is not None
    assert seen == {"first": seen["first"], "second": seen["first"], "aside": None}


def test_an_error_callback_runs_after_the_deadline_too(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.fails", retry_policy=NEVER)
    def fails() -> None:
        time.sleep(1.05)
        raise ValueError("no")

    @app.task(shared=False, name="tests.tidy")
    def tidy(failed: str) -> str:
        return "tidied"

    with EmbeddedWorker(app):
        fails.apply_async(answer_within=1, link_error=tidy.s())
        ended = {outcomes.next().task: None for _ in range(2)}
    assert set(ended) == {"tests.fails", "tests.tidy"}


# -- fallbacks -------------------------------------------------------------------------------------------------


def hasty(room: str, *, piles: int) -> str:
    return f"hasty {room} {piles}"


def test_a_fallback_answers_when_the_attempt_does_not_end_in_time(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.ponder", fallback=hasty)
    def ponder(room: str, *, piles: int) -> str:
        while True:
            time.sleep(0.001)

    with EmbeddedWorker(app):
        assert ponder.call_and_wait("r1", piles=3, timeout=0.5) == "hasty r1 3"
    assert dead_letters.count(app) == 0


def test_a_fallback_answers_when_attempts_are_spent(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(
        shared=False, name="tests.broken", fallback=hasty, retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001)
    )
    def broken(room: str, *, piles: int) -> str:
        raise ValueError("no")

    with EmbeddedWorker(app):
        assert broken.apply_async(("r1",), {"piles": 3}, ignore_result=False).get(timeout=10) == "hasty r1 3"
        assert sorted(outcomes.states(2)) == ["RETRY", "SUCCESS"]
    assert dead_letters.count(app) == 0


def test_a_fallback_does_not_mend_a_wrong_call_nor_overrule_a_verdict(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.strict", fallback=lambda *_, **__: "anything")
    def strict(room: str) -> str:
        raise DeadLetter(DeadLetterReason.MANUAL, "the referee says no")

    with EmbeddedWorker(app, pool="solo"):
        app.send_task("tests.strict", kwargs={"nobody": "knows"})
        strict.delay("r1")
        assert outcomes.states(2) == ["FAILURE", "FAILURE"]
    assert {letter.reason for letter in dead_letters.peek(app)} == {
        DeadLetterReason.VALIDATION_FAILED,
        DeadLetterReason.MANUAL,
    }


def test_a_fallback_that_fails_leaves_a_dead_letter_and_the_first_error(app: LiapApp, outcomes: Outcomes) -> None:
    def worse() -> None:
        raise KeyError("worse")

    @app.task(shared=False, name="tests.bad", fallback=worse, retry_policy=NEVER)
    def bad() -> None:
        raise ValueError("bad")

    with EmbeddedWorker(app):
        bad.delay()
        ended = outcomes.next()
    assert (ended.state, type(ended.value)) == ("FAILURE", ValueError)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.RETRIES_EXHAUSTED, "ValueError")


def test_the_fallback_answers_the_caller_when_no_worker_does(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.unheard", fallback=hasty)
    def unheard(room: str, *, piles: int) -> str:
        return "never"

    assert unheard.call_and_wait("r1", piles=1, timeout=0.05) == "hasty r1 1"
    assert asyncio.run(unheard.call("r1", piles=2, timeout=0.05)) == "hasty r1 2"


def test_the_fallback_answers_the_caller_whose_queue_is_full(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=1)

    @app.task(shared=False, name="tests.full", fallback=hasty)
    def full(room: str, *, piles: int) -> str:
        return "never"

    full.delay("r0", piles=0)
    assert full.call_and_wait("r1", piles=1, timeout=10) == "hasty r1 1"
    assert asyncio.run(full.call("r1", piles=2, timeout=10)) == "hasty r1 2"


def test_without_a_fallback_the_caller_is_told(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=1)

    @app.task(shared=False, name="tests.plain")
    def plain() -> None: ...

    with pytest.raises(AnswerTimeoutError):
        plain.call_and_wait(timeout=1)
    app.control.purge()
    plain.delay()
    with pytest.raises(QueueFullError):
        plain.call_and_wait(timeout=10)
    with pytest.raises(ValueError, match="timeout"):
        plain.call_and_wait(timeout=0)


def test_models_of_a_fallback_travel_as_those_of_its_task(app: LiapApp) -> None:
    def quick(move: Move) -> Move:
        return Move(piles=move.piles + 10)

    @app.task(shared=False, name="tests.model", fallback=quick, retry_policy=NEVER)
    def model(move: Move) -> Move:
        raise ValueError("no")

    with EmbeddedWorker(app):
        assert model.call_and_wait({"piles": 1}, timeout=10) == {"piles": 11}
    assert asyncio.run(model.call({"piles": 2}, timeout=0.05)) == {"piles": 12}


def test_a_fallback_may_be_a_coroutine_function(app: LiapApp) -> None:
    async def asked() -> str:
        await asyncio.sleep(0)
        return "asked"

    @app.task(shared=False, name="tests.asking", fallback=asked)
    def asking() -> str:
        return "never"

    assert asyncio.run(asking.call(timeout=0.05)) == "asked"
    assert asking.call_and_wait(timeout=0.05) == "asked"


def test_eager_calls_have_deadlines_and_fallbacks(app: LiapApp) -> None:
    app.conf.task_always_eager = True

    @app.task(shared=False, name="tests.eager", fallback=hasty)
    def eager(room: str, *, piles: int) -> str:
        while True:
            time.sleep(0.001)

    assert eager.apply_async(("r1",), {"piles": 1}, answer_within=0.2).get() == "hasty r1 1"
