"""Tasks on kombu's own redis transport: what is promised on every broker holds there, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from liap_tasks import DeliveryOptions, EmbeddedWorker, LiapApp, MessagePriority
from tests.liap_tasks.conftest import Outcomes


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
