"""The same tasks on a live RabbitMQ: dead letters of both kinds, a full queue, an embedded and a prefork worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery.events.event import get_exchange
from kombu import Queue

from liap_tasks import (
    DeadLetterReason,
    DeliveryOptions,
    EmbeddedWorker,
    EmbeddedWorkerError,
    EventExchange,
    LiapApp,
    MessagePriority,
    QueueFullError,
    RetryPolicy,
    configuration,
    dead_letters,
)
from liap_tasks.messaging import Message, MessageQueue
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from transports import BrokerUnavailableError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rabbit(new_app: Callable[..., LiapApp], rabbitmq_url: str) -> Callable[..., LiapApp]:
    """Make an app on RabbitMQ whose queues are new."""

    def make(**settings: Any) -> LiapApp:
        app = new_app(message_queue_url=rabbitmq_url, **settings)
        with app.connection_for_write() as connection, connection.channel() as channel:
            for queue in (configuration.DEFAULT_QUEUE, configuration.DEAD_LETTER_QUEUE):
                channel.queue_delete(queue)
        return app

    return make


def test_an_embedded_worker_retries_and_dead_letters(rabbit: Callable[..., LiapApp], outcomes: Outcomes) -> None:
    app = rabbit()
    policy = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)

    @app.task(shared=False, name="tests.fails", retry_policy=policy)
    def fails(room: str) -> None:
        raise OSError("x" * 100_000)

    with EmbeddedWorker(app):
        sent = fails.apply_async(("r1",), delivery=DeliveryOptions(correlation_id="game-7"))
        assert outcomes.states(2) == ["RETRY", "FAILURE"]

    for _ in range(2):  # looking leaves it there
        (letter,) = dead_letters.peek(app)
        assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
        assert (letter.id, letter.args, letter.correlation_id) == (sent.id, ("r1",), "game-7")
        assert letter.queue == configuration.DEFAULT_QUEUE
        assert [attempt.number for attempt in letter.attempts] == [1, 2]


def test_an_embedded_worker_with_the_solo_pool_retries_one_by_one(
    rabbit: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    app = rabbit()
    policy = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)
    alone = threading.Lock()

    @app.task(shared=False, bind=True, name="tests.needs_a_second_try", retry_policy=policy)
    def needs_a_second_try(self: Any) -> None:
        assert alone.acquire(blocking=False)
        try:
            threading.Event().wait(0.1)  # the retry of another is due meanwhile
            if self.attempt == 1:
                raise OSError
        finally:
            alone.release()

    with EmbeddedWorker(app, pool="solo"):
        for _ in range(3):
            needs_a_second_try.delay()
        states = outcomes.states(6)
    assert (states.count("RETRY"), states.count("SUCCESS")) == (3, 3)


def test_a_worker_whose_channel_the_broker_closes_consumes_again(
    rabbit: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    app = rabbit()

    @app.task(shared=False, bind=True, name="tests.is_refused")
    def is_refused(self: Any, closes: bool) -> None:
        if closes and not self.request.delivery_info["redelivered"]:  # as RabbitMQ does when it has waited too long
            worker._controller.consumer.task_consumer.channel.basic_ack(12_345)

    with EmbeddedWorker(app, pool="solo") as worker:
        first = is_refused.delay(True).id
        assert [outcomes.next().id for _ in range(2)] == [first, first]
        assert is_refused.delay(False).id == outcomes.next().id


def test_the_broker_s_own_dead_letters_are_read_too(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()

    @app.task(shared=False, name="tests.late")
    def late() -> None: ...

    sent = late.apply_async(delivery=DeliveryOptions(ttl=0))
    with app.connection_for_read() as connection, connection.channel() as channel:
        # RabbitMQ moves an expired message when it reaches the head; the dead letter arrives a moment later.
        queue = dead_letters.dead_letter_queue().bind(channel)
        arrived: list[Any] = []
        consumer = connection.Consumer([queue], channel=channel, on_message=arrived.append)
        with consumer:
            while not arrived:
                connection.drain_events(timeout=DEADLINE)
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.id) == (DeadLetterReason.EXPIRED, sent.id)
    assert letter.queue == configuration.DEFAULT_QUEUE
    assert letter.at is not None


@pytest.mark.parametrize("options", [{}, {"client_properties": {"product": "game"}}])
def test_a_full_queue_is_known_to_the_publisher(rabbit: Callable[..., LiapApp], options: dict[str, Any]) -> None:
    app = rabbit(max_queue_size=1)
    app.conf.broker_transport_options = options  # a program's own take none of ours away

    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    noop.delay()
    with pytest.raises(QueueFullError) as refused:
        noop.apply_async(retry=False)
    assert (refused.value.queue, refused.value.max_length) == (configuration.DEFAULT_QUEUE, 1)


def test_the_most_urgent_message_is_delivered_first(rabbit: Callable[..., LiapApp], outcomes: Outcomes) -> None:
    app = rabbit()

    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    sent = {level: noop.apply_async(delivery=DeliveryOptions(priority=level)).id for level in MessagePriority}
    with EmbeddedWorker(app, pool="solo"):
        order = [outcomes.next().id for _ in sent]
    assert order == [sent[level] for level in sorted(MessagePriority, reverse=True)]


PREFORK_APP = """
from celery.exceptions import SoftTimeLimitExceeded
from liap_tasks import RetryPolicy, create_app

app = create_app(main="prefork")
never = RetryPolicy(max_retries=0)

@app.task(name="prefork.calls", retry_policy=never)
def calls():
    # A task that publishes, from a forked child.
    fails.delay("from a child")

@app.task(name="prefork.fails", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False))
def fails(text):
    raise ValueError(text)

@app.task(name="prefork.overruns", retry_policy=never, timeout=0.2)
def overruns():
    while True:
        pass
"""


def test_a_prefork_worker_dead_letters_from_its_children(
    rabbit: Callable[..., LiapApp], rabbitmq_url: str, tmp_path: Path
) -> None:
    app = rabbit()
    (tmp_path / "prefork.py").write_text(PREFORK_APP)
    app.send_task("prefork.calls")
    app.send_task("prefork.overruns")
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "prefork", "worker", "-P", "prefork", "-c", "2", "-l", "INFO"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "MESSAGE_QUEUE_URL": rabbitmq_url, "PYTHONWARNINGS": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            with app.connection_for_read() as connection, connection.channel() as channel:
                queue = dead_letters.dead_letter_queue().bind(channel)
                queue.declare()
                arrived: list[Any] = []
                with connection.Consumer([queue], channel=channel, on_message=arrived.append):
                    while len(arrived) < 2:
                        connection.drain_events(timeout=3 * DEADLINE)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(3 * DEADLINE) == 0
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
    assert "SoftTimeLimitExceeded" in log.read_text()
    letters = {letter.task: letter for letter in dead_letters.peek(app)}
    assert letters["prefork.overruns"].reason is DeadLetterReason.TIMED_OUT
    assert letters["prefork.fails"].reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert letters["prefork.fails"].args == ("from a child",)
    assert len(letters["prefork.fails"].attempts) == 2


def test_a_dead_letter_queue_deleted_on_rabbitmq_is_there_again(
    rabbit: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    app = rabbit()

    @app.task(shared=False, name="tests.after_a_clean_up", retry_policy=RetryPolicy(max_retries=0))
    def after_a_clean_up() -> None:
        raise OSError

    with EmbeddedWorker(app, pool="solo"):
        after_a_clean_up.delay()
        outcomes.states(1)
        with app.connection_for_write() as connection, connection.channel() as channel:
            channel.queue_delete(configuration.DEAD_LETTER_QUEUE)
        after_a_clean_up.delay()
        assert outcomes.states(1) == ["FAILURE"]
    assert dead_letters.count(app) == 1


def test_an_event_with_an_ordering_key_is_retried_where_keys_mean_nothing(
    rabbit: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    app = rabbit()
    policy = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)
    events = EventExchange(app, f"tests.keys.{uuid4().hex}")

    @app.task(shared=False, bind=True, name="tests.hears", retry_policy=policy)
    def hears(self: Any, event: dict[str, Any]) -> None:
        if self.attempt == 1:
            raise OSError("again")

    events.subscribe("room.#", "tests.hears")
    with EmbeddedWorker(app):
        events.publish("room.moved", {}, ordering_key="r1")
        assert sorted(outcomes.states(2)) == ["RETRY", "SUCCESS"]  # the second attempt may be told of first


def test_a_subscriber_s_full_queue_is_known_to_the_publisher_of_an_event(
    new_app: Callable[..., LiapApp], rabbitmq_virtual_host: str
) -> None:
    app = new_app(message_queue_url=rabbitmq_virtual_host, max_queue_size=1)
    events = EventExchange(app, "tests.full")
    events.subscribe("room.#", "tests.hears", queue="hears")
    events.publish("room.moved", {})
    with pytest.raises(QueueFullError) as refused:
        events.publish("room.moved", {})
    assert (refused.value.queue, refused.value.max_length) == ("hears", 1)
    with pytest.raises(QueueFullError):
        asyncio.run(events.apublish("room.moved", {}))
    with pytest.raises(QueueFullError):
        events.send_to("tests.hears", "room.moved", {}, event_id="1")


@pytest.mark.parametrize(("given", "wrong"), [(":guest@", ":wrong@"), ("//", "/nowhere")])
def test_a_broker_that_lets_nobody_in_is_unavailable(
    new_app: Callable[..., LiapApp], rabbitmq_url: str, given: str, wrong: str
) -> None:
    before, _, after = rabbitmq_url.rpartition(given)
    app = new_app(message_queue_url=f"{before}{wrong}{after}")

    @app.task(shared=False, name="tests.answered", ignore_result=False, fallback=lambda: "fallback")
    def answered() -> str:
        return "worker"

    async def use() -> None:
        assert await answered.call(timeout=DEADLINE) == "fallback"
        for call in (answered.adelay(), MessageQueue("tests", url=app.conf.broker_url).enqueue(Message(1))):
            with pytest.raises(BrokerUnavailableError, match=r"403|530"):
                await call

    asyncio.run(use())
    with pytest.raises(EmbeddedWorkerError, match=r"403|530"):
        EmbeddedWorker(app).start(timeout=3)


def test_events_for_monitors_wait_for_no_confirmation(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    with app.connection_for_write() as connection:
        assert connection.transport_options == {"confirm_publish": True}  # as calls and dead letters have it
        connection.ensure_connection()
        heard = Queue(exchange=get_exchange(connection), routing_key="#", exclusive=True)
        bound = heard.bind(connection.channel())
        bound.declare()
        with app.connection_for_write() as own:
            own.ensure_connection()
            with app.events.Dispatcher(own, "worker-1") as dispatcher:
                dispatcher.send("worker-heartbeat")
                assert not own.connection.confirm_publish
                with pytest.raises(TimeoutError):  # the worker's loop looks for heartbeats there; none waits
                    own.drain_events(timeout=2 * DEADLINE)
        with app.events.default_dispatcher("worker-2") as dispatcher:
            dispatcher.send("worker-heartbeat")
            assert dispatcher.connection.connection.confirm_publish  # the pool's, which others use too
        names = []
        while len(names) < 2:
            message = bound.get(no_ack=True)
            names += [] if message is None else [message.headers["hostname"]]
    assert sorted(names) == ["worker-1", "worker-2"]
