"""A call published the quick way is, to the last header, the message that Celery would have published."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import chain, signals
from celery.app.task import Context
from kombu import Exchange, Queue
from kombu.exceptions import EncodeError
from pydantic import BaseModel

from liap_tasks import DeliveryOptions, LiapApp, MessagePriority, RoutingError
from liap_tasks.routing import ContentRouter, DirectRouter, Router
from tests.liap_tasks.conftest import Outcomes
from transports import BrokerUnavailableError, InvalidArgumentError, QueueFullError
from transports.broker import BrokerThread
from transports.engine import Clock

NOW = datetime.now(UTC)  # time stands still while the two messages are made


class Stake(BaseModel):
    amount: int


class Standing(Clock):
    """The time of NOW, for ever."""

    def now(self) -> float:
        return 0.0

    def time(self) -> float:
        return NOW.timestamp()


class Publishing:
    """Publishes calls in both ways and reads what came into the queue."""

    def __init__(self, app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.by_celery = 0
        send: Any = app.amqp.send_task_message

        def counted(*args: Any, **options: Any) -> Any:
            self.by_celery += 1
            return send(*args, **options)

        monkeypatch.setattr(app.amqp, "send_task_message", counted)
        monkeypatch.setattr(app, "time_source", Standing())

    def both(self, publish: Callable[[], Any], queue: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the message published in the quick way, and the one that Celery publishes."""
        publish()
        assert self.by_celery == 0, "it was left to Celery"
        quick = self.taken(queue)
        with watched():
            publish()
        assert self.by_celery == 1
        return quick, self.taken(queue)

    def taken(self, queue: str) -> dict[str, Any]:
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            delayed = channel.delayed(queue)
            if delayed:
                [(left, message)] = delayed
                channel.cancel_delayed(queue, message.headers["id"])
                assert left > 0
                found = {"headers": message.headers, "properties": message.properties}
                return {**found, "body": message.body}
            message = channel.basic_get(queue)
            assert message is not None
            message.ack()
            assert channel.basic_get(queue) is None
            return {
                "body": message.body,
                "headers": message.headers,
                "properties": message.properties,
                "exchange": message.delivery_info["exchange"],
                "routing_key": message.delivery_info["routing_key"],
                "type": (message.content_type, message.content_encoding),
            }


@contextmanager
def watched() -> Iterator[list[str]]:
    """Have a receiver of the signal that Celery sends before each publish."""
    seen: list[str] = []

    def note(sender: str, **_: Any) -> None:
        seen.append(sender)

    signals.before_task_publish.connect(note)
    yield seen
    signals.before_task_publish.disconnect(note)


@pytest.fixture
def publishing(app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> Publishing:
    return Publishing(app, monkeypatch)


@pytest.fixture
def settle(app: LiapApp) -> Any:
    @app.task(name="tests.settle", shared=False, timeout=7, priority=MessagePriority.HIGH)
    def settle(game: str, stake: Any = 0, **more: Any) -> None: ...

    return settle


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kwargs": {"stake": [1, {"deep": {"deeper": ("x" * 2000,)}}]}},
        {"priority": 3},
        {"priority": 0},
        {"priority": None},
        {"queue": "other"},
        {"queue": Queue("third", routing_key="third")},
        {"expires": 60},
        {"expires": NOW + timedelta(seconds=90)},
        {"countdown": 5},
        {"retries": 2},
        {"retries": 1, "headers": {"x-group-id": "room-1", "x-deduplication-id": "gone"}},
        {"shadow": "another name"},
        {"time_limit": 20, "soft_time_limit": 10},
        {"ignore_result": False},
        {"ignore_result": True},
        {"reply_to": "somebody"},
        {"root_id": "root", "parent_id": "parent"},
        {"group_id": "group", "group_index": 3},
        {"headers": {"tenant": "blue", "table": {"seats": [1, 2]}}},
        {"serializer": "json"},
        {"add_to_parent": False},
        {"ordering_key": "room-1"},
        {"dedup_key": "request-7"},
        {"deadline": NOW.timestamp() + 30},
        {"answer_within": 12.5},
        {"delivery": DeliveryOptions(priority=MessagePriority.CRITICAL, ttl=9, correlation_id="request-8")},
        {"expires": 3, "priority": 9, "queue": "other", "headers": {"a": None}, "ignore_result": False, "shadow": "s"},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_the_message_is_the_one_that_celery_publishes(
    publishing: Publishing, settle: Any, options: dict[str, Any]
) -> None:
    queue = options.get("queue", publishing.app.conf.task_default_queue)
    if options.get("dedup_key"):
        dedup = iter(["first", "second"])
        numbers = {"dedup_key": lambda: next(dedup)}
    else:
        numbers = {}

    def publish() -> Any:
        given = {**options, **{name: make() for name, make in numbers.items()}}
        return settle.apply_async(("game-1",), **{"task_id": "call-1", **given})

    quick, celery_s = publishing.both(publish, getattr(queue, "name", queue))
    for message in (quick, celery_s):
        message["headers"].pop("x-deduplication-id", None)
    assert quick == celery_s


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"task_send_sent_event": True}, {}),
        ({"task_inherit_parent_priority": True}, {}),
        ({"task_protocol": 1}, {}),
        ({}, {"compression": "zlib"}),
        ({}, {"delivery_mode": 1}),
        ({}, {"exchange": "", "routing_key": "elsewhere"}),
        ({}, {"retry": False}),
        ({}, {"stamped_headers": ["tenant"], "tenant": "blue"}),
        ({}, {"expires": datetime(2000, 1, 1, tzinfo=UTC)}),
    ],
    ids=str,
)
def test_what_is_out_of_the_ordinary_is_left_to_celery(
    publishing: Publishing, settle: Any, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    publishing.app.conf.update(settings)
    settle.apply_async(("game-1",), **options)
    assert publishing.by_celery == 1


def test_so_it_is_with_callbacks_chains_and_models(
    publishing: Publishing, app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="tests.pay", shared=False)
    def pay(stake: Stake, times: int = 1) -> Stake:
        return stake

    monkeypatch.setattr("celery.canvas.uuid", lambda: "call-2")
    stake = {"amount": 5}
    queue = app.conf.task_default_queue
    for publish in (
        lambda: pay.apply_async(
            (Stake(amount=5),), {"times": 2}, task_id="call-1", link=pay.s(), link_error=[pay.si(stake)]
        ),
        lambda: chain(pay.si(stake), pay.s(times=3), pay.s()).apply_async(task_id="call-1"),
        lambda: pay.s(stake).set(priority=7).apply_async(task_id="call-1"),
    ):
        publishing.by_celery = 0
        quick, celery_s = publishing.both(publish, queue)
        assert quick == celery_s


def test_a_call_from_a_running_task_names_its_parents(app: LiapApp, outcomes: Outcomes) -> None:
    from liap_tasks import EmbeddedWorker

    @app.task(name="tests.inner", shared=False)
    def inner() -> None: ...

    @app.task(name="tests.outer", shared=False, bind=True)
    def outer(self: Any, watch: bool) -> tuple[Any, ...]:
        if watch:
            with watched():
                child = inner.delay()
        else:
            child = inner.delay()
        return self.request.id, child.id, [known.id for known in self.request.children]

    with EmbeddedWorker(app, pool="solo"), app.connection_for_read() as connection:
        for watch in (False, True):
            outer.delay(watch)
            first = outcomes.next()
            outer_id, inner_id, children = first.value
            assert outcomes.next().id == inner_id
            assert children == [inner_id]
            assert outer_id == first.id
        del connection


def test_who_watches_publishes_sees_each_of_them(app: LiapApp, settle: Any) -> None:
    after: list[str] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        after.append(headers["id"])

    signals.after_task_publish.connect(note)
    try:
        with watched() as before:
            made = [settle.delay("game-1").id for _ in range(2)]
        made.append(settle.delay("game-1").id)
    finally:
        signals.after_task_publish.disconnect(note)
    assert before == ["tests.settle"] * 2
    assert after == made


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_refused_is_refused_alike(new_app: Callable[..., LiapApp], quick: bool) -> None:
    app = new_app(max_queue_size=1)

    @app.task(name="tests.one", shared=False)
    def one(number: Any) -> None: ...

    def refusals() -> list[tuple[type[BaseException], str]]:
        found = []
        for args, options in (
            ((1, 2), {}),
            ((object(),), {}),
            ((1,), {"priority": 999}),
            (("text",), {"headers": {"bad": object()}}),
        ):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the question
                one.apply_async(args, **options)
            found.append((caught.type, str(caught.value).split(" at 0x")[0]))
        one.delay(1)
        with pytest.raises(QueueFullError) as full:
            one.delay(2)
        return [*found, (full.type, str(full.value))]

    if quick:
        mine = refusals()
    else:
        with watched():
            mine = refusals()
    assert [kind.__name__ for kind, _ in mine] == [
        "TypeError",
        "EncodeError",
        "InvalidArgumentError",
        "InvalidArgumentError",
        "QueueFullError",
    ]


def test_a_refusal_is_counted_once(new_app: Callable[..., LiapApp], stats: Callable[..., Any]) -> None:
    app = new_app(max_queue_size=1)

    @app.task(name="tests.two", shared=False)
    def two() -> None: ...

    two.delay()
    with pytest.raises(QueueFullError):
        two.delay()
    assert stats(app)["refused"] == 1


def test_a_changed_configuration_counts_from_the_next_call(
    app: LiapApp, settle: Any, stats: Callable[..., Any]
) -> None:
    settle.delay("game-1")
    app.conf.task_routes = {"tests.settle": {"queue": "routed"}}
    app.amqp.flush_routes()
    app.amqp.__dict__.pop("router")
    settle.delay("game-1")
    app.conf.update(task_routes={"tests.*": "by_update"})
    settle.delay("game-1")
    assert stats(app)["ready"] == stats(app, "routed")["ready"] == stats(app, "by_update")["ready"] == 1
    app.conf.task_always_eager = True
    assert settle.delay("game-1").state == "SUCCESS"
    app.conf.task_always_eager = False
    settle.delay("game-1")
    assert stats(app, "by_update")["ready"] == 2


def test_a_router_is_asked_for_every_call_and_sees_its_headers(
    app: LiapApp, settle: Any, stats: Callable[..., Any]
) -> None:
    router = ContentRouter(alternate="others")
    router.register_route("blue", "blue", lambda message: message.headers.get("tenant") == "blue")
    router.register_route("urgent", "urgent", lambda message: message.priority == 9)
    assert isinstance(router, Router)
    app.conf.update(task_routes=[router])
    settle.apply_async(("game-1",), headers={"tenant": "blue"})
    settle.apply_async(("game-1",), priority=9)
    settle.delay("game-1")
    assert [stats(app, name)["ready"] for name in ("blue", "urgent", "others")] == [1, 1, 1]


def test_a_router_is_asked_once_for_each_call_whatever_becomes_of_it(app: LiapApp, settle: Any) -> None:
    router = DirectRouter()
    router.register_queue("by_topic", Queue("by_topic", Exchange("topics", type="topic"), routing_key="t"))
    router.register_route("tests.settle", "by_topic")
    app.conf.update(task_routes=[router])
    app.amqp.queues.add(router.declared_queue("by_topic"))
    settle.delay("game-1")
    with pytest.raises(EncodeError):
        settle.delay(object())
    router.register_route("tests.settle", "direct", priority=1)
    settle.delay("game-1")
    with pytest.raises(EncodeError):
        settle.delay(object())
    router.unregister_route("tests.settle")
    with pytest.raises(RoutingError):
        settle.delay("game-1")
    assert router.stats() == {"routed": 4, "unroutable": 1, "by_destination": {"by_topic": 2, "direct": 2}}


def test_calls_go_on_when_the_connection_has_been_replaced(
    app: LiapApp, settle: Any, stats: Callable[..., Any]
) -> None:
    settle.delay("game-1")
    lane = app.lane.channel()
    assert lane is not None
    app.pool.replace(app.pool.acquire(block=True))
    assert not lane.is_open
    settle.delay("game-1")
    assert stats(app)["ready"] == 2


def test_a_forked_child_is_refused_on_the_quick_way_too(app: LiapApp, settle: Any) -> None:
    settle.delay("game-1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            settle.delay("game-1")
        except (BrokerUnavailableError, InvalidArgumentError):
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_results_reach_a_caller_whose_reply_queue_had_gone(app: LiapApp) -> None:
    from liap_tasks import EmbeddedWorker

    @app.task(name="tests.double", shared=False, ignore_result=False)
    def double(number: int) -> int:
        return number * 2

    with EmbeddedWorker(app, pool="solo"):
        assert double.delay(1).get(timeout=10) == 2
        app.backend.result_consumer.stop()  # its queue goes with it
        app.backend.result_consumer._consumer = None
        assert double.delay(2).get(timeout=10) == 4


def nothing() -> None: ...


def test_calls_go_on_when_a_served_broker_has_been_replaced(
    new_app: Callable[..., LiapApp], tmp_path: Path, stats: Callable[..., Any]
) -> None:
    path = str(tmp_path / "b.sock")
    with BrokerThread(path):
        app = new_app(message_queue_url=f"liap-broker://{path}")
        task = app.task(name="over_the_lane", shared=False)(nothing)
        task.delay()
        assert app.lane.channel() is not None
    with BrokerThread(path):
        task.delay()
        assert stats(app)["ready"] == 1
        app.close()


def test_a_result_goes_out_when_a_served_broker_has_been_replaced(
    new_app: Callable[..., LiapApp], tmp_path: Path, stats: Callable[..., Any]
) -> None:
    path = str(tmp_path / "b.sock")
    request = Context(reply_to="replies", correlation_id="call")
    with BrokerThread(path):
        app = new_app(message_queue_url=f"liap-broker://{path}")
        app.backend.store_result("call", 1, "SUCCESS", request=request)
        assert app.lane.channel() is not None
    with BrokerThread(path):
        with app.connection_for_write() as connection:
            connection.default_channel.queue_declare("replies", auto_delete=False)
        app.backend.store_result("call", 2, "SUCCESS", request=request)
        assert stats(app, "replies")["ready"] == 1
        app.close()
