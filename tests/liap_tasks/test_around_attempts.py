"""What fails around an attempt (before it begins, when its result is stored, in a hook): kept, then acknowledged."""

from __future__ import annotations

import pickle
from typing import Any, NoReturn

import pytest
from celery.exceptions import Reject
from kombu.exceptions import EncodeError

from liap_tasks import (
    BatchItem,
    BatchTask,
    DeadLetterPolicy,
    DeadLetterReason,
    EmbeddedWorker,
    LiapApp,
    LiapTask,
    RetryPolicy,
    Unique,
    around_attempt,
    dead_letters,
)
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.liap_tasks.test_dead_letter_paths import Stats, assert_settled

ONE_MORE = RetryPolicy(max_retries=1, initial_delay=0.001, jitter=False)
NEVER = RetryPolicy(max_retries=0)

warned = pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # by Celery's tracer
pools = pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])


class Unprepared(LiapTask):
    abstract = True
    error: type[BaseException] = LookupError

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> NoReturn:
        raise self.error("no table is free")


@pools
def test_a_task_that_fails_before_its_start_is_a_dead_letter(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str
) -> None:
    @app.task(shared=False, base=Unprepared, name="tests.unprepared", retry_policy=ONE_MORE, ignore_result=False)
    def unprepared(room: str) -> NoReturn:
        raise AssertionError("it must not run")

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        sent = unprepared.delay("r1")
        with pytest.raises(LookupError, match="no table is free"):
            sent.get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.PROCESSING_FAILED, "LookupError")
    assert (letter.id, letter.args, letter.message) == (sent.id, ("r1",), "no table is free")
    assert [attempt.number for attempt in letter.attempts] == [1]
    assert "before_start" in (letter.traceback or "")
    assert_settled(stats, app, acknowledged=1)
    assert app.task_statistics["tests.unprepared"]["dead_lettered"] == 1


@pytest.mark.parametrize("error", [SystemExit, MemoryError])
@pools
def test_a_task_that_exits_before_its_start_is_a_dead_letter(
    app: LiapApp, stats: Stats, pool: str, error: type[BaseException]
) -> None:
    @app.task(shared=False, base=Unprepared, error=error, name="tests.exits", retry_policy=NEVER, ignore_result=False)
    def exits() -> None: ...

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        sent = exits.delay()
        with pytest.raises(Exception, match="no table is free"):
            sent.get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert letter.exception == error.__name__
    assert_settled(stats, app, acknowledged=1)


def test_a_unique_call_that_fails_before_its_start_may_be_made_again(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, base=Unprepared, name="tests.unique", retry_policy=NEVER, unique=Unique())
    def unprepared() -> None: ...

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        unprepared.delay()
        assert outcomes.states(1) == ["FAILURE"]

    unprepared.delay()


@pools
def test_a_result_that_cannot_be_encoded_leaves_a_dead_letter(app: LiapApp, stats: Stats, pool: str) -> None:
    @app.task(shared=False, name="tests.no_json", retry_policy=ONE_MORE, ignore_result=False)
    def no_json(room: str) -> object:
        return object()

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        sent = no_json.delay("r1")
        with pytest.raises(EncodeError):
            sent.get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.PROCESSING_FAILED, "EncodeError")
    assert letter.args == ("r1",)
    assert_settled(stats, app, acknowledged=1)


def test_a_fallback_s_answer_that_cannot_be_encoded_leaves_a_dead_letter(app: LiapApp, stats: Stats) -> None:
    @app.task(shared=False, name="tests.saved", retry_policy=NEVER, ignore_result=False, fallback=object)
    def fails() -> NoReturn:
        raise LookupError("room r1")

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        with pytest.raises(EncodeError):
            fails.delay().get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert letter.exception == "EncodeError"
    assert_settled(stats, app, acknowledged=1)


def test_only_the_item_of_a_batch_whose_result_cannot_be_encoded_is_kept(
    app: LiapApp, outcomes: Outcomes, stats: Stats
) -> None:
    @app.task(shared=False, base=BatchTask, batch_size=2, name="tests.batch", retry_policy=NEVER, ignore_result=False)
    def some(items: list[BatchItem]) -> list[Any]:
        return [object() if item.payload == 1 else item.payload for item in items]

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        some.delay(1)
        some.delay(2)
        assert outcomes.states(2) == ["FAILURE", "SUCCESS"]

    (letter,) = dead_letters.peek(app)
    assert (letter.exception, letter.args) == ("EncodeError", (1,))
    assert_settled(stats, app, acknowledged=2)


@warned
def test_a_failing_hook_makes_no_second_letter(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    class Hooked(LiapTask):
        abstract = True

        def on_failure(self, *_: Any) -> NoReturn:
            raise RuntimeError("in the hook")

    @app.task(shared=False, base=Hooked, name="tests.hooked", retry_policy=NEVER)
    def fails() -> NoReturn:
        raise LookupError("room r1")

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        fails.delay()
        assert outcomes.states(1) == [None]

    (letter,) = dead_letters.peek(app)
    assert letter.exception == "LookupError"
    assert_settled(stats, app, acknowledged=1)


@warned
@pools
def test_a_retry_that_is_under_way_is_no_dead_letter_when_its_hook_fails(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Hooked(LiapTask):
        abstract = True

        def on_retry(self, *_: Any) -> NoReturn:
            raise RuntimeError("in the hook")

    @app.task(shared=False, bind=True, base=Hooked, name="tests.retried", retry_policy=ONE_MORE, unique=Unique())
    def fails_once(self: LiapTask) -> str:
        if self.attempt == 1:
            raise LookupError("room r1")
        return "done"

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        fails_once.delay()
        ended = [outcomes.next().value, outcomes.next().value]

    assert ended == [None, "done"]
    assert dead_letters.count(app) == 0
    assert_settled(stats, app, acknowledged=2)
    assert "had no lock here" not in caplog.text


@pools
def test_a_hook_may_give_the_message_back(app: LiapApp, outcomes: Outcomes, stats: Stats, pool: str) -> None:
    class Hooked(LiapTask):
        abstract = True

        def on_success(self, *_: Any) -> None:
            if not self.request.delivery_info["redelivered"]:
                raise Reject("not here", requeue=True)

    @app.task(shared=False, base=Hooked, name="tests.given_back")
    def works() -> None: ...

    with EmbeddedWorker(app, pool=pool, concurrency=1):
        works.delay()
        assert outcomes.states(2) == ["SUCCESS", "SUCCESS"]

    assert stats(app)["unacked"] == stats(app)["ready"] == 0
    assert dead_letters.count(app) == 0


@warned
@pools
def test_a_result_that_cannot_be_stored_leaves_a_dead_letter(
    app: LiapApp, stats: Stats, pool: str, monkeypatch: pytest.MonkeyPatch, outcomes: Outcomes
) -> None:
    @app.task(shared=False, name="tests.backend_away", retry_policy=NEVER, ignore_result=False)
    def works() -> int:
        return 1

    def away(*_: Any, **__: Any) -> NoReturn:
        raise ConnectionError("the backend is away")

    backend: Any = app.backend
    with EmbeddedWorker(app, pool=pool, concurrency=1):
        monkeypatch.setattr(type(backend), "store_result", away)
        works.delay()
        assert outcomes.states(1) == ["SUCCESS"]

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.PROCESSING_FAILED, "ConnectionError")
    assert_settled(stats, app, acknowledged=1)


def test_a_task_that_keeps_no_dead_letters_keeps_none_of_these(app: LiapApp, stats: Stats, outcomes: Outcomes) -> None:
    @app.task(shared=False, base=Unprepared, name="tests.not_kept", dead_letter_policy=DeadLetterPolicy(enabled=False))
    def unprepared() -> None: ...

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        unprepared.delay()
        assert outcomes.states(1) == ["FAILURE"]

    assert dead_letters.count(app) == 0
    assert_settled(stats, app, acknowledged=1)


class OutOfReach(Exception):
    """As some results backends raise: it can be pickled, and not be read again."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} is away")


def test_what_fails_outside_of_an_attempt_can_be_told_by_another_process(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.told")
    def works() -> None: ...

    def fail(*_: Any) -> NoReturn:
        raise OutOfReach("store", 1)

    outcome = around_attempt.complete(works, fail)("id", (), {}, {"id": "id", "delivery_info": {}})

    read_again = pickle.loads(pickle.dumps(outcome.retval))
    assert "store:1 is away" in str(read_again.exception)
