"""Calls of a program that has many on their way: each has a future, one thread receives all answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import pytest

from liap_tasks import ConfigurationError, EmbeddedWorker, LiapApp, RetryPolicy
from liap_tasks.replies import Replies
from tests.liap_tasks.conftest import Outcomes
from transports import QueueFullError

DEADLINE = 30.0


@pytest.fixture
def double(app: LiapApp) -> Any:
    @app.task(name="tests.double", shared=False, retry_policy=RetryPolicy(max_retries=0))
    def double(number: int) -> int:
        if number < 0:
            raise ValueError("no such number")
        return number * 2

    return double


def test_many_calls_are_waited_for_at_once(app: LiapApp, double: Any) -> None:
    with EmbeddedWorker(app):
        results = [double.submit((number,), priority=number % 10) for number in range(50)]
        done, _ = wait([result.answered for result in results], DEADLINE)
        assert len(done) == 50
        assert [result.get(timeout=0) for result in results] == [number * 2 for number in range(50)]


def test_an_error_is_raised_by_get_and_told_to_callbacks(app: LiapApp, double: Any) -> None:
    told = threading.Event()
    with EmbeddedWorker(app):
        result = double.submit((-1,))
        result.answered.add_done_callback(lambda _: told.set())
        assert told.wait(DEADLINE)
        with pytest.raises(ValueError, match="no such number"):
            result.get(timeout=0)


def test_answers_to_this_thread_s_other_calls_still_reach_it(app: LiapApp, double: Any) -> None:
    with EmbeddedWorker(app):
        before = double.apply_async((1,), ignore_result=False)
        between = double.submit((2,))
        after = double.apply_async((3,), ignore_result=False)
        assert [before.get(timeout=DEADLINE), between.get(DEADLINE), after.get(timeout=DEADLINE)] == [2, 4, 6]


def test_an_answer_that_comes_before_anybody_receives_is_not_lost(
    app: LiapApp, double: Any, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, answered = Replies._receive, threading.Event()

    def late(replies: Replies) -> None:
        answered.wait(DEADLINE)
        receive(replies)

    monkeypatch.setattr(Replies, "_receive", late)
    with EmbeddedWorker(app):
        double.apply_async((1,), ignore_result=False)  # this thread's other calls are answered elsewhere
        result = double.submit((2,))
        outcomes.states(2)
        answered.set()
        assert result.get(DEADLINE) == 4


def test_a_refused_call_is_expected_no_longer(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=1)

    @app.task(name="tests.wait", shared=False)
    def waits() -> None: ...

    waits.submit()
    with pytest.raises(QueueFullError):
        waits.submit()
    assert len(app.replies._waiting) == 1


def test_an_eager_call_is_answered_when_it_returns(app: LiapApp, double: Any) -> None:
    app.conf.task_always_eager = True
    assert double.submit((4,)).answered.result(timeout=0)["result"] == 8


def test_a_backend_that_can_only_be_asked_has_no_futures(app: LiapApp, double: Any) -> None:
    app.conf.result_backend = "cache+memory://"
    with pytest.raises(ConfigurationError, match="result_backend"):
        double.submit((4,))
