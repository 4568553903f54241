"""What follows a task and cannot be published: it is a dead letter itself, and the task's work is not done again."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from liap_tasks import (
    BatchTask,
    DeadLetterPolicy,
    DeadLetterReason,
    EmbeddedWorker,
    LiapApp,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.dead_letter_store.operations import replay
from liap_tasks.errors import DeadLetterError, RoutingError
from liap_tasks.routing import TopicRouter
from liap_tasks.testing import DeadLetters
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from transports import QueueFullError

AGAIN = RetryPolicy(max_retries=5, initial_delay=0.001)
NEVER = RetryPolicy(max_retries=0)
NARROW = {"tests.next": {"queue": "narrow"}}


class Table:
    """An app with a first task, which notes that it ran, and a next one with a queue of its own."""

    def __init__(self, app: LiapApp, routes: Any = NARROW) -> None:
        self.app = app
        app.conf.task_routes = routes
        self.ran: list[Any] = []

        @app.task(shared=False, name="tests.first", retry_policy=AGAIN, ignore_result=False)
        def first(x: int = 0) -> int:
            self.ran.append(x)
            return x

        @app.task(shared=False, name="tests.next", ignore_result=False)
        def next_one(x: int = 0) -> int:
            self.ran.append(("next", x))
            return x

        @app.task(shared=False, name="tests.last", ignore_result=False)
        def last(x: int = 0) -> int:
            return x

        self.first, self.next, self.last = first, next_one, last

    def fill(self) -> Table:
        """Leave no room in the queue of the next task."""
        for _ in range(self.app.settings.max_queue_size):
            self.next.delay()
        return self

    def worker(self, **options: Any) -> EmbeddedWorker:
        return EmbeddedWorker(self.app, queues=[self.app.conf.task_default_queue], **options)


@pytest.fixture
def table(new_app: Callable[..., LiapApp]) -> Table:
    return Table(new_app(max_queue_size=1)).fill()


def test_the_rest_of_a_chain_is_a_dead_letter_and_the_work_is_not_done_again(table: Table, outcomes: Outcomes) -> None:
    with table.worker(pool="solo"):
        result = chain(table.first.s(7), table.next.s(), table.last.s()).delay()
        assert outcomes.next()[1:] == (result.parent.parent.id, "SUCCESS", 7)

    (letter,) = dead_letters.peek(table.app)
    assert (letter.reason, letter.task, letter.id) == (DeadLetterReason.MAXLEN, "tests.next", result.parent.id)
    assert (letter.args, letter.queue, letter.exception) == ((7,), "narrow", "QueueFullError")
    assert letter.detail == f"it could not be published when task tests.first[{result.parent.parent.id}] had ended"
    assert table.ran == [7]


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_so_it_is_with_coroutines_and_batches(table: Table, pool: str, outcomes: Outcomes) -> None:
    @table.app.task(shared=False, name="tests.coroutine", ignore_result=False)
    async def coroutine(x: int) -> int:
        return x

    @table.app.task(shared=False, name="tests.batch", base=BatchTask, batch_size=1, ignore_result=False)
    def batch(items: Any) -> list[Any]:
        return [item.payload for item in items]

    with table.worker(pool=pool, concurrency=2):
        for number, first in enumerate((coroutine, batch)):
            chain(first.s(number), table.next.s()).delay()
            assert outcomes.next().state == "SUCCESS"

    assert [(letter.task, letter.args) for letter in dead_letters.peek(table.app)] == [
        ("tests.next", (0,)),
        ("tests.next", (1,)),
    ]


def test_who_waits_for_the_end_of_the_chain_is_told_and_its_error_callback_is_called(table: Table) -> None:
    told: queue.Queue[str] = queue.Queue()

    @table.app.task(shared=False, name="tests.on_error")
    def on_error(task_id: str) -> None:
        told.put(task_id)

    with table.worker(pool="threads"):
        steps = chain(table.first.s(7), table.next.s().on_error(on_error.s()), table.last.s())
        result = steps.delay()
        with pytest.raises(QueueFullError):
            result.get(timeout=DEADLINE)
        assert told.get(timeout=DEADLINE) == result.parent.id
        assert result.parent.parent.get(timeout=DEADLINE) == 7


def test_replayed_the_chain_goes_on_where_it_was_stopped(
    new_app: Callable[..., LiapApp], tmp_path: Path, outcomes: Outcomes
) -> None:
    table = Table(new_app(max_queue_size=1, dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")).fill()
    ended: queue.Queue[int] = queue.Queue()

    @table.app.task(shared=False, name="tests.ending")
    def ending(x: int) -> None:
        ended.put(x)

    with table.worker(pool="solo"):
        chain(table.first.s(7), table.next.s(), ending.s()).delay()
        DeadLetters(table.app).wait(task="tests.next", timeout=DEADLINE)
    with EmbeddedWorker(table.app, pool="threads"):
        while replay(table.app).replayed == 0:  # as long as its queue is full, or the recorder has not stored it
            outcomes.next()
        assert ended.get(timeout=DEADLINE) == 7
    assert table.ran.count(7) == 1


def test_a_callback_that_no_route_takes_is_a_dead_letter_that_waits_for_a_queue(
    app: LiapApp, outcomes: Outcomes
) -> None:
    router = TopicRouter()
    router.register_route("tests.first", app.conf.task_default_queue)
    table = Table(app, [router])

    with table.worker(pool="solo"):
        result = table.first.apply_async((7,), link=table.next.s())
        assert outcomes.next().state == "SUCCESS"
        assert result.get(timeout=DEADLINE) == 7

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.exception) == (DeadLetterReason.PROCESSING_FAILED, RoutingError.__name__)
    assert (letter.task, letter.args, letter.queue) == ("tests.next", (7,), "")


def test_of_a_group_only_what_has_no_room_is_a_dead_letter(table: Table, outcomes: Outcomes) -> None:
    with table.worker(pool="solo"):
        chain(table.first.s(7), group(table.next.s(), table.last.s(), table.next.s())).delay()
        assert {outcomes.next().task, outcomes.next().task} == {"tests.first", "tests.last"}

    assert [(letter.task, letter.args) for letter in dead_letters.peek(table.app)] == [("tests.next", (7,))] * 2


def test_an_error_callback_is_a_dead_letter_beside_the_task_that_failed(table: Table, outcomes: Outcomes) -> None:
    @table.app.task(shared=False, name="tests.fails", retry_policy=NEVER)
    def fails() -> None:
        raise ValueError("no such table")

    with table.worker(pool="solo"):
        failed = fails.apply_async(link_error=table.next.s())
        assert outcomes.states(1) == ["FAILURE"]

    own, callback = dead_letters.peek(table.app)
    assert (own.task, own.reason) == ("tests.fails", DeadLetterReason.RETRIES_EXHAUSTED)
    assert (callback.task, callback.args, callback.reason) == ("tests.next", (failed.id,), DeadLetterReason.MAXLEN)


def test_the_body_of_a_chord_is_a_dead_letter_with_the_results_of_its_header(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=2)
    app.conf.result_backend = "cache+memory://"
    table = Table(app).fill()

    with table.worker(pool="solo"):
        result = chord([table.first.s(1), table.first.s(2)])(table.next.s())
        with pytest.raises(QueueFullError):
            result.get(timeout=DEADLINE)

    (letter,) = dead_letters.peek(app)
    assert (letter.task, letter.args) == ("tests.next", ([1, 2],))


def test_a_call_whose_arguments_do_not_fit_is_a_dead_letter(app: LiapApp, outcomes: Outcomes) -> None:
    table = Table(app, {"tests.takes_nothing": {"queue": "elsewhere"}})

    @app.task(shared=False, name="tests.takes_nothing")
    def takes_nothing() -> None: ...

    with table.worker(pool="solo"):
        chain(table.first.s(7), takes_nothing.s()).delay()
        assert outcomes.next().state == "SUCCESS"

    (letter,) = dead_letters.peek(app)
    assert (letter.task, letter.args, letter.queue) == ("tests.takes_nothing", (7,), "elsewhere")
    assert letter.exception == "TypeError"


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")  # Celery's, about this one
def test_what_makes_no_message_leaves_the_letter_of_the_task_before_it(app: LiapApp, outcomes: Outcomes) -> None:
    table = Table(app)  # with rpc://, which knows no chords
    steps = {"options": {}, **chord([table.last.s()], table.last.s())}

    with table.worker(pool="solo"):
        table.first.apply_async((7,), link=steps)
        assert outcomes.next().task == "tests.first"

    (letter,) = dead_letters.peek(app)
    assert (letter.task, letter.exception) == ("tests.first", "NotImplementedError")
    assert letter.detail == "its work was done, but what follows it could not be published"


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
@pytest.mark.parametrize("shape", ["plain", "coroutine", "batch"])
def test_when_there_is_no_room_for_letters_either_the_task_goes_back_to_its_queue(
    table: Table, pool: str, shape: str, monkeypatch: pytest.MonkeyPatch, outcomes: Outcomes
) -> None:
    publish, failures = dead_letters.publish, [DeadLetterError("no room"), DeadLetterError("still none")]

    def fail_twice(*args: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        publish(*args, **options)

    monkeypatch.setattr(dead_letters, "publish", fail_twice)

    @table.app.task(shared=False, name="tests.coroutine")
    async def coroutine(x: int) -> None: ...

    @table.app.task(shared=False, name="tests.batch", base=BatchTask, batch_size=1)
    def batch(items: Any) -> None: ...

    first = {"plain": table.first, "coroutine": coroutine, "batch": batch}[shape]
    with table.worker(pool=pool, concurrency=1):
        chain(first.s(7), table.next.s()).delay()
        assert [outcomes.next().task for _ in range(3)] == [first.name] * 3
    assert [letter.task for letter in dead_letters.peek(table.app)] == ["tests.next"]


def test_a_result_backend_that_cannot_be_told_makes_no_more_letters(
    table: Table, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_away(*_: Any, **__: Any) -> None:
        raise ConnectionError("the result backend is away")

    monkeypatch.setattr(type(table.app.backend), "mark_as_failure", be_away)
    with table.worker(pool="solo"):
        chain(table.first.s(7), table.next.s()).delay()
        assert outcomes.next().state == "SUCCESS"

    assert [letter.task for letter in dead_letters.peek(table.app)] == ["tests.next"]


def test_a_task_that_keeps_no_letters_just_fails(table: Table) -> None:
    @table.app.task(shared=False, name="tests.kept_nowhere", dead_letter_policy=DeadLetterPolicy(enabled=False))
    def kept_nowhere(x: int) -> None: ...

    with table.worker(pool="threads"):
        result = chain(table.first.s(7), kept_nowhere.s().set(queue="narrow", ignore_result=False)).delay()
        with pytest.raises(QueueFullError):
            result.get(timeout=DEADLINE)
    assert dead_letters.count(table.app) == 0


def test_what_a_task_itself_publishes_raises_in_it(table: Table, outcomes: Outcomes) -> None:
    refused: list[QueueFullError] = []

    @table.app.task(shared=False, name="tests.publishes")
    def publishes() -> None:
        try:
            table.next.delay()
        except QueueFullError as error:
            refused.append(error)

    with table.worker(pool="solo"):
        publishes.delay()
        assert outcomes.states(1) == ["SUCCESS"]
    assert [error.queue for error in refused] == ["narrow"]
    assert dead_letters.count(table.app) == 0
