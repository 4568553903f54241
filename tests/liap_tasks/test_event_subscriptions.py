"""What a subscription may ask for: headers, filters, a shared queue, to begin while workers run, to end."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import Reject
from kombu import Queue

from liap_tasks import DeadLetterReason, EmbeddedWorker, EventExchange, LiapApp, RetryPolicy, dead_letters
from liap_tasks.worker.consumer import LiapConsumer
from tests.liap_tasks.conftest import DEADLINE, Outcomes, wait_until

Stats = Callable[..., dict[str, float]]


class Listeners:
    """Tasks that note what they get."""

    def __init__(self, app: LiapApp) -> None:
        self.app = app
        self.events = EventExchange(app, "listened")
        self.got: list[tuple[str, Any]] = []

    def add(
        self, name: str, pattern: str = "#", fails: int = 0, policy: RetryPolicy | None = None, **rule: Any
    ) -> None:
        left = [fails]

        @self.app.task(shared=False, name=name, retry_policy=policy or RetryPolicy(max_retries=0))
        def listen(body: dict[str, Any]) -> None:
            self.got.append((name, body.get("n")))
            if left[0]:
                left[0] -= 1
                raise OSError(name)

        self.events.subscribe(pattern, name, **rule)

    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.got)


@contextmanager
def untold_worker(app: LiapApp) -> Iterator[None]:
    """Run a worker that the app tells nothing: one of Celery's own program, say, in this process."""
    with EmbeddedWorker(app, pool="solo") as worker:
        app.embedded_workers.remove(worker)
        yield


@pytest.fixture
def listeners(app: LiapApp) -> Listeners:
    return Listeners(app)


@pytest.fixture(params=["liap-memory", "amqp"])
def any_listeners(request: pytest.FixtureRequest, new_app: Callable[..., LiapApp]) -> Listeners:
    if request.param == "amqp":
        return Listeners(new_app(message_queue_url=request.getfixturevalue("rabbitmq_url")))
    return Listeners(new_app())


def test_the_broker_delivers_only_events_with_the_headers_asked_for(
    any_listeners: Listeners, outcomes: Outcomes
) -> None:
    listeners = any_listeners
    listeners.add("tests.room_1", "game.*", match={"room": "r1"})
    listeners.add("tests.rooms")
    with EmbeddedWorker(listeners.app, queues=["tests.room_1", "tests.rooms"]):
        for number, (key, room) in enumerate([("game.a", "r1"), ("game.a", "r2"), ("room.a", "r1"), ("game.b", "r1")]):
            listeners.events.publish(key, {"n": number}, headers={"room": room})
        outcomes.states(6)
    assert sorted(number for name, number in listeners.got if name == "tests.room_1") == [0, 3]
    assert listeners.names()["tests.rooms"] == 4
    assert listeners.events.subscribers("game.a", {"room": "r1"}) == ["tests.room_1", "tests.rooms"]
    assert listeners.events.subscribers("game.a", {"room": "r2"}) == ["tests.rooms"]


def test_an_event_not_asked_for_never_enters_the_queue(listeners: Listeners, stats: Stats) -> None:
    listeners.add("tests.room_1", "game.*", match={"room": "r1"})
    listeners.events.publish("game.a", {}, headers={"room": "r2"})
    listeners.events.publish("game.a", {})
    assert stats(listeners.app, "tests.room_1")["enqueued"] == 0


def test_a_shared_queue_holds_one_message_and_each_subscriber_gets_it(
    listeners: Listeners, outcomes: Outcomes, stats: Stats
) -> None:
    for name in ("tests.a", "tests.b", "tests.c"):
        listeners.add(name, "game.*", queue="tests.shared")
    listeners.add("tests.d", "room.*", queue="tests.shared")
    listeners.events.publish("game.a", {"n": 1})
    assert stats(listeners.app, "tests.shared")["ready"] == 1
    with EmbeddedWorker(listeners.app):
        ended = [outcomes.next() for _ in range(3)]
    assert listeners.names() == {"tests.a": 1, "tests.b": 1, "tests.c": 1}
    assert len({outcome.id for outcome in ended}) == 3
    numbers = stats(listeners.app, "tests.shared")
    assert (numbers["acknowledged"], numbers["ready"], numbers["unacked"]) == (1, 0, 0)


def test_a_failing_subscriber_of_a_shared_queue_is_retried_alone(listeners: Listeners, outcomes: Outcomes) -> None:
    policy = RetryPolicy(max_retries=1, initial_delay=0.001)
    listeners.add("tests.shaky", queue="tests.shared", fails=1, policy=policy)
    listeners.add("tests.broken", queue="tests.shared", fails=9)
    listeners.add("tests.steady", queue="tests.shared")
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        outcomes.states(4)
    assert listeners.names() == {"tests.shaky": 2, "tests.broken": 1, "tests.steady": 1}
    (letter,) = dead_letters.peek(listeners.app)
    assert (letter.task, letter.queue) == ("tests.broken", "tests.shared")


def test_a_shared_message_goes_back_whole_when_one_copy_does(
    listeners: Listeners, outcomes: Outcomes, stats: Stats
) -> None:
    listeners.add("tests.done", queue="tests.shared")
    running, go_on = threading.Event(), threading.Event()

    @listeners.app.task(shared=False, name="tests.stopped")
    def stopped(body: dict[str, Any]) -> None:
        running.set()
        go_on.wait(10)

    @listeners.app.task(shared=False, name="tests.waits")
    def waits(body: dict[str, Any]) -> None: ...

    listeners.events.subscribe("#", "tests.stopped", queue="tests.shared")
    listeners.events.subscribe("#", "tests.waits", queue="tests.shared")
    worker = EmbeddedWorker(listeners.app, concurrency=1).start()
    listeners.events.publish("game.a", {"n": 1})
    assert running.wait(10)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    while not worker._stopping.is_set():
        threading.Event().wait(0.001)
    go_on.set()
    stopping.join()
    assert stats(listeners.app, "tests.shared")["ready"] == 1


def test_a_subscriber_of_a_shared_queue_may_reject_its_copy(
    listeners: Listeners, outcomes: Outcomes, stats: Stats
) -> None:
    @listeners.app.task(shared=False, name="tests.rejects")
    def rejects(body: dict[str, Any]) -> None:
        raise Reject("no", requeue=False)

    listeners.events.subscribe("#", "tests.rejects", queue="tests.shared")
    listeners.add("tests.steady", queue="tests.shared")
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        outcomes.states(2)
    (letter,) = dead_letters.peek(listeners.app)
    assert (letter.reason, letter.task) == (DeadLetterReason.REJECTED, "tests.rejects")
    assert letter.args == ({"n": 1},)
    assert stats(listeners.app, "tests.shared")["acknowledged"] == 1


def test_a_filter_is_asked_in_the_worker(listeners: Listeners, outcomes: Outcomes, stats: Stats) -> None:
    listeners.add("tests.even", filter=lambda body: body["n"] % 2 == 0)
    listeners.add("tests.all")
    with EmbeddedWorker(listeners.app):
        for number in range(4):
            listeners.events.publish("game.a", {"n": number})
        outcomes.states(6)
    assert sorted(number for name, number in listeners.got if name == "tests.even") == [0, 2]
    assert stats(listeners.app, "tests.even")["acknowledged"] == 4


@pytest.mark.parametrize("eager", [False, True])
def test_any_rule_of_a_task_may_let_an_event_pass(listeners: Listeners, outcomes: Outcomes, eager: bool) -> None:
    listeners.app.conf.task_always_eager = eager
    listeners.add("tests.choosy", "game.*", filter=lambda body: False)
    listeners.events.subscribe("game.started", "tests.choosy")
    listeners.events.subscribe("#", "tests.choosy", filter=lambda body: body["n"] == 7)
    with EmbeddedWorker(listeners.app):
        for number, key in enumerate(["game.started", "game.ended", "room.left"], start=5):
            listeners.events.publish(key, {"n": number})
        outcomes.states(2)
    assert sorted(listeners.got) == [("tests.choosy", 5), ("tests.choosy", 7)]


def test_a_task_with_several_queues_gets_an_event_once(listeners: Listeners, outcomes: Outcomes, stats: Stats) -> None:
    listeners.add("tests.twice", "game.*", queue="tests.first")
    listeners.events.subscribe("#", "tests.twice", queue="tests.second")
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        listeners.events.publish("room.a", {"n": 2})
        outcomes.states(2)
    assert sorted(listeners.got) == [("tests.twice", 1), ("tests.twice", 2)]
    assert stats(listeners.app, "tests.second")["acknowledged"] == 2


def test_an_event_that_another_program_s_subscriber_wants_is_kept(
    new_app: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    url = f"liap-memory:///{uuid4().hex}"
    old, new = (Listeners(new_app(message_queue_url=url)) for _ in range(2))
    old.add("tests.scores", "game.ended")
    new.add("tests.scores", "game.ended")
    new.events.subscribe("game.started", "tests.scores")
    new.events.declare()
    with EmbeddedWorker(old.app):
        new.events.publish("game.started", {"n": 1})
        new.events.publish("game.ended", {"n": 2})
        outcomes.states(1)
    (letter,) = dead_letters.peek(old.app)
    assert (letter.reason, letter.queue) == (DeadLetterReason.NO_HANDLER, "tests.scores")
    assert "no subscriber known here has asked for event 'game.started' of exchange 'listened'" in letter.detail
    assert old.got == [("tests.scores", 2)]


def test_a_filter_that_fails_lets_the_event_pass(listeners: Listeners, outcomes: Outcomes) -> None:
    listeners.add("tests.careful", filter=lambda body: body["no such field"])
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        assert outcomes.next().state == "SUCCESS"


def test_a_subscriber_added_while_a_worker_runs_is_served_by_it(listeners: Listeners, outcomes: Outcomes) -> None:
    listeners.add("tests.early")
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        assert outcomes.next().task == "tests.early"
        listeners.add("tests.late")
        listeners.add("tests.joins", queue="tests.early")
        listeners.events.publish("game.a", {"n": 2})
        outcomes.states(3)
    assert listeners.names() == {"tests.early": 2, "tests.late": 1, "tests.joins": 1}


def test_an_unsubscribed_task_gets_no_more_events(any_listeners: Listeners, outcomes: Outcomes) -> None:
    listeners = any_listeners
    listeners.add("tests.leaves", "game.*", match={"room": "r1"})
    listeners.add("tests.stays", "game.*")
    with EmbeddedWorker(listeners.app, queues=["tests.leaves", "tests.stays"]):
        listeners.events.publish("game.a", {"n": 1}, headers={"room": "r1"})
        outcomes.states(2)
        listeners.events.unsubscribe("tests.leaves")
        listeners.events.publish("game.a", {"n": 2}, headers={"room": "r1"})
        assert outcomes.next().task == "tests.stays"
        with listeners.app.connection_for_read() as connection, connection.channel() as channel:
            assert channel.queue_declare("tests.leaves", passive=True).message_count == 0
    assert listeners.names() == {"tests.leaves": 1, "tests.stays": 2}


@pytest.fixture
def narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers take no more messages at once for the batch tasks that other tests' programs share."""
    monkeypatch.setattr("liap_tasks.worker.consumer.window_of", lambda tasks: 0)


def subscribe_slow(listeners: Listeners) -> tuple[threading.Semaphore, threading.Event]:
    """Subscribe ``tests.slow`` to everything; return what it releases when it begins, and what it waits for."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    @listeners.app.task(shared=False, name="tests.slow")
    def slow(body: dict[str, Any]) -> None:
        begun.release()
        go_on.wait(DEADLINE)

    listeners.events.subscribe("#", "tests.slow")
    return begun, go_on


@pytest.mark.usefixtures("narrow_window")
def test_what_waits_for_a_task_that_unsubscribes_stays_in_its_queue(
    listeners: Listeners, outcomes: Outcomes, stats: Stats
) -> None:
    begun, go_on = subscribe_slow(listeners)
    listeners.add("tests.stays")
    with EmbeddedWorker(listeners.app, concurrency=2):
        for number in range(40):
            listeners.events.publish("game.a", {"n": number})
        assert begun.acquire(timeout=DEADLINE)
        listeners.events.unsubscribe("tests.slow")
        listeners.events.publish("game.b", {"n": 40})
        go_on.set()
        told = 0
        while listeners.names()["tests.stays"] < 41:
            told += len(outcomes.states(1))
    numbers = stats(listeners.app, "tests.slow")
    outcomes.states(41 + int(numbers["acknowledged"]) - told)
    assert numbers["ready"] + numbers["acknowledged"] == 40
    assert numbers["ready"] > 0
    assert dead_letters.peek(listeners.app) == []
    go_on.set()
    listeners.events.subscribe("#", "tests.slow")
    with EmbeddedWorker(listeners.app):
        wait_until(lambda: stats(listeners.app, "tests.slow")["acknowledged"] == 40)


@pytest.mark.usefixtures("narrow_window")
def test_what_arrives_while_a_task_unsubscribes_stays_in_its_queue(
    listeners: Listeners, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers() -> dict[str, float]:
        return stats(listeners.app, "tests.slow")

    def unbinding(name: str) -> Queue:
        go_on.set()
        wait_until(lambda: numbers()["unacked"] == 0)
        return missing_queue(name)

    missing_queue = listeners.app.missing_queue
    begun, go_on = subscribe_slow(listeners)
    with EmbeddedWorker(listeners.app, concurrency=2):
        for number in range(40):
            listeners.events.publish("game.a", {"n": number})
        assert begun.acquire(timeout=DEADLINE)
        monkeypatch.setattr(listeners.app, "missing_queue", unbinding)
        listeners.events.unsubscribe("tests.slow")
    assert dead_letters.peek(listeners.app) == []
    assert numbers()["ready"] > 0
    assert numbers()["ready"] + numbers()["acknowledged"] == 40


def test_a_worker_goes_on_when_somebody_subscribes_while_it_takes_up_the_queues(
    listeners: Listeners, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_queue = LiapConsumer.add_task_queue

    def subscribe_another(consumer: LiapConsumer, queue: str) -> Any:
        if queue == "tests.late":
            listeners.add("tests.later")
        return add_queue(consumer, queue)

    monkeypatch.setattr(LiapConsumer, "add_task_queue", subscribe_another)
    with untold_worker(listeners.app):
        listeners.add("tests.late")
        for number in range(2):  # the first one makes the worker look
            listeners.app.tasks["tests.late"].delay({"n": number})
            assert outcomes.next().state == "SUCCESS"

    assert listeners.names() == {"tests.late": 2}


def test_a_worker_that_nobody_tells_of_it_leaves_what_waits_there_too(
    listeners: Listeners, outcomes: Outcomes, stats: Stats
) -> None:
    @listeners.app.task(shared=False, name="tests.leaves")
    def leaves(body: dict[str, Any]) -> None:
        listeners.events.unsubscribe("tests.leaves")

    @listeners.app.task(shared=False, name="tests.work")
    def work() -> None: ...

    listeners.events.subscribe("#", "tests.leaves")
    for number in range(3):
        listeners.events.publish("game.a", {"n": number})
    with untold_worker(listeners.app):
        assert outcomes.next().task == "tests.leaves"
        for _ in range(5):  # meanwhile it could have delivered the others again and again
            work.delay()
            assert outcomes.next().task == "tests.work"

    assert stats(listeners.app, "tests.leaves")["ready"] == 2
    assert dead_letters.peek(listeners.app) == []


def test_a_queue_that_serves_other_things_is_still_consumed_when_its_subscribers_leave(
    listeners: Listeners, outcomes: Outcomes
) -> None:
    @listeners.app.task(shared=False, name="tests.work")
    def work() -> None: ...

    default = listeners.app.conf.task_default_queue
    listeners.add("tests.leaves", queue=default)
    with EmbeddedWorker(listeners.app):
        listeners.events.publish("game.a", {"n": 1})
        assert outcomes.next().task == "tests.leaves"
        listeners.events.unsubscribe("tests.leaves")
        work.delay()
        assert outcomes.next().task == "tests.work"


def test_a_subscriber_added_while_the_queues_are_made_is_bound(
    listeners: Listeners, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners.add("tests.early")
    missing_queue, making = listeners.app.missing_queue, threading.Event()
    adding = threading.Thread(target=listeners.add, args=("tests.late",))

    def slowly(name: str) -> Any:
        if not making.is_set():
            making.set()
            adding.start()
            adding.join(0.2)  # it must wait until this is done
        return missing_queue(name)

    monkeypatch.setattr(listeners.app, "missing_queue", slowly)
    listeners.events.publish("game.a", {"n": 1})
    adding.join(DEADLINE)
    listeners.events.publish("game.a", {"n": 2})
    with EmbeddedWorker(listeners.app):
        while ("tests.late", 2) not in listeners.got:
            outcomes.next()


def test_a_coroutine_publishes_without_blocking(listeners: Listeners, outcomes: Outcomes) -> None:
    listeners.add("tests.all")

    async def backend() -> None:
        await asyncio.gather(*(listeners.events.apublish("game.a", {"n": number}) for number in range(20)))

    with EmbeddedWorker(listeners.app):
        asyncio.run(backend())
        outcomes.states(20)
    assert listeners.names() == {"tests.all": 20}


def test_eager_mode_honours_headers_and_filters(listeners: Listeners) -> None:
    listeners.app.conf.task_always_eager = True
    listeners.add("tests.room_1", match={"room": "r1"})
    listeners.add("tests.even", filter=lambda body: body["n"] % 2 == 0)
    listeners.events.publish("game.a", {"n": 1}, headers={"room": "r1"})
    listeners.events.publish("game.a", {"n": 2}, headers={"room": "r2"})
    asyncio.run(listeners.events.apublish("game.a", {"n": 3}))
    assert listeners.got == [("tests.room_1", 1), ("tests.even", 2)]


def test_eager_mode_lets_an_event_pass_whose_filter_fails(listeners: Listeners) -> None:
    listeners.app.conf.task_always_eager = True
    listeners.add("tests.careful", filter=lambda body: body["no such field"])
    listeners.add("tests.all")
    listeners.events.publish("game.a", {"n": 1})
    assert listeners.got == [("tests.careful", 1), ("tests.all", 1)]


def test_eager_mode_keeps_the_order_of_events_that_subscribers_publish(listeners: Listeners) -> None:
    listeners.app.conf.task_always_eager = True

    @listeners.app.task(shared=False, name="tests.goes_on")
    def goes_on(body: dict[str, Any]) -> None:
        if body["n"] < 3:
            listeners.events.publish("game.a", {"n": body["n"] + 1})

    listeners.events.subscribe("#", "tests.goes_on")
    listeners.add("tests.listens")
    listeners.events.publish("game.a", {"n": 0})
    assert listeners.got == [("tests.listens", number) for number in range(4)]
