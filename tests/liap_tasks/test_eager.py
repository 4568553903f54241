"""With task_always_eager a call runs here and now, and gives what a worker would: results, retries, dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from liap_tasks import (
    DeadLetter,
    DeadLetterReason,
    DeliveryOptions,
    LiapApp,
    MessagePriority,
    RetryPolicy,
    dead_letters,
)


class Move(BaseModel):
    piles: int


@pytest.fixture
def eager(new_app: Callable[..., LiapApp]) -> LiapApp:
    app = new_app()
    app.conf.task_always_eager = True
    return app


def test_the_result_is_there_at_once(eager: LiapApp) -> None:
    @eager.task(shared=False, name="tests.doubles")
    def doubles(move: Move) -> Move:
        return Move(piles=move.piles * 2)

    result = doubles.delay(Move(piles=2))
    assert (result.state, result.get()) == ("SUCCESS", {"piles": 4})


def test_retries_happen_without_waiting(eager: LiapApp) -> None:
    attempts: list[int] = []

    @eager.task(shared=False, bind=True, name="tests.third", retry_policy=RetryPolicy(max_retries=2, initial_delay=60))
    def third(self: Any) -> str:
        attempts.append(self.attempt)
        if self.attempt < 3:
            raise OSError
        return "won"

    before = time.monotonic()
    assert third.delay().get() == "won"
    assert time.monotonic() - before < 30
    assert attempts == [1, 2, 3]
    assert dead_letters.count(eager) == 0


def test_spent_retries_leave_the_same_dead_letter_as_in_a_worker(eager: LiapApp) -> None:
    @eager.task(shared=False, name="tests.fails", retry_policy=RetryPolicy(max_retries=2))
    def fails(room: str) -> None:
        raise OSError(f"no {room}")

    result = fails.delay("r1")
    assert result.state == "FAILURE"
    with pytest.raises(OSError, match="no r1"):
        result.get()
    (letter,) = dead_letters.peek(eager)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert (letter.task, letter.id, letter.args) == ("tests.fails", result.id, ("r1",))
    assert (letter.exception, letter.message) == ("OSError", "no r1")
    assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
    assert letter.queue == eager.conf.task_default_queue


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LookupError("x"), DeadLetterReason.PROCESSING_FAILED),
        (DeadLetter(DeadLetterReason.MANUAL), DeadLetterReason.MANUAL),
    ],
)
def test_verdicts_are_the_same(eager: LiapApp, error: Exception, reason: DeadLetterReason) -> None:
    @eager.task(shared=False, name="tests.raises", retry_policy=RetryPolicy(give_up_on=(LookupError,)))
    def raises() -> None:
        raise error

    assert raises.delay().state == "FAILURE"
    assert [letter.reason for letter in dead_letters.peek(eager)] == [reason]


def test_arguments_that_do_not_validate_are_a_dead_letter(eager: LiapApp) -> None:
    @eager.task(shared=False, name="tests.declares")
    def declares(move: Move) -> None: ...

    assert declares.delay({"piles": "none"}).state == "FAILURE"
    (letter,) = dead_letters.peek(eager)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED


def test_a_task_s_own_retry_counts_too(eager: LiapApp) -> None:
    @eager.task(shared=False, bind=True, name="tests.asks", retry_policy=RetryPolicy(max_retries=1))
    def asks(self: Any) -> None:
        raise self.retry()

    assert asks.delay().state == "FAILURE"
    (letter,) = dead_letters.peek(eager)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert [attempt.number for attempt in letter.attempts] == [1, 2]


def test_delivery_options_are_taken_and_nothing_waits(eager: LiapApp) -> None:
    seen: list[Any] = []

    @eager.task(shared=False, bind=True, name="tests.reads")
    def reads(self: Any) -> None:
        seen.append((self.metadata.source, self.metadata.correlation_id, self.request.delivery_info["priority"]))

    delivery = DeliveryOptions(ttl=5, delay=60, priority=MessagePriority.HIGH, correlation_id="game-7")
    reads.apply_async(delivery=delivery)
    assert seen == [("tests", "game-7", 7)]


def test_a_task_called_as_a_function_is_a_function(eager: LiapApp) -> None:
    @eager.task(shared=False, name="tests.function", retry_policy=RetryPolicy(max_retries=5))
    def function() -> None:
        raise OSError("plain")

    with pytest.raises(OSError, match="plain"):
        function()
    assert dead_letters.count(eager) == 0


def test_errors_propagate_to_the_caller_when_asked(eager: LiapApp) -> None:
    eager.conf.task_eager_propagates = True

    @eager.task(shared=False, name="tests.propagates", retry_policy=RetryPolicy(max_retries=0))
    def propagates() -> None:
        raise OSError("loud")

    with pytest.raises(OSError, match="loud"):
        propagates.delay()
    assert dead_letters.count(eager) == 1


def test_retries_happen_when_errors_propagate_too(eager: LiapApp) -> None:
    eager.conf.task_eager_propagates = True
    attempts: list[int] = []

    @eager.task(shared=False, bind=True, name="tests.second", retry_policy=RetryPolicy(max_retries=1))
    def second(self: Any) -> str:
        attempts.append(self.attempt)
        if self.attempt == 1:
            raise OSError
        return "won"

    assert second.delay().get() == "won"
    assert attempts == [1, 2]
