"""A dead letter, and a retry, are the message as it was sent, and there is one even of what can hardly be published."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from celery.app.task import Context
from celery.exceptions import WorkerLostError

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, dead_letters
from liap_tasks.received import ReceivedMessage
from liap_tasks.worker.lost_attempts import Ending, end_lost_attempt
from tests.liap_tasks.conftest import Outcomes
from tests.liap_tasks.test_dead_letter_paths import AT_ONCE, NEVER, CardTableError, Stats, assert_settled
from transports import InvalidArgumentError

TOO_LARGE = InvalidArgumentError("message size", 33_554_500, "at most 33554432 bytes")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda cards: cards.append(object()), id="what JSON cannot carry"),
        pytest.param(lambda cards: cards.append(cards), id="itself"),
        pytest.param(lambda cards: cards.clear(), id="nothing any more"),
    ],
)
def test_each_attempt_and_the_dead_letter_have_the_arguments_as_they_were_sent(
    app: LiapApp, outcomes: Outcomes, stats: Stats, spoil: Callable[[list[Any]], None]
) -> None:
    seen: list[list[Any]] = []

    @app.task(shared=False, name="tests.spoils", retry_policy=AT_ONCE)
    def spoils(cards: list[Any], *, table: dict[str, int]) -> None:
        seen.append([*cards, *table])
        spoil(cards)
        table.pop("piles")
        raise CardTableError("spoilt")

    with EmbeddedWorker(app, pool="solo"):
        spoils.delay(["a card"], table={"piles": 3})
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]

    assert seen == [["a card", "piles"]] * 3
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert (letter.args, letter.kwargs) == ((["a card"],), {"table": {"piles": 3}})
    assert_settled(stats, app, acknowledged=3)


def test_a_retry_that_can_never_be_published_is_a_dead_letter_and_not_a_loop(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, bind=True, name="tests.asks", retry_policy=AT_ONCE)
    def asks(self: Any, card: str) -> None:
        raise self.retry(args=(object(),), countdown=0)

    with EmbeddedWorker(app, pool="solo"):
        asks.delay("a card")
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.args) == (DeadLetterReason.PROCESSING_FAILED, ("a card",))
    assert letter.detail == "its retry can never be published"
    assert_settled(stats, app, acknowledged=1)


def test_a_dead_letter_is_of_the_serializer_that_its_call_was(
    new_app: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    app = new_app()
    app.conf.accept_content = ["json", "pickle"]

    @app.task(shared=False, name="tests.pickled", retry_policy=NEVER, serializer="pickle")
    def pickled(cards: set[int]) -> None:
        raise CardTableError

    with EmbeddedWorker(app, pool="solo"):
        pickled.delay({1, 2})
        outcomes.states(1)
    with app.connection_for_read() as connection, connection.channel() as channel:
        (kept,) = channel.peek("dead_letters")
    assert kept.content_type == "application/x-python-serialize"
    assert pickle.loads(kept.body)[0] == ({1, 2},)


def test_eagerly_a_dead_letter_is_of_the_task_s_serializer_or_shows_what_that_cannot_carry(
    new_app: Callable[..., LiapApp],
) -> None:
    app = new_app()
    app.conf.task_always_eager = True

    app.conf.accept_content = ["json", "pickle"]

    @app.task(shared=False, name="tests.pickled", retry_policy=NEVER, serializer="pickle")
    def pickled(cards: set[int]) -> None:
        raise CardTableError

    @app.task(shared=False, name="tests.spoils", retry_policy=NEVER)
    def spoils(cards: list[Any]) -> None:
        cards.append(cards)
        raise CardTableError

    pickled.delay({1, 2})
    spoils.delay([])

    with app.connection_for_read() as connection, connection.channel() as channel:
        first, _ = channel.peek("dead_letters")
    assert pickle.loads(first.body)[0] == [{1, 2}]
    shown = dead_letters.peek(app)[1].args
    assert shown is not None
    assert "Recursion" in shown[0]


def test_an_error_that_utf_8_cannot_carry_is_told_in_a_form_that_it_can(
    app: LiapApp, outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="celery.app.trace")  # what it logs no process of tests could report

    @app.task(shared=False, name="tests.opens", retry_policy=AT_ONCE)
    def opens() -> None:
        raise OSError("no file caf\udce9")

    with EmbeddedWorker(app, pool="solo"):
        opens.delay()
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert letter.message == "no file caf\\udce9"
    assert {attempt.message for attempt in letter.attempts} == {letter.message}
    letter.model_dump_json().encode("utf-8")


def test_a_retry_too_large_for_the_broker_is_a_dead_letter(
    app: LiapApp, outcomes: Outcomes, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(shared=False, name="tests.large", retry_policy=AT_ONCE)
    def large(cards: str) -> None:
        monkeypatch.setattr(app, "send_task", refuse)
        raise CardTableError("no table")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise TOO_LARGE

    with EmbeddedWorker(app, pool="solo"):
        large.delay("cards")
        assert outcomes.states(1) == ["FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.detail) == (
        DeadLetterReason.PROCESSING_FAILED,
        "its retry can never be published",
    )
    assert (letter.exception, letter.message) == ("CardTableError", "no table")
    assert_settled(stats, app, acknowledged=1)


def test_a_dead_letter_too_large_with_its_story_is_kept_with_less_of_it(
    app: LiapApp, outcomes: Outcomes, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = dead_letters.publish_routed

    def refuse_the_whole(*args: Any, headers: dict[str, Any], **options: Any) -> None:
        if "argsrepr" in headers or headers[dead_letters.HEADER]["traceback"]:
            raise TOO_LARGE
        really(*args, headers=headers, **options)

    monkeypatch.setattr(dead_letters, "publish_routed", refuse_the_whole)

    @app.task(shared=False, name="tests.large", retry_policy=AT_ONCE)
    def large(cards: str) -> None:
        raise CardTableError("no table")

    with EmbeddedWorker(app, pool="solo"):
        large.apply_async(("cards",), metadata_correlation_id="req-456")
        assert outcomes.states(3) == ["RETRY", "RETRY", "FAILURE"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception, letter.args) == (
        DeadLetterReason.RETRIES_EXHAUSTED,
        "CardTableError",
        ("cards",),
    )
    assert [attempt.number for attempt in letter.attempts] == [3]
    assert letter.correlation_id == "req-456"
    assert_settled(stats, app, acknowledged=3)


def lost_attempt(task: Any, *, sent: str, now: list[Any]) -> Context:
    """Return the request of an attempt whose process is gone. sent: its body. now: the arguments as they are."""
    task_id = str(uuid4())  # of its own: a worker of the process remembers those that have expired
    received = ReceivedMessage(sent, "application/json", "utf-8", {"task": task.name, "id": task_id}, {})
    info = {"exchange": "", "routing_key": task.app.conf.task_default_queue}
    return Context(
        {
            "id": task_id,
            "args": now,
            "kwargs": {},
            "headers": {},
            "retries": 0,
            "delivery_info": info,
            "liap_received": received,
        }
    )


def test_a_lost_attempt_is_retried_with_what_its_call_was_sent_with(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[Any] = []

    @app.task(shared=False, name="tests.lost", retry_policy=AT_ONCE)
    def lost(cards: list[str]) -> None:
        seen.append(cards)

    context = lost_attempt(lost, sent='[[["a card"]], {}, {}]', now=[[]])
    assert end_lost_attempt(lost, context, WorkerLostError("gone"), "") is Ending.RETRIED
    with EmbeddedWorker(app, pool="solo"):
        assert outcomes.states(1) == ["SUCCESS"]
    assert seen == [["a card"]]


def test_a_lost_attempt_whose_retry_can_never_be_published_is_a_dead_letter(
    app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(shared=False, name="tests.lost", retry_policy=AT_ONCE)
    def lost(cards: list[str]) -> None: ...

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise TOO_LARGE

    monkeypatch.setattr(app, "send_task", refuse)
    context = lost_attempt(lost, sent='[[["a card"]], {}, {}]', now=[["a card"]])
    assert end_lost_attempt(lost, context, WorkerLostError("gone"), "") is Ending.DEAD
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.detail) == (DeadLetterReason.WORKER_LOST, "its retry can never be published")
    assert letter.args == (["a card"],)
