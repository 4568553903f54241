"""Messages that come back too often (RabbitMQ docs: Quorum Queues, Poison Message Handling)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("delivery_limit")


def limited(driver: Driver, limit: int, **arguments: Any) -> Any:
    options = driver.delivery_limit(limit)
    options["queue_arguments"].update(arguments)
    return driver.queue("q", **options)


def test_a_message_may_come_back_as_often_as_the_limit_says(driver: Driver) -> None:
    queue = limited(driver, 2)
    driver.publish("m", queue)

    for _ in range(2):
        driver.take(queue).requeue()

    assert driver.take(queue).payload == "m"


def test_a_message_that_comes_back_once_more_is_dropped(driver: Driver) -> None:
    queue = limited(driver, 2)
    driver.publish_all(["poison", "good"], queue)

    for left in (2, 2, 1):
        message = driver.take(queue)
        assert message.payload == "poison"
        message.requeue()
        driver.wait_for_count(queue, left)

    assert driver.take(queue).payload == "good"


def test_a_poison_message_is_dead_lettered_with_its_reason(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = limited(driver, 0, **arguments)
    driver.publish("m", queue)

    driver.take(queue).requeue()

    message = driver.take(dead)
    (death,) = message.headers["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("delivery_limit", queue.name, 1)
    assert message.headers["x-first-death-reason"] == "delivery_limit"


def test_a_lost_consumer_counts_as_coming_back(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = limited(driver, 1, **arguments)
    driver.publish("m", queue)

    for _ in range(2):
        connection = driver.connect()
        driver.take(queue, channel=connection.channel())
        driver.close_connection(connection)

    assert driver.take(dead).headers["x-death"][0]["reason"] == "delivery_limit"


def test_a_delivery_tells_how_often_the_message_came_back(driver: Driver) -> None:
    queue = limited(driver, 5)
    driver.publish("m", queue, headers={"mine": 1})
    seen = []

    inbox = driver.consume(queue)

    for _ in range(3):
        (message,) = inbox.receive(1)
        seen.append(message.headers)
        message.requeue()

    assert seen == [{"mine": 1}, {"mine": 1, "x-delivery-count": 1}, {"mine": 1, "x-delivery-count": 2}]


def test_rejecting_for_good_does_not_wait_for_the_limit(driver: Driver, dead_letters: Callable[..., Any]) -> None:
    dead, arguments = dead_letters()
    queue = limited(driver, 5, **arguments)
    driver.publish("m", queue)

    driver.take(queue).reject()

    assert driver.take(dead).headers["x-death"][0]["reason"] == "rejected"
