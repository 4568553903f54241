"""Errors that are unlike others: an attempt that ends with one has failed as with any other, on every pool."""

from __future__ import annotations

from typing import NoReturn

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import Outcomes
from tests.liap_tasks.test_dead_letter_paths import Stats, assert_settled

ONE_MORE = RetryPolicy(max_retries=1, initial_delay=0.001, jitter=False)


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
