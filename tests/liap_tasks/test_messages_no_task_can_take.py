"""Messages that no task can take are kept as they are, and the worker goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import NotRegistered
from celery.worker.request import Request
from kombu.exceptions import OperationalError

from liap_tasks import DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from liap_tasks.configuration import DELIVERY_LIMIT
from liap_tasks.worker.redelivery import HEADER as REDELIVERIES
from tests.liap_tasks.conftest import Outcomes

Stats = Callable[..., dict[str, float]]
BODY = json.dumps([[], {}, {}])
HEADERS = {"task": "tests.works", "id": "m-1", "lang": "py"}


def send(app: LiapApp, body: Any, headers: Any = None, **options: Any) -> None:
    options = {"content_type": "application/json", "content_encoding": "utf-8", **options}
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = app.amqp.Producer(channel)
        queue = app.amqp.queues["liap_tasks"]
        producer.publish(body, exchange="", routing_key=queue.name, declare=[queue], headers=headers, **options)


@pytest.fixture
def works(app: LiapApp) -> Any:
    @app.task(shared=False, name="tests.works")
    def works() -> None: ...

    return works


def worked(app: LiapApp, works: Any, outcomes: Outcomes) -> None:
    """Run a worker over what waits, and see that it still works."""
    with EmbeddedWorker(app, pool="solo"):
        sent = works.delay()
        while outcomes.next().id != sent.id:
            pass


@pytest.mark.parametrize(
    ("body", "headers", "options"),
    [
        pytest.param("{not json", HEADERS, {}, id="no JSON"),
        pytest.param(b"\xff\xfe", HEADERS, {}, id="no UTF-8"),
        pytest.param(b"cos\nsystem", HEADERS, {"content_type": "application/x-python-serialize"}, id="pickle"),
        pytest.param(b"\x00\x01", HEADERS, {"content_type": "image/png"}, id="a picture"),
        pytest.param(BODY, {**HEADERS, "compression": "application/x-gzip"}, {}, id="not compressed as it says"),
        pytest.param("[1, 2]", HEADERS, {}, id="no triple"),
        pytest.param("[1, 2, 3]", HEADERS, {}, id="no arguments"),
        pytest.param("7", HEADERS, {}, id="a number"),
        pytest.param('{"move": 1}', HEADERS, {}, id="no arguments in an object"),
        pytest.param(BODY, {"task": "tests.works"}, {}, id="no id"),
        pytest.param(BODY, {**HEADERS, "timelimit": 3}, {}, id="a broken time limit"),
        pytest.param(BODY, {**HEADERS, "retries": "many"}, {}, id="a broken count"),
        pytest.param(BODY, {**HEADERS, "timelimit": ["a", "b"]}, {}, id="a time limit of words"),
        pytest.param(BODY, {**HEADERS, "timelimit": [None, -1]}, {}, id="a time limit below nothing"),
        pytest.param(BODY, {**HEADERS, "timelimit": [float("nan"), None]}, {}, id="a time limit that is no number"),
        pytest.param(BODY, {**HEADERS, "expires": "soon"}, {}, id="a broken expiry"),
        pytest.param(BODY, {**HEADERS, "expires": ""}, {}, id="an empty expiry"),
        pytest.param(BODY, {**HEADERS, "expires": []}, {}, id="an expiry that is a list"),
        pytest.param(BODY, {**HEADERS, "eta": ""}, {}, id="an empty time"),
        pytest.param(BODY, {**HEADERS, "eta": {}}, {}, id="a time that is a table"),
        pytest.param(BODY, {**HEADERS, "shadow": ["a", "b"]}, {}, id="a name that is a list"),
        pytest.param(BODY, {**HEADERS, "stamped_headers": 5}, {}, id="stamps that are a number"),
        pytest.param(BODY, {**HEADERS, "stamped_headers": [[]]}, {}, id="a stamp that is a list"),
        pytest.param(BODY, {**HEADERS, "stamps": "all"}, {}, id="values of stamps that are no table"),
        pytest.param(BODY, {**HEADERS, "headers": "all"}, {}, id="headers that are text"),
        pytest.param(BODY, {**HEADERS, "headers": 5}, {}, id="headers that are a number"),
        pytest.param(BODY, {**HEADERS, "group_index": "first"}, {}, id="a place in a group that is text"),
        pytest.param("{not json", {**HEADERS, "liap": {"attempts": "x"}}, {}, id="no JSON, and broken metadata"),
        pytest.param('{"args": 5}', HEADERS, {}, id="arguments in an object that are a number"),
        pytest.param('{"args": [], "expires": ""}', HEADERS, {}, id="an empty expiry in an object"),
        pytest.param('{"task": ["tests.works"], "id": "m"}', None, {}, id="protocol 1: a task that is a list"),
        pytest.param('{"task": "tests.works"}', None, {}, id="protocol 1: no id"),
        pytest.param('{"task": "tests.works", "id": "m", "args": 5}', None, {}, id="protocol 1: no arguments"),
        pytest.param('{"move": 1}', None, {}, id="no task message"),
        pytest.param("plain words", None, {"content_type": "text/plain"}, id="plain text"),
    ],
)
def test_what_cannot_be_read_is_kept_byte_by_byte(
    app: LiapApp, works: Any, outcomes: Outcomes, stats: Stats, body: Any, headers: Any, options: Any
) -> None:
    send(app, body, headers, **options)
    worked(app, works, outcomes)

    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.queue) == (DeadLetterReason.UNDECODABLE, "liap_tasks")
    assert letter.id == (headers or {}).get("id")  # of protocol 1 nothing is known but its body
    with app.connection_for_read() as connection, connection.channel() as channel:
        (kept,) = channel.peek("dead_letters")
    raw = kept.body if isinstance(kept.body, bytes) else kept.body.encode()
    assert raw == (body if isinstance(body, bytes) else body.encode())
    assert kept.content_type == options.get("content_type", "application/json")
    assert (stats(app)["acknowledged"], stats(app)["rejected"], stats(app)["unacked"]) == (2, 0, 0)


def test_a_task_that_is_no_text_is_kept(app: LiapApp, works: Any, outcomes: Outcomes) -> None:
    send(app, BODY, {**HEADERS, "task": ["tests.works"]})
    worked(app, works, outcomes)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.task) == (DeadLetterReason.UNDECODABLE, "['tests.works']")


def test_what_fails_while_a_request_is_made_of_it_is_kept(
    app: LiapApp, works: Any, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Request.__init__

    def fail(self: Any, message: Any, **options: Any) -> None:
        if message.headers["id"] == "m-1":
            raise OverflowError("whatever it was")
        make(self, message, **options)

    monkeypatch.setattr(Request, "__init__", fail)
    send(app, BODY, HEADERS)
    worked(app, works, outcomes)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.detail) == (DeadLetterReason.UNDECODABLE, "it is no valid task message")


@pytest.mark.parametrize(
    "headers",
    [
        {"liap": {"attempts": "x"}},
        {"liap": {"replays": 2**63}},
        {"liap": {"deadline": float("nan")}},
        {"liap_running": True},
        {"liap_retried": True},
        {"liap_verdict": "fine"},
    ],
    ids=str,
)
def test_a_task_that_fails_is_kept_whatever_other_software_has_written_under_our_names(
    app: LiapApp, outcomes: Outcomes, headers: dict[str, Any]
) -> None:
    @app.task(shared=False, name="tests.fails", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    def fails() -> None:
        raise ValueError("no such stake")

    send(app, BODY, {**HEADERS, "task": "tests.fails", **headers})
    with EmbeddedWorker(app, pool="solo"):
        assert outcomes.states(2) == ["RETRY", "FAILURE"]
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.message) == (DeadLetterReason.RETRIES_EXHAUSTED, "no such stake")
    assert [attempt.number for attempt in letter.attempts] == [1, 2]


def test_a_call_of_an_unknown_task_is_kept_and_its_caller_is_told(
    app: LiapApp, works: Any, outcomes: Outcomes, stats: Stats
) -> None:
    sent = app.send_task("tests.nobody", args=[1], kwargs={"room": "r1"}, ignore_result=False)
    worked(app, works, outcomes)
    with pytest.raises(NotRegistered):
        sent.get(timeout=10)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.task, letter.id) == (DeadLetterReason.NO_HANDLER, "tests.nobody", sent.id)
    assert (letter.args, letter.kwargs) == ((1,), {"room": "r1"})
    assert (stats(app)["acknowledged"], stats(app)["rejected"]) == (2, 0)


def test_a_call_that_expired_on_the_way_to_a_worker_is_kept(app: LiapApp, works: Any, outcomes: Outcomes) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    send(app, BODY, {**HEADERS, "expires": past})
    worked(app, works, outcomes)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.task, letter.id) == (DeadLetterReason.EXPIRED, "tests.works", "m-1")


def test_a_revoked_call_is_no_dead_letter(app: LiapApp, works: Any, outcomes: Outcomes) -> None:
    with EmbeddedWorker(app, pool="solo") as worker:
        app.control.revoke("m-2", destination=[worker.hostname], reply=True, timeout=5)
        send(app, BODY, {**HEADERS, "id": "m-2"})
        sent = works.delay()
        assert outcomes.next().id == sent.id
    assert dead_letters.count(app) == 0


def test_what_cannot_be_kept_now_goes_back_to_its_queue(
    app: LiapApp, works: Any, outcomes: Outcomes, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = dead_letters.publish_routed
    failures = iter([True, True, False])

    def fail_twice(*args: Any, **options: Any) -> None:
        if next(failures):
            raise OperationalError("the broker is away")
        really(*args, **options)

    monkeypatch.setattr(dead_letters, "publish_routed", fail_twice)
    send(app, "{not json", HEADERS)
    with EmbeddedWorker(app, pool="solo"):
        while dead_letters.count(app) == 0:
            pass
    assert dead_letters.count(app) == 1
    assert stats(app)["requeued"] == 2


def test_our_brokers_count_deliveries_themselves(app: LiapApp, works: Any, outcomes: Outcomes) -> None:
    works.apply_async(task_id="m-3")
    for _ in range(DELIVERY_LIMIT + 1):
        with app.connection_for_read() as connection, connection.channel() as channel:
            assert channel.basic_get("liap_tasks") is not None
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.id) == (DeadLetterReason.DELIVERY_LIMIT, "m-3")


@pytest.fixture
def rabbit_app(new_app: Callable[..., LiapApp], rabbitmq_url: str) -> Iterator[LiapApp]:
    app = new_app(message_queue_url=rabbitmq_url)
    app.conf.task_default_queue = app.conf.task_default_routing_key = f"redelivered-{uuid4().hex}"
    yield app
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(app.conf.task_default_queue)
        for record in dead_letters.peek(app):
            assert record.queue != app.conf.task_default_queue, "a dead letter of this test is left"


def test_on_a_classic_queue_the_worker_counts_redeliveries(rabbit_app: LiapApp, outcomes: Outcomes) -> None:
    app, queue = rabbit_app, rabbit_app.conf.task_default_queue
    seen: list[tuple[str, Any]] = []

    @app.task(shared=False, bind=True, name="tests.counted")
    def counted(self: Any) -> None:
        seen.append((self.request.id, (self.request.headers or {}).get(REDELIVERIES)))

    def deliver_and_lose() -> None:
        with app.connection_for_read() as connection, connection.channel() as channel:
            assert channel.basic_get(queue) is not None

    often = {REDELIVERIES: DELIVERY_LIMIT}
    counted.apply_async(task_id="often", headers=often)
    deliver_and_lose()
    with EmbeddedWorker(app, pool="solo", queues=[queue]):
        counted.apply_async(task_id="after")
        assert outcomes.next().id == "after"
        letters = {letter.id: letter for letter in dead_letters.peek(app)}
    assert letters["often"].reason is DeadLetterReason.DELIVERY_LIMIT

    counted.apply_async(task_id="once", priority=3)
    deliver_and_lose()
    with EmbeddedWorker(app, pool="solo", queues=[queue]):
        assert outcomes.next().id == "once"
    assert seen == [("after", None), ("once", 1)]
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_purge("dead_letters")


def test_messages_that_were_delivered_before_go_round_although_their_queue_is_full(
    new_app: Callable[..., LiapApp], rabbitmq_virtual_host: str, outcomes: Outcomes
) -> None:
    app = new_app(message_queue_url=rabbitmq_virtual_host, max_queue_size=6)

    @app.task(shared=False, name="tests.one_of_many")
    def one_of_many() -> None: ...

    lost = {one_of_many.delay().id for _ in range(6)}
    with app.connection_for_read() as connection, connection.channel() as channel:
        for _ in lost:  # a worker that is lost holds them
            assert channel.basic_get(app.conf.task_default_queue) is not None
        others = {one_of_many.delay().id for _ in range(6)}
    with EmbeddedWorker(app, concurrency=1):  # its window holds four
        assert {outcomes.next().id for _ in range(12)} == lost | others
