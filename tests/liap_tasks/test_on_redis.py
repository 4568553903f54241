"""Tasks on kombu's own redis transport: what is promised on every broker holds there, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from liap_tasks import DeliveryOptions, EmbeddedWorker, LiapApp, MessagePriority
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.servers.programs import REDIS, find_program
from tests.servers.redis import redis


@pytest.fixture
def redis_app(new_app: Callable[..., LiapApp], redis_url: str) -> Iterator[LiapApp]:
    app = new_app(message_queue_url=redis_url)
    queue = app.conf.task_default_queue = app.conf.task_default_routing_key = f"tests-{uuid4().hex}"
    yield app
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(queue)


@pytest.mark.parametrize("options", [{}, {"visibility_timeout": 7200}])
def test_the_most_urgent_message_is_delivered_first(
    redis_app: LiapApp, outcomes: Outcomes, options: dict[str, int]
) -> None:
    redis_app.conf.broker_transport_options = options  # a program's own take none of ours away

    @redis_app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    sent = {level: noop.apply_async(delivery=DeliveryOptions(priority=level)).id for level in MessagePriority}
    with EmbeddedWorker(redis_app, pool="solo", queues=[redis_app.conf.task_default_queue]):
        order = [outcomes.next().id for _ in sent]
    assert order == [sent[level] for level in sorted(MessagePriority, reverse=True)]


def test_a_worker_that_holds_messages_lives_on_when_redis_goes_away(
    new_app: Callable[..., LiapApp], caplog: pytest.LogCaptureFixture
) -> None:
    program = find_program(REDIS)
    if program is None:
        pytest.skip(REDIS.how_to_get)
    with redis(program) as url:
        app = new_app(message_queue_url=url)
        begun, ends = threading.Event(), threading.Event()

        @app.task(shared=False, name="tests.holds")
        def holds() -> None:
            begun.set()
            ends.wait(DEADLINE)

        worker = EmbeddedWorker(app).start()
        holds.delay()
        assert begun.wait(DEADLINE)
    deadline = time.monotonic() + DEADLINE
    while "cannot be reached" not in caplog.text:
        assert worker.running
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    ends.set()
    worker.stop(3 * DEADLINE)
