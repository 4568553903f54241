"""Every way a task's message can die, through a real worker: dead-lettered with its story, then acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import MaxRetriesExceededError
from celery.signals import task_failure, task_retry
from pydantic import BaseModel, TypeAdapter

from liap_tasks import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    EmbeddedWorker,
    LiapApp,
    RetryPolicy,
    dead_letters,
)
from tests.liap_tasks.conftest import Outcomes

AT_ONCE = RetryPolicy(max_retries=2, initial_delay=0.001, exponential=False, jitter=False)
NEVER = RetryPolicy(max_retries=0)


class Move(BaseModel):
    player: str
    piles: int


class CardTableError(Exception):
    pass


Stats = Callable[..., dict[str, float]]


def assert_settled(stats: Stats, app: LiapApp, acknowledged: int) -> None:
    left = stats(app)
    assert (left["ready"], left["unacked"], left["delayed"]) == (0, 0, 0)
    assert left["acknowledged"] == acknowledged
    assert left["rejected"] == 0


def test_a_task_whose_retries_are_spent_is_a_dead_letter_with_its_story(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, name="tests.spent", retry_policy=AT_ONCE)
    def spent(room: str, *, piles: int) -> None:
        raise CardTableError(f"no room {room}")

    with EmbeddedWorker(app, pool="solo"):
        sent = spent.apply_async(("r1",), {"piles": 3})
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]

    assert_settled(stats, app, acknowledged=3)
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert (letter.task, letter.id) == ("tests.spent", sent.id)
    assert (letter.args, letter.kwargs) == (("r1",), {"piles": 3})
    assert letter.queue == letter.routing_key == app.conf.task_default_queue
    assert (letter.exception, letter.message) == ("CardTableError", "no room r1")
    assert letter.traceback is not None
    assert "CardTableError: no room r1" in letter.traceback
    assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
    assert {(attempt.error, attempt.message) for attempt in letter.attempts} == {("CardTableError", "no room r1")}
    times = [attempt.at for attempt in letter.attempts]
    assert times == sorted(times)
    assert letter.at is not None
    assert letter.at >= times[-1]


def test_a_retry_that_succeeds_leaves_no_dead_letter(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    seen: list[int] = []

    @app.task(shared=False, bind=True, name="tests.second_time", retry_policy=AT_ONCE)
    def second_time(self: Any) -> str:
        seen.append(self.attempt)
        if self.attempt == 1:
            raise CardTableError
        return "won"

    with EmbeddedWorker(app, pool="solo"):
        second_time.delay()
        assert outcomes.states(2) == ["RETRY", "SUCCESS"]

    assert seen == [1, 2]
    assert dead_letters.count(app) == 0
    assert_settled(stats, app, acknowledged=2)


def test_an_error_on_the_give_up_list_is_a_dead_letter_at_once(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    @app.task(shared=False, name="tests.give_up", retry_policy=RetryPolicy(give_up_on=(CardTableError,)))
    def give_up() -> None:
        raise CardTableError("cheater")

    with EmbeddedWorker(app, pool="solo"):
        give_up.delay()
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.PROCESSING_FAILED
    assert len(letter.attempts) == 1
    assert_settled(stats, app, acknowledged=1)


def test_a_task_that_raises_a_verdict_is_a_dead_letter_with_its_reason(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.verdict", retry_policy=AT_ONCE)
    def verdict() -> None:
        raise DeadLetter(DeadLetterReason.MANUAL, "the referee says no")

    with EmbeddedWorker(app, pool="solo"):
        verdict.delay()
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.detail) == (DeadLetterReason.MANUAL, "the referee says no")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(({"player": "p1", "piles": "three"},), id="a field of the wrong type"),
        pytest.param(({"piles": 3},), id="a missing field"),
    ],
)
def test_arguments_that_do_not_validate_are_never_retried(
    app: LiapApp, outcomes: Outcomes, arguments: tuple[Any, ...]
) -> None:
    ran: list[Move] = []

    @app.task(shared=False, name="tests.declare", retry_policy=AT_ONCE)
    def declare(move: Move) -> None:
        ran.append(move)

    with EmbeddedWorker(app, pool="solo"):
        declare.apply_async(arguments)
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED
    assert letter.args == arguments
    assert ran == []


def test_a_call_with_arguments_the_task_does_not_take_is_never_retried(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.newer", retry_policy=AT_ONCE)
    def newer(room: str) -> None: ...

    with EmbeddedWorker(app, pool="solo"):
        app.send_task("tests.newer", args=("r1", "an argument of an older version"))
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.VALIDATION_FAILED


def test_a_validation_error_from_inside_the_task_is_retried_like_any_other(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.reads", retry_policy=AT_ONCE)
    def reads(move: Move) -> None:
        TypeAdapter(int).validate_python("not from the arguments")

    with EmbeddedWorker(app, pool="solo"):
        reads.delay(Move(player="p1", piles=2))
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED


def test_a_type_error_from_inside_the_task_is_retried_like_any_other(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.adds", retry_policy=AT_ONCE)
    def adds() -> None:
        len(5)  # type: ignore[arg-type]

    with EmbeddedWorker(app, pool="solo"):
        adds.delay()
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]


def test_models_arrive_as_models_and_return_as_data(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.doubles")
    def doubles(move: Move) -> Move:
        return Move(player=move.player, piles=move.piles * 2)

    with EmbeddedWorker(app, pool="solo"):
        answer = doubles.apply_async((Move(player="p1", piles=2),), ignore_result=False)
        assert answer.get(timeout=5) == {"player": "p1", "piles": 4}


def test_retry_called_by_the_task_itself_ends_in_the_dead_letters_too(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, bind=True, name="tests.asks", retry_policy=RetryPolicy(max_retries=5))
    def asks(self: Any) -> None:
        raise self.retry(countdown=0.001, max_retries=1)

    with EmbeddedWorker(app, pool="solo"):
        asks.delay()
        assert outcomes.states(2) == ["RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert letter.exception == MaxRetriesExceededError.__qualname__
    assert [attempt.number for attempt in letter.attempts] == [1, 2]


def test_retry_called_by_the_task_counts_by_its_policy(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, bind=True, name="tests.asks_often", retry_policy=RetryPolicy(max_retries=5))
    def asks_often(self: Any) -> None:
        raise self.retry(countdown=0)

    with EmbeddedWorker(app, pool="solo"):
        asks_often.delay()
        assert outcomes.states(6) == ["RETRY"] * 5 + ["FAILURE"]


def test_a_disabled_dead_letter_policy_leaves_a_plain_failure(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    @app.task(shared=False, name="tests.plain", retry_policy=NEVER, dead_letter_policy=DeadLetterPolicy(enabled=False))
    def plain() -> None:
        raise CardTableError

    with EmbeddedWorker(app, pool="solo"):
        plain.delay()
        assert outcomes.states(1) == ["FAILURE"]

    assert dead_letters.count(app) == 0
    assert_settled(stats, app, acknowledged=1)


def test_the_hooks_and_signals_of_celery_see_each_event_once(app: LiapApp, outcomes: Outcomes) -> None:
    calls: list[str] = []

    class Watched(app.Task):  # type: ignore[name-defined, misc]
        abstract = True

        def on_failure(self, exc: Exception, *_: Any, **__: Any) -> None:
            calls.append(f"on_failure {type(exc).__name__}")

        def on_retry(self, exc: Exception, *_: Any, **__: Any) -> None:
            calls.append(f"on_retry {type(exc).__name__}")

    @app.task(shared=False, base=Watched, name="tests.watched", retry_policy=RetryPolicy(max_retries=1, max_delay=0))
    def watched() -> None:
        raise CardTableError

    def failed(sender: Any = None, exception: Any = None, **_: Any) -> None:
        calls.append(f"task_failure {type(exception).__name__}")

    def retried(sender: Any = None, reason: Any = None, **_: Any) -> None:
        calls.append(f"task_retry {type(reason.exc).__name__}")

    task_failure.connect(failed)
    task_retry.connect(retried)
    try:
        with EmbeddedWorker(app, pool="solo"):
            watched.delay()
            outcomes.states(2)
    finally:
        task_failure.disconnect(failed)
        task_retry.disconnect(retried)

    assert calls == [
        "on_retry CardTableError",
        "task_retry CardTableError",
        "on_failure CardTableError",
        "task_failure CardTableError",
    ]


def test_error_callbacks_run_once_after_the_last_attempt(app: LiapApp, outcomes: Outcomes) -> None:
    told: list[str] = []

    @app.task(shared=False, name="tests.tell")
    def tell(task_id: str) -> None:
        told.append(task_id)

    @app.task(shared=False, name="tests.fails", retry_policy=AT_ONCE)
    def fails() -> None:
        raise CardTableError

    with EmbeddedWorker(app, pool="solo"):
        sent = fails.apply_async(link_error=tell.s())
        names = [outcomes.next().task for _ in range(4)]

    assert names.count("tests.fails") == 3
    assert names.count("tests.tell") == 1
    assert told == [sent.id]


def test_a_chain_stops_at_a_dead_letter(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    ran: list[str] = []

    @app.task(shared=False, name="tests.first", retry_policy=NEVER)
    def first() -> None:
        raise CardTableError

    @app.task(shared=False, name="tests.second")
    def second(_: Any) -> None:
        ran.append("second")

    with EmbeddedWorker(app, pool="solo"):
        (first.s() | second.s()).apply_async()
        assert outcomes.states(1) == ["FAILURE"]

    assert ran == []
    assert stats(app)["enqueued"] == 1
    assert dead_letters.count(app) == 1


def test_the_caller_gets_the_task_s_own_error(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.own_error", retry_policy=NEVER)
    def own_error() -> None:
        raise ValueError("no such room")

    with EmbeddedWorker(app, pool="solo"):
        with pytest.raises(ValueError, match="no such room"):
            own_error.apply_async(ignore_result=False).get(timeout=5)


def test_a_message_refused_by_the_task_is_the_broker_s_dead_letter(app: LiapApp, outcomes: Outcomes) -> None:
    from celery.exceptions import Reject

    @app.task(shared=False, name="tests.refuses")
    def refuses() -> None:
        raise Reject("not mine", requeue=False)

    with EmbeddedWorker(app, pool="solo"):
        sent = refuses.delay()
        assert outcomes.states(1) == ["REJECTED"]

    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.REJECTED
    assert letter.queue == app.conf.task_default_queue
    assert letter.id == sent.id
    assert letter.exception is None
    assert letter.at is not None


def test_a_message_that_cannot_be_dead_lettered_goes_back_to_its_queue(
    app: LiapApp, outcomes: Outcomes, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(shared=False, name="tests.unlucky", retry_policy=NEVER)
    def unlucky() -> None:
        raise CardTableError

    publish = dead_letters.publish
    refusals = iter([True, True, False])

    def publish_the_third_time(*arguments: Any, **options: Any) -> None:
        if next(refusals):
            raise dead_letters.DeadLetterError("the dead-letter exchange is away")
        assert stats(app)["unacked"] == 1, "the original must still be held when its dead letter is published"
        publish(*arguments, **options)
        assert stats(app)["unacked"] == 1, "the original must not be acknowledged before its dead letter is safe"

    monkeypatch.setattr(dead_letters, "publish", publish_the_third_time)
    with EmbeddedWorker(app, pool="solo"):
        unlucky.delay()
        assert outcomes.states(3) == ["REJECTED", "REJECTED", "FAILURE"]

    numbers = stats(app)
    assert numbers["requeued"] == 2
    assert numbers["acknowledged"] == 1
    assert numbers["ready"] == numbers["unacked"] == 0
    assert dead_letters.count(app) == 1


def test_a_retry_that_cannot_be_published_goes_back_to_its_queue(
    app: LiapApp, outcomes: Outcomes, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(shared=False, name="tests.retries", retry_policy=RetryPolicy(max_retries=1, max_delay=0))
    def retries() -> None:
        raise CardTableError

    send_task = app.send_task
    refusals = iter([OSError("the broker is away"), None])

    def send_the_second_time(*arguments: Any, **options: Any) -> Any:
        refusal = next(refusals)
        if refusal is not None:
            raise refusal
        return send_task(*arguments, **options)

    retries.delay()
    monkeypatch.setattr(app, "send_task", send_the_second_time)
    with EmbeddedWorker(app, pool="solo"):
        assert outcomes.states(3) == ["REJECTED", "RETRY", "FAILURE"]

    assert stats(app)["requeued"] == 1
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED


def test_a_huge_error_stays_small_enough_for_a_header(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.huge", retry_policy=RetryPolicy(max_retries=2, max_delay=0))
    def huge() -> None:
        raise CardTableError("x" * 1_000_000)

    with EmbeddedWorker(app, pool="solo"):
        huge.delay()
        outcomes.states(3)

    (letter,) = dead_letters.peek(app)
    # RabbitMQ closes the connection when the headers do not fit in one frame of 128 KiB.
    assert len(letter.model_dump_json()) < 64 * 1024


def test_looking_at_dead_letters_leaves_them_in_place_and_in_order(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.numbered", retry_policy=NEVER)
    def numbered(number: int) -> None:
        raise CardTableError

    with EmbeddedWorker(app, pool="solo"):
        for number in range(5):
            numbered.delay(number)
        outcomes.states(5)

    assert [letter.args for letter in dead_letters.peek(app, 3)] == [(0,), (1,), (2,)]
    assert [letter.args for letter in dead_letters.peek(app)] == [(0,), (1,), (2,), (3,), (4,)]
    assert dead_letters.count(app) == 5


def test_a_dead_letter_queue_that_somebody_deleted_is_there_again(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.after_a_clean_up", retry_policy=NEVER)
    def after_a_clean_up() -> None:
        raise CardTableError

    with EmbeddedWorker(app, pool="solo"):
        after_a_clean_up.delay()
        outcomes.states(1)
        with app.connection_for_write() as connection, connection.channel() as channel:
            channel.queue_delete(dead_letters.dead_letter_queue().name)
        after_a_clean_up.delay()
        assert outcomes.states(1) == ["FAILURE"]

    assert dead_letters.count(app) == 1


def test_a_message_the_broker_refuses_among_the_dead_letters_goes_back(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    worker = EmbeddedWorker(app, pool="solo")

    @app.task(shared=False, name="tests.refused", retry_policy=NEVER)
    def refused() -> None:
        with app.connection_for_write() as connection, connection.channel() as channel:
            # Somebody declares an exchange of another type in the place of ours; no queue can be bound with ours.
            channel.queue_delete(dead_letters.dead_letter_queue().name)
            channel.exchange_delete(dead_letters.DEAD_LETTER_EXCHANGE)
            channel.exchange_declare(dead_letters.DEAD_LETTER_EXCHANGE, "fanout", durable=True, auto_delete=False)
        worker._stopping.set()
        raise CardTableError

    with worker:
        refused.delay()
        assert outcomes.states(1) == ["REJECTED"]

    left = stats(app)
    assert (left["ready"], left["acknowledged"]) == (1, 0)
