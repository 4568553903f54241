"""An app on RabbitMQ whose queues are new."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from liap_tasks import LiapApp, configuration


@pytest.fixture
def rabbit_app(new_app: Callable[..., LiapApp], rabbitmq_url: str) -> Iterator[LiapApp]:
    app = new_app(message_queue_url=rabbitmq_url)
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in (configuration.DEFAULT_QUEUE, configuration.DEAD_LETTER_QUEUE):
            channel.queue_delete(queue)
    yield app
    consumer = app.backend.result_consumer
    if consumer._consumer is not None:  # a test has waited for results
        consumer.stop()
